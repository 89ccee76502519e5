"""A tiny one-layer model and text with planted units, for the tests of monosemanticity."""

import numpy as np
import torch

from common.network_settings import Architecture
from common.transformer import initial_weights
from replications.monosemanticity.units import read_text, sparse

VOCAB, WINDOWS, LENGTH = 12, 40, 17
SHAPE = Architecture(
    n_layers=1, keys="plain", positions="rotary", mlp="relu", d_model=8, n_heads=2, d_head=4, d_vocab=VOCAB,
    n_ctx=LENGTH,
)  # fmt: skip
WEIGHTS = initial_weights(SHAPE, [3])
TOKENS = torch.randint(VOCAB, (WINDOWS, LENGTH), generator=torch.Generator().manual_seed(0))
TEXT = read_text(TOKENS, torch.arange(WINDOWS) // 2)


def firings(fires, seed=0):
    """A table [token unit] of where units fire, with random values."""
    values = np.random.default_rng(seed).uniform(0.1, 1, fires.shape) * fires
    return sparse(lambda part: torch.from_numpy(values[part]), len(fires)), values


def planted():
    """A unit for two tokens, one for a previous token, one that fires at random."""
    rng = np.random.default_rng(1)
    return np.stack([np.isin(TEXT.token, [3, 7]), TEXT.previous == 5, rng.random(TEXT.size()) < 0.2], 1)
