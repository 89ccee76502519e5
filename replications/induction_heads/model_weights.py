"""What the heads of a language model write, from weights alone: OV eigenvalues and copying along the direct path.

Elhage et al. 2021 (eigenvalue score) and Olsson et al. 2022 (copying score on samples of 25 random tokens). A head
reads a token through its layer's norm and writes to the logits through the final norm's gain; later MLPs are left out.
A token is its embedding, as in the papers, or the residual stream after the first block (`_after_first_block`). In
models with MLPs later heads read what the first block makes of a token. With all tokens at once copying would be an
artefact of rank: a head cannot single out many more tokens than it has dimensions. Eigenvalues are those of the OV
circuit on disjoint random parts of the vocabulary.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.interp.decoder import Decoder
from common.interp.head_scores import copying, eigenvalue_score
from replications.induction_heads.language_model import residual_before

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
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for part in parts:
            ids = part.to(decoder.W_O[0].device)
            sources = {"": decoder.bridge.W_E[ids], "_after_first_block": after_first_block(decoder.bridge, ids)}
            unembedding = final_read(decoder.bridge, ids)
            written = [W_O @ unembedding for W_O in decoder.W_O]
            for source, tokens in sources.items():
                ov = [(ov_read(decoder, layer, tokens), right) for layer, right in enumerate(written)]
                few = [left[:, :SAMPLE] @ right[..., :SAMPLE] for left, right in ov]
                each = {
                    "ov_eigenvalues": [eigenvalue_score(*factors) for factors in ov],
                    "copying": [copying(contribution) for contribution in few],
                }
                for what, layers in each.items():
                    found.setdefault(what + source, []).append(torch.stack(layers))
    return {name: torch.stack(values).double().cpu() for name, values in found.items()}


def after_first_block(bridge: "TransformerBridge", ids: Int[Tensor, " token"]) -> Float[Tensor, "token d_model"]:
    """The residual stream after the first block, of each token right behind the document token."""
    return residual_before(bridge, 1, torch.stack([torch.zeros_like(ids), ids], 1))[:, 1]


def ov_read(decoder: Decoder, layer: int, tokens: Float[Tensor, "token d_model"]) -> Float[Tensor, "head token d_head"]:
    """First factor of the OV circuit of every head, from `tokens`, the vectors that heads read. The second is W_O times
    `final_read`. Their product at [a, b] is what attending to token a adds to the logit of token b, without the final
    norm's scale."""
    read = decoder.norm(layer, 0, tokens)
    W_V = decoder.W_V[layer]
    W_V = W_V.repeat_interleave(decoder.n_heads // len(W_V), 0)
    found: Tensor = read @ W_V
    return found


def final_read(bridge: "TransformerBridge", ids: Int[Tensor, " token"]) -> Float[Tensor, "d_model token"]:
    """The unembedding of some tokens with the final norm's gain and, for LayerNorm, its centring, both linear."""
    W_U = bridge.ln_final.weight.detach()[:, None] * bridge.W_U.detach()[:, ids]
    centred: Tensor = W_U if bridge.cfg.normalization_type.startswith("RMS") else W_U - W_U.mean(0)
    return centred
