"""Matryoshka BatchTopK (Bussmann, Nabeshima, Karvonen and Nanda 2025, arXiv 2503.17547).

Latents are chosen as in BatchTopK. The loss asks for a good reconstruction from the first m latents alone, for each of
five prefixes. Their groups take 1/32, 1/16, 1/8, 1/4 and the rest of the width. So general features come first.

Deviations: the mean over prefixes instead of the sum, which only sets the weight of AuxK and clipping. There is no
empty prefix (the authors' code has one), and AuxK works on the full reconstruction only.
"""

import torch
from torch import Tensor

from common.saes.architectures.auxiliary import auxiliary_loss
from common.saes.architectures.base import Batch, Context, Losses, Weights, pre_activations, squared_error, variance
from common.saes.architectures.topk import AUXILIARY, TopK
from common.saes.sparse import decode_at, encode_at, pattern_at, top_of_batch

GROUPS = (1 / 32, 1 / 16, 1 / 8, 1 / 4)


def prefixes(d_sae: int) -> list[int]:
    """Ends of the groups; the last is the width. Narrow SAEs have fewer groups."""
    ends: list[int] = []
    for share in GROUPS:
        ends.append((ends[-1] if ends else 0) + round(share * d_sae))
    return [*sorted({end for end in ends if 0 < end < d_sae}), d_sae]


class Matryoshka(TopK):
    def __init__(self) -> None:
        super().__init__(of_batch=True)

    def losses(self, weights: Weights, batch: Batch, context: Context) -> Losses:
        with torch.no_grad():
            z = pre_activations(weights, batch)
            index, smallest = top_of_batch(z, context.k)
            pattern = pattern_at(index, z.shape)
        values = encode_at(batch.x, weights["W_enc"], weights["b_enc"], weights["b_dec"], z, index, pattern)
        found: Tensor = weights["b_dec"][:, None]
        errors, start = [], 0
        latent = pattern.cols % pattern.d_sae
        for end in prefixes(pattern.d_sae):
            inside = (latent >= start) & (latent < end)
            found = found + decode_at(values[inside], weights["W_dec"], pattern.only(inside))
            errors.append(squared_error(batch.y, found))
            start = end
        revive = auxiliary_loss(weights, batch, (batch.y - found).detach(), context)
        loss = torch.stack(errors).mean(0) / variance(batch.y) + AUXILIARY * revive
        return Losses(loss, errors[-1].detach(), pattern.l0(), pattern.counts(), smallest)
