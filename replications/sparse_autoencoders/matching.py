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
Compared = tuple[Float[Tensor, " one"], Bool[Tensor, " one"]]
"""What `compared` finds."""


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
    """`compared` for dictionaries on disk. Each pair is matched once, however often it is asked for."""

    def __init__(self) -> None:
        self.read = cache(dictionary)
        self.known: dict[tuple[Path, Path, int | None], Compared] = {}

    def __call__(self, one: Path, other: Path, draw: int | None = None) -> Compared:
        """Latents of `one` against those of the `other`, or against draw number `draw` of random directions like it."""
        key = (one, other, draw)
        if key not in self.known:
            rows = self.read(other)
            self.known[key] = compared(self.read(one), rows if draw is None else random_like(rows, draw))
        return self.known[key]


def compared(one: Rows, other: Rows) -> Compared:
    """For each latent of `one`: decoder cosine with its partner by decoder, and whether it is shared.

    With a smaller dictionary on the other side, latents without a partner have cosine 0 and are not shared.
    """
    cosine = [cosines(*pair) for pair in zip(one, other, strict=True)]
    by_decoder, by_encoder = (matched(part) for part in cosine)
    has = by_decoder >= 0
    found = cosine[0].gather(1, by_decoder.clamp(min=0)[:, None])[:, 0] * has
    return found, has & (by_decoder == by_encoder) & (found > SHARED)


def matched(cosine: Float[Tensor, "one other"]) -> Int[Tensor, " one"]:
    """The partner of each row in the one-to-one matching of largest total cosine, -1 for none."""
    rows, columns = linear_sum_assignment(cosine.numpy(), maximize=True)
    found = torch.full((len(cosine),), -1)
    found[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return found
