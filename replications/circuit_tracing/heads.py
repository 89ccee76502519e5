"""Which attention heads carry the last edges of a graph: those from features, errors and embeddings into a logit.

With patterns and denominators frozen, a logit is a sum over what heads, MLPs and the embedding write at the last
position. A head's part is split once more by the position it reads from. So a graph can be compared with what patching
says of the same heads.
"""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from replications.circuit_tracing.frozen import FrozenPass


@torch.no_grad()
def carried(frozen: FrozenPass, vector: Float[Tensor, " d_model"]) -> Float[Tensor, "layer head pos"]:
    """What each head carries from each position to the last one's reading of `vector`, without biases.

    Summed, with what embedding, MLPs and biases write there themselves, it is the reading: a test.
    """
    reader, parts = frozen.back_norm(vector, frozen.gain_final, frozen.scale_final[-1]), []
    for layer, (x, _) in enumerate(frozen.walk(frozen.embeddings, frozen.mlp_out)):
        read = frozen.norm(x, frozen.gain_attn[layer], frozen.scale_attn[layer])
        out = frozen.W_O[layer] @ reader
        values = einsum(read, frozen.W_V[layer], out, "pos d, head d e, head e -> head pos")
        parts.append(frozen.patterns[layer][:, -1] * values)
    return torch.stack(parts)


@torch.no_grad()
def written_at_end(frozen: FrozenPass) -> Float[Tensor, "layer head"]:
    """Length of what each head writes at the last position, without biases, whoever reads it."""
    found = []
    for layer, (x, _) in enumerate(frozen.walk(frozen.embeddings, frozen.mlp_out)):
        mixed = frozen.patterns[layer][:, -1] @ frozen.norm(x, frozen.gain_attn[layer], frozen.scale_attn[layer])
        z = einsum(mixed, frozen.W_V[layer], "head d, head d e -> head e")
        found.append(einsum(z, frozen.W_O[layer], "head e, head e d -> head d").norm(dim=-1))
    return torch.stack(found)


def strongest_heads(
    frozen: FrozenPass, vector: Float[Tensor, " d_model"], words: list[str], most: int
) -> list[dict[str, object]]:
    """The heads that carry most, with the token they carry most of it from: one row each, in units of the logit."""
    parts = carried(frozen, vector)
    whole = parts.sum(-1)
    rows = []
    for place in whole.abs().flatten().topk(min(most, whole.numel())).indices.tolist():
        layer, head = divmod(place, whole.shape[1])
        at = int(parts[layer, head].abs().argmax())
        rows.append({
            "layer": layer, "head": head, "carried": float(whole[layer, head]), "position": at,
            "token": words[int(frozen.tokens[at])], "from_there": float(parts[layer, head, at]),
        })  # fmt: skip
    return rows
