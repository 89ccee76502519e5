"""A tiny one-layer model, text with planted units and hostile tokens, for the tests of monosemanticity."""

import numpy as np
import torch
from safetensors.torch import save_file

from common.config import ROOT
from common.files import write_json
from common.network_settings import Architecture
from common.saes.sae import About, Sae
from common.saes.saelens import save_saelens
from common.transformer import initial_weights
from replications.monosemanticity.browse import browse
from replications.monosemanticity.model import Models, save_models
from replications.monosemanticity.settings import Measures
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


WORDS = ["</script><script>window.hacked = 1</script>", "<b>bold</b>", *(f" w{i}" for i in range(2, VOCAB))]
MEASURES = Measures(loss_windows=2, set_size=2, context=4, least_firings=4)


def tiny_dictionary():
    """Latent 0 is neuron 4, latent 1 is silent."""
    rows = torch.nn.functional.normalize(torch.randn(10, 32, generator=torch.Generator().manual_seed(5)), dim=1)
    rows[0] = 4 * torch.eye(32)[4]
    bias = torch.zeros(10)
    bias[1] = -1e6
    return Sae(About("topk"), "topk", rows.mT.contiguous(), bias, rows, torch.zeros(32), k=3)


def tiny_page(folder):
    """The feature browser's page of that dictionary."""
    stored = {"train": TOKENS.flatten().clone(), "held_out": TOKENS, "document": torch.arange(WINDOWS) // 2}
    save_file(stored, folder / "tokens.safetensors")
    write_json(folder / "vocabulary.json", WORDS)
    save_models(folder / "models.safetensors", Models(SHAPE, [3], WEIGHTS))
    save_saelens(tiny_dictionary(), folder / "trained-10-s3")
    page = folder / "trained-10-s3.html"
    browse(
        tokens=folder / "tokens.safetensors", vocabulary=folder / "vocabulary.json",
        models=folder / "models.safetensors", index=folder / "index.json", census_tokens=64, measures=MEASURES,
        template=ROOT / "common" / "saes" / "browser.html", page=page,
    )  # fmt: skip
    return page
