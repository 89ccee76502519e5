"""probing: continuations against full passes, areas under curves, and the words of tasks."""

import random

import numpy as np
import pytest
import torch

from common.core.statistics import auroc
from common.core.settings import ROOT
from common.data.models import load_model
from common.interp.decoder import Decoder
from replications.probing.continuation import Prefix, joined, logits
from replications.probing.directions import logistic, mean_difference, placements
from replications.probing.words import TASKS, Pair, mismatched, pairs, split_pairs

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


def word_ids(text: str) -> list[int]:
    """A tokenizer to which every text is one token."""
    return [hash(text)]


def test_splits_of_words_share_no_pair():
    for task in TASKS:
        split = split_pairs(task, word_ids, 40, 30)
        kept = [{pair.cluster for pair in part} for part in split.values()]
        assert not (kept[0] & kept[1] or kept[0] & kept[2] or kept[1] & kept[2])
        assert sum(map(len, split.values())) == 100


def test_words_of_several_tokens_are_left_out():
    kept = pairs("plural", lambda text: [1, 2] if text.endswith("cats") else [hash(text)])
    assert "cat" not in {pair.word for pair in kept} and "dog" in {pair.word for pair in kept}
    assert "sheep" not in {pair.word for pair in kept}  # its plural is itself


def test_mismatched_demonstrations_keep_words_and_answers():
    shown = [Pair(word, word.upper(), word) for word in "abcdefgh"]
    wrong = mismatched(shown, random.Random(0))
    assert [pair.word for pair in wrong] == [pair.word for pair in shown]
    assert sorted(pair.answer for pair in wrong) == sorted(pair.answer for pair in shown)
    assert all(pair.answer != pair.word.upper() for pair in wrong)
