"""probing: continuations against full passes, and areas under curves."""

import numpy as np
import pandas as pd
import pytest
import torch

from common.core.settings import ROOT
from common.core.statistics import auroc
from common.data.models import load_model
from common.interp.decoder import Decoder
from replications.probing.continuation import Prefix, joined, logits
from replications.probing.directions import logistic, mean_difference, placements
from replications.probing.statements import TOPICS
from replications.probing.truth import metrics

FOLDER = ROOT / "resources" / "models" / "smollm2-135m-shallow"
PREFIX, ROWS, TAIL = [0, 11, 12, 13], [[21, 22], [31, 32, 33, 34]], [41, 42]


@pytest.fixture(scope="module")
def decoder():
    if not (FOLDER / "manifest.json").is_file():
        pytest.skip("the shallow model is made by the workflow")
    return Decoder(load_model(FOLDER), 32)


def whole(decoder, tokens):
    """The literal version: one full pass over one prompt."""
    row = torch.tensor([tokens])
    with torch.no_grad():
        cache = decoder.forward(row, torch.ones_like(row, dtype=torch.bool), keep=True)
    return torch.stack([*cache.resid_pre, cache.final])[:, 0]


def test_continuations_are_full_passes(decoder):
    prefix = Prefix(decoder, PREFIX)
    run = prefix.run(ROWS)
    tail = prefix.extend(run, TAIL)
    for place, row in enumerate(ROWS):
        expected = whole(decoder, [*PREFIX, *row, *TAIL])
        scale = expected.abs().max()
        start = len(PREFIX)
        assert (run.resid[:, place, -len(row) :] - expected[:, start : start + len(row)]).abs().max() < 1e-4 * scale
        assert (tail.resid[:, place] - expected[:, -len(TAIL) :]).abs().max() < 1e-4 * scale


def test_a_patch_runs_on_as_a_hook_would(decoder):
    layer, move = 1, torch.linspace(-3, 3, decoder.bridge.cfg.d_model)
    prefix = Prefix(decoder, PREFIX)
    run = prefix.run(ROWS)
    both = joined(run, prefix.extend(run, TAIL), 1)
    x = both.resid[layer].clone()
    same = prefix.rerun(both, layer, x)
    assert torch.allclose(same.resid[-1], both.resid[-1], atol=1e-3)
    x[:, 0] += move
    found = prefix.rerun(both, layer, x).resid[-1, :, -1]

    def edit(value, hook):
        value[:, -len(TAIL) - 1] += move
        return value

    for place, row in enumerate(ROWS):
        tokens = torch.tensor([[*PREFIX, *row, *TAIL]])
        with torch.no_grad(), decoder.bridge.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", edit)]):
            expected = decoder.bridge(tokens)[0, -1]
        assert torch.allclose(logits(decoder, found[place]), expected, atol=2e-3)
        assert not torch.allclose(logits(decoder, both.resid[-1, place, -1]), expected, atol=2e-2)


def test_placements_average_to_the_area_under_the_curve():
    draw = np.random.default_rng(0)
    scores, true = draw.integers(0, 6, 40).astype(float), np.arange(40) % 2 == 0
    assert placements(scores, true).mean() == pytest.approx(float(auroc(scores, true)))
    assert placements(-scores, true).mean() == pytest.approx(1 - float(auroc(scores, true)))


def test_planted_directions_are_found():
    torch.manual_seed(0)
    true, way = torch.arange(400) % 2 == 0, torch.nn.functional.normalize(torch.randn(16), dim=0)
    x = torch.randn(400, 16) + torch.where(true, 2.0, -2.0)[:, None] * way
    for found in (mean_difference(x, true), logistic(x, true)):
        assert torch.cosine_similarity(found, way, dim=0) > 0.9
    assert mean_difference(x, true) @ way == pytest.approx(4.0, abs=0.4)


def test_the_interval_of_an_area_is_that_of_resampled_items():
    """As wide as a bootstrap that recomputes the area of every resample of items, each a true and a false statement."""
    draws, n = np.random.default_rng(3), 60
    scores, true = np.concatenate([draws.normal(1.2, 1, n), draws.normal(0, 1, n)]), np.arange(2 * n) < n
    frame = pd.DataFrame({"topic": "capitals", "negated": False, "item": np.tile(np.arange(n), 2)})
    readers = ("direction", "logistic", "trained_on_negated", "bag_of_words", "shuffled_labels", "model_answer")
    others = ("log_probability", "trivial_reader", "trained_on_both")
    placed = {name: placements(scores, true) for name in (*readers, *others)}
    both = pd.concat([frame, frame.assign(negated=True)]).assign(**{key: np.tile(x, 2) for key, x in placed.items()})
    every = [both.assign(topic=topic) for topic in TOPICS]
    crossing = {
        name: placed["direction"] for name in ("direction", "bag_of_words", "log_probability", "trained_on_both")
    }
    crossed = [frame.assign(source="a", topic="b", **crossing)]
    found = metrics(pd.concat(every), pd.concat(crossed))[f"reads_{TOPICS[0]}"]
    areas = []
    for _ in range(2000):
        kept = draws.integers(0, n, n)
        areas.append(float(auroc(scores[np.concatenate([kept, kept + n])], true)))
    low, high = np.quantile(areas, [0.025, 0.975])
    assert found.value == pytest.approx(float(auroc(scores, true)))
    assert found.ci_high - found.ci_low == pytest.approx(high - low, rel=0.15)
