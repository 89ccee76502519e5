"""One-to-one matching of the latents of two dictionaries, and the random dictionary that is its null."""

from functools import cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from common.saes.metrics import cosines
from common.saes.saelens import load_saelens

SHARED = 0.7  # decoder cosine
Rows = tuple[Float[Tensor, "_ d"], Float[Tensor, "_ d"]]
"""Decoder and encoder rows of one dictionary."""
Similarity = tuple[Float[Tensor, "one other"], Float[Tensor, "one other"]]
"""Of decoder rows, and of encoder rows."""
Partners = Int[Tensor, "2 _"]
"""By decoder and by encoder, -1 for none."""
Compared = tuple[Float[Tensor, " one"], Bool[Tensor, " one"]]
"""What `judged` finds."""


def dictionary(folder: Path) -> Rows:
    """Decoder and encoder rows of an SAE on disk."""
    sae = load_saelens(folder)
    return sae.W_dec, sae.W_enc.mT


def random_like(rows: Rows, seed: int) -> Rows:
    """As many random directions with the mean and covariance of the decoder rows; the encoder equals the decoder."""
    W_dec = rows[0].double() / rows[0].double().norm(dim=1, keepdim=True)
    mean = W_dec.mean(0)
    values, vectors = torch.linalg.eigh((W_dec - mean).mT @ (W_dec - mean) / len(W_dec))
    drawn = torch.randn(W_dec.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    made = (mean + drawn * values.clamp(min=0).sqrt() @ vectors.mT).float()
    return made, made


class Matcher:
    """`judged` for dictionaries on disk. A pair is matched once, in whichever order it is asked for."""

    def __init__(self) -> None:
        self.read = cache(dictionary)
        self.known: dict[tuple[Path, Path, int | None], Compared] = {}
        self.partners: dict[tuple[Path, Path], Partners] = {}

    def __call__(self, one: Path, other: Path, draw: int | None = None) -> Compared:
        """Latents of `one` against those of the `other`, or against draw number `draw` of random directions like it."""
        key = (one, other, draw)
        if key not in self.known:
            rows = self.read(other) if draw is None else random_like(self.read(other), draw)
            cosine = similarity(self.read(one), rows)
            back = self.partners.get((other, one)) if draw is None else None
            found = matched(cosine) if back is None else inverse(back, len(self.read(one)[0]))
            if draw is None:
                self.partners[one, other] = found
            self.known[key] = judged(cosine, found)
        return self.known[key]


def similarity(one: Rows, other: Rows) -> Similarity:
    """Cosines of decoder rows, and of encoder rows."""
    decoder, encoder = (cosines(*pair) for pair in zip(one, other, strict=True))
    return decoder, encoder


def judged(cosine: Similarity, partners: Partners) -> Compared:
    """For each latent: decoder cosine with its partner by decoder, and whether it is shared.

    With a smaller dictionary on the other side, latents without a partner have cosine 0 and are not shared.
    """
    by_decoder, by_encoder = partners
    has = by_decoder >= 0
    found = cosine[0].gather(1, by_decoder.clamp(min=0)[:, None])[:, 0] * has
    return found, has & (by_decoder == by_encoder) & (found > SHARED)


def matched(cosine: Similarity) -> Partners:
    """Partners by decoder and by encoder."""
    return torch.stack([best_partners(one) for one in cosine])


def inverse(partners: Partners, size: int) -> Partners:
    """The same pairs, seen from the other dictionary, which has `size` latents."""
    found = torch.full((2, size), -1)
    for own, partner in zip(found, partners, strict=True):
        has = partner >= 0
        own[partner[has]] = has.nonzero()[:, 0]
    return found


def best_partners(cosine: Float[Tensor, "one other"]) -> Int[Tensor, " one"]:
    """The partner of each row in the one-to-one matching of largest total cosine, -1 for none."""
    rows, columns = linear_sum_assignment(cosine.numpy(), maximize=True)
    found = torch.full((len(cosine),), -1)
    found[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return found
