"""What the heads of a language model write, from weights alone: OV eigenvalues and copying along the direct path.

Elhage et al. 2021 (eigenvalue score) and Olsson et al. 2022 (copying score on samples of 25 random tokens). A head
reads the embedding of a token through its layer's norm and writes to the logits through the final norm's gain; MLPs are
left out, as in the papers. With all tokens at once copying would be an artefact of rank: a head cannot single out many
more tokens than it has dimensions. Eigenvalues are those of the OV circuit on disjoint random parts of the vocabulary.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.interp.decoder import Decoder
from common.interp.head_scores import copying, eigenvalue_score

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

SAMPLES = 20  # of tokens; intervals are over them
SAMPLE = 25  # tokens of the copying score, as in the paper
PART = 500  # tokens of the eigenvalue score, many more than a head has dimensions

Scores = Float[Tensor, "sample layer head"]


def writing_scores(decoder: Decoder, known: Int[Tensor, " known"]) -> dict[str, Scores]:
    """Eigenvalue score and copying score of every head, on samples of the tokens in `known`."""
    generator = torch.Generator().manual_seed(0)
    order = known[torch.randperm(len(known), generator=generator)]
    parts = order[: SAMPLES * PART].chunk(SAMPLES)
    found: dict[str, list[Tensor]] = {"ov_eigenvalues": [], "copying": []}
    with torch.no_grad():
        for part in parts:
            ov = [ov_factors(decoder, layer, part) for layer in range(decoder.n_layers)]
            found["ov_eigenvalues"].append(torch.stack([eigenvalue_score(*factors) for factors in ov]))
            few = [left[:, :SAMPLE] @ right[..., :SAMPLE] for left, right in ov]
            found["copying"].append(torch.stack([copying(contribution) for contribution in few]))
    return {name: torch.stack(values).double().cpu() for name, values in found.items()}


def ov_factors(
    decoder: Decoder, layer: int, ids: Int[Tensor, " token"]
) -> tuple[Float[Tensor, "head token d_head"], Float[Tensor, "head d_head token"]]:
    """Two factors of the OV circuit of every head; their product at [a, b] is what attending to token a adds to the
    logit of token b, but for the scale of the final norm."""
    ids = ids.to(decoder.W_O[layer].device)
    read = decoder.norm(layer, 0, decoder.bridge.W_E[ids])
    W_V = decoder.W_V[layer]
    W_V = W_V.repeat_interleave(decoder.n_heads // len(W_V), 0)
    return read @ W_V, decoder.W_O[layer] @ final_read(decoder.bridge)[:, ids]


def final_read(bridge: "TransformerBridge") -> Float[Tensor, "d_model d_vocab"]:
    """The unembedding with the final norm's gain and, for LayerNorm, its centring, both linear."""
    W_U = bridge.ln_final.weight.detach()[:, None] * bridge.W_U.detach()
    centred: Tensor = W_U if bridge.cfg.normalization_type.startswith("RMS") else W_U - W_U.mean(0)
    return centred
