"""probing: words of the tasks, lenses, massive activations, roles and control tasks."""

import random

import numpy as np
import pandas as pd
import pytest
import torch

from common.core.settings import ROOT
from common.data.models import load_model
from common.interp.decoder import Cache, Decoder
from replications.probing.continuation import logits
from replications.probing.lenses import LENSES, divergence, readings
from replications.probing.massive_activations import (
    RANDOM_DIRECTIONS,
    Attention,
    Place,
    displaced,
    edits,
    find,
    largest_at_first,
    measure,
    metrics,
    outcome,
)
from replications.probing.roles import roles
from replications.probing.selectivity import Names, control_labels, probe
from replications.probing.settings import TaskVectors
from replications.probing.streams import layers_of, ridge, streams
from replications.probing.task_vectors import TASKS, Means, Model
from replications.probing.words import Pair, mismatched, pairs, split_pairs

FOLDER = ROOT / "resources" / "models" / "smollm2-135m-shallow"
SOURCE = """
import os.path as p
from re import match

class Shape:
    def area(self, side, *, unit=None):
        size = side.width * len(side)
        return self.scale(size, unit=unit)
"""


@pytest.fixture(scope="module")
def decoder():
    if not (FOLDER / "manifest.json").is_file():
        pytest.skip("the shallow model is made by the workflow")
    return Decoder(load_model(FOLDER), 32)


def word_ids(text):
    """A tokenizer to which every text is one token."""
    return [hash(text)]


def test_splits_of_words_share_no_pair():
    for task in TASKS:
        split = split_pairs(task, word_ids, 40, 40)
        kept = [{pair.cluster for pair in part} for part in split.values()]
        assert sum(map(len, kept)) == len(set().union(*kept))
        assert sum(map(len, split.values())) == 120


def test_words_of_several_tokens_are_left_out():
    kept = pairs("plural", lambda text: [1, 2] if text.endswith("cats") else [hash(text)])
    words = {pair.word for pair in kept}
    assert "dog" in words
    assert not {"cat", "sheep"} & words  # the plural of sheep is itself


def test_mismatched_demonstrations_keep_words_and_answers():
    shown = [Pair(word, word.upper(), word) for word in "abcdefgh"]
    wrong = mismatched(shown, random.Random(0))
    assert [pair.word for pair in wrong] == [pair.word for pair in shown]
    assert sorted(pair.answer for pair in wrong) == sorted(pair.answer for pair in shown)
    assert all(pair.answer != pair.word.upper() for pair in wrong)


def test_ridge_is_the_literal_solution_and_finds_a_planted_map():
    torch.manual_seed(0)
    x, weight = torch.randn(300, 6) * 3 + 1, torch.randn(6, 4)
    y = x @ weight + 2
    assert torch.allclose(ridge(x, y, 1e-9)(x), y, atol=1e-3)
    strength, wide = 0.3, torch.cat([x - x.mean(0), torch.zeros(1, 6)]).double()
    penalty = strength * wide[:-1].var(0, unbiased=False).mean() * 300
    literal = torch.linalg.inv(wide.T @ wide + penalty * torch.eye(6)) @ wide[:-1].T @ (y - y.mean(0)).double()
    assert torch.allclose(ridge(x, y, strength).weight, literal.float(), atol=1e-4)


def test_lenses_at_the_last_layer_and_their_controls():
    torch.manual_seed(0)
    train = torch.randn(3, 200, 8)
    train[1] = train[0] @ torch.linalg.qr(torch.randn(8, 8)).Q
    train[2] = train[0] * 2 + 1  # what the model makes of it
    maps = [ridge(each, train[-1], 1e-6) for each in train]
    last = readings(2, train[2], train, maps)
    assert torch.allclose(last["tuned"], train[2], atol=1e-3)
    assert torch.equal(last["logit"], train[2])
    error = {name: float((y - train[2]).norm()) for name, y in readings(1, train[1], train, maps).items()}
    assert set(error) == set(LENSES)
    assert error["tuned"] < 0.01 * min(error[name] for name in LENSES[1:])


def test_divergence_is_zero_for_the_same_and_exact_for_two_tokens():
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    q = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert divergence(p, q).tolist() == pytest.approx([expected, 0.0], abs=1e-6)


def test_streams_are_those_of_the_bridge(decoder):
    tokens = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 0, 0]])
    real = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    layers = layers_of(decoder, 9)
    found = streams(decoder, tokens, real, layers)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in layers[:-1]]
    _, cache = decoder.bridge.run_with_cache(tokens[1:, :3], names_filter=names)
    for place, name in enumerate(names):
        assert torch.allclose(found[place, 1, :3], cache[name][0], atol=1e-2, rtol=1e-3)


def test_the_edited_coordinate_and_no_other():
    cache = Cache(resid_pre=[torch.ones(2, 4, 6)])
    found = edits(cache, Place(0, 3, 7.0, torch.tensor([1, 2])))
    changed = {name: {tuple(at) for at in (x != 1).nonzero().tolist()} for name, x in found.items()}
    assert changed["zero"] == changed["half"] == changed["mean"] == {(row, 0, 3) for row in (0, 1)}
    assert changed["other_channels"] == {(row, 0, channel) for row in (0, 1) for channel in (1, 2)}
    assert changed["other_positions"] == {(row, place, 3) for row in (0, 1) for place in (1, 2, 3)}
    assert (found["half"][:, 0, 3] == 0.5).all()


def test_random_moves_go_as_far_as_zeroing_does():
    torch.manual_seed(0)
    intact, place = torch.randn(3, 4, 6) * 5, Place(0, 2, 1.0, torch.tensor([1]))
    found = displaced(Cache(resid_pre=[intact]), place, 10)
    far = (edits(Cache(resid_pre=[intact]), place)["zero"] - intact)[:, 0].norm(dim=-1)
    assert len(found) == RANDOM_DIRECTIONS >= 5
    for x in found:
        assert torch.allclose((x - intact)[:, 0].norm(dim=-1), far, rtol=1e-4)
        assert torch.equal(x[:, 1:], intact[:, 1:])
    ways = torch.nn.functional.normalize(torch.stack([(x - intact)[0, 0] for x in found]), dim=-1)
    assert (ways @ ways.T - torch.eye(len(ways))).abs().max() < 0.99, "five directions, not one"
    assert all(map(torch.equal, found, displaced(Cache(resid_pre=[intact]), place, 10)))
    assert not torch.equal(found[0], displaced(Cache(resid_pre=[intact]), place, 11)[0])


def test_the_rise_of_every_edit_is_over_the_intact_loss():
    rises = {"zero": 8.0, "half": 0.5, "mean": 0.0, "other_channels": 0.1, "other_positions": 0.4, "same_distance": 6.0}
    losses = 2 + np.arange(4) / 10
    table = {"document": np.arange(4), "loss_intact": losses, "at_first": np.ones(4)}
    table |= {f"loss_{name}": losses + rise for name, rise in rises.items()}
    table |= {f"attention_{name}": losses for name in ("intact", "zero", "mean")}
    found = metrics(
        pd.DataFrame(table),
        torch.randn(4, 5, 6),
        torch.ones(4, 5, dtype=torch.bool),
        Place(0, 3, 1.0, torch.tensor([1])),
    )
    controls = {control.name: control.value for control in found["zeroed"].controls}
    expected = {"set_to_mean": 0.0} | {
        name: rises[name] for name in ("other_channels", "other_positions", "same_distance")
    }
    assert controls == pytest.approx(expected)
    assert found["zeroed"].value == pytest.approx(8)
    assert found["halved"].value == pytest.approx(0.5)


def test_vectors_of_shuffled_prompts_are_as_long_as_the_own_one():
    if not (FOLDER / "manifest.json").is_file():
        pytest.skip("the shallow model is made by the workflow")
    settings = TaskVectors(train=6, judged=2, demonstrations=2, queries=2, depth=0.5, every=1)
    model, block = Model(FOLDER, "cpu", settings), 1
    draw = torch.Generator().manual_seed(0)
    layers, width = model.decoder.n_layers + 1, model.decoder.bridge.cfg.d_model
    means = {}
    for task in TASKS:
        three = [scale * torch.randn(layers, width, generator=draw) for scale in (2, 1, 9)]
        single = [scale * torch.randn(1, layers, width, generator=draw) for scale in (2, 9)]
        means[task] = Means(*three, *single)
    split = split_pairs("plural", model.encode, 6, 2)
    bare, moves, edited = model.alone.run(model.queries(split["held_out"])), [], model.edited

    def recorded(bare, block, x):
        moves.append((x - bare.resid[block, :, -1:])[0, 0])
        return edited(bare, block, x)

    model.edited = recorded
    judged = model.judge("plural", split["held_out"], bare, split["train"], means, block, [10])
    assert {"one_prompt_10", "one_shuffled_10"} <= set(judged)
    own, shuffled = means["plural"].vector[block], means["plural"].shuffled[block]
    assert shuffled.norm() > 2 * own.norm()
    (move,) = [one for one in moves if torch.cosine_similarity(one, shuffled, dim=0) > 0.99]
    assert float(move.norm()) == pytest.approx(float(own.norm()), rel=1e-3)
    one, wrong = means["plural"].single[0, block], means["plural"].single_shuffled[0, block]
    (move,) = [each for each in moves if torch.cosine_similarity(each, wrong, dim=0) > 0.99]
    assert float(move.norm()) == pytest.approx(float(one.norm()), rel=1e-3), "each prompt at its own norm"


def test_largest_coordinate_of_a_document_leaves_out_padding():
    x = torch.zeros(3, 4, 5)
    x[0, 0, 2], x[1, 2, 2], x[2, 0, 2], x[2, 3, 1] = 9, 9, 9, 99
    real = torch.tensor([[True] * 4, [True] * 4, [True] * 3 + [False]])
    assert largest_at_first(x, real, 2).tolist() == [1.0, 0.0, 1.0]


def test_loss_is_that_of_the_bridge_and_zeroing_costs(decoder):
    tokens = torch.tensor([[504, 2644, 5046, 28, 284, 260, 2644, 30], [504, 2644, 5046, 28, 284, 0, 0, 0]])
    real = torch.tensor([[True] * 8, [True] * 5 + [False] * 3])
    with torch.no_grad():
        place = find(decoder, tokens[:, :1])
        seen = Attention(place.block)
        cache = decoder.forward(tokens, real, keep=True, patterns=seen)
        found = {name: measure(decoder, tokens, real, place.block, x) for name, x in edits(cache, place).items()}
        found["intact"] = outcome(decoder, tokens, real, cache.final, seen)
        assert len(seen.seen) == decoder.n_layers - place.block
        again = measure(decoder, tokens, real, place.block, cache.resid_pre[place.block])
        scores = decoder.bridge(tokens[1:, :5])[0].log_softmax(-1)
    expected = -np.mean([float(scores[at - 1, tokens[1, at]]) for at in range(2, 5)])
    assert found["intact"]["loss"][1] == pytest.approx(expected, abs=1e-3)
    assert all(np.allclose(again[what], found["intact"][what], atol=1e-5) for what in again)
    assert abs(float(cache.resid_pre[place.block][0, 0, place.channel])) > 1000
    assert np.abs(found["mean"]["loss"] - found["intact"]["loss"]).max() < 0.1


def test_patterns_sum_over_a_short_text(decoder):
    tokens = torch.tensor([[504, 2644, 5046]])
    real = torch.ones_like(tokens, dtype=torch.bool)
    with torch.no_grad():
        x = decoder.embed(tokens, real)
        found = measure(decoder, tokens, real, 0, x)
    assert 0 < found["attention"][0] < 1
    assert logits(decoder, x).shape == (1, 3, decoder.bridge.cfg.d_vocab)


def test_roles_of_names():
    found = [(one.name, one.role) for one in roles(SOURCE)]
    assert found == [
        ("os.path", "import"), ("match", "import"), ("Shape", "definition"), ("area", "definition"),
        ("self", "parameter"), ("side", "parameter"), ("unit", "parameter"), ("size", "assigned"),
        ("side", "variable"), ("width", "attribute"), ("len", "called"), ("side", "variable"),
        ("self", "variable"), ("scale", "method"), ("size", "variable"), ("unit", "keyword"), ("unit", "variable"),
    ]  # fmt: skip
    assert roles("def broken(:") == []
    assert all(SOURCE[one.end - len(one.name) : one.end] == one.name for one in roles(SOURCE))


def test_control_labels_belong_to_types():
    names = ["a", "b", "a", "c"] * 20
    labels = control_labels(names, ["called", "import"], names, 0)
    assert len({(name, label) for name, label in zip(names, labels, strict=True)}) == 3
    assert labels == control_labels(names[::-1], ["called", "import"], names, 0)
    assert labels != [
        label for seed in range(1, 9) for label in control_labels(names, ["called", "import"], names, seed)
    ]


def test_a_role_that_is_planted_beside_the_name_is_selective():
    """Streams that hold type and role: the probe reads the role of unseen places, the control task only the type."""
    draw = np.random.default_rng(0)
    kinds, types = ["called", "import", "variable"], 120  # more types than dimensions: not all can be learnt by heart
    vectors, roled = draw.standard_normal((types, 40)), draw.standard_normal((3, 40)) * 3

    def names(count):
        name, role = draw.integers(0, types, count), draw.integers(0, 3, count)
        x = torch.tensor(vectors[name] + roled[role] + 0.3 * draw.standard_normal((count, 40))).float()[None]
        return Names([str(one) for one in name], [kinds[one] for one in role], [0] * count, x)

    table = probe(names(2000), names(300), list(range(300)), [0], [0, 1], 0.01)
    assert table["role"].mean() > 0.95
    assert table["role"].mean() - table["control"].mean() > 0.2
    assert table["by_name"].mean() < 0.6
