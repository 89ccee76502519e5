"""Sequences, oracles and curves of the induction-heads replication: identities, planted truth, refusals."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.errors import UserError
from common.core.settings import checked, load_replication
from common.interp.head_scores import successors
from replications.induction_heads.curves import bump, convex_hull, first_crossing, plateau_ratio, transition
from replications.induction_heads.data import check, copied_from, one_shot, segments, segments_held_out, unigram_oracle
from replications.induction_heads.evaluation import gain, loss_on_repeats
from replications.induction_heads.repeats import random_repeats, repeat_gain
from replications.induction_heads.settings import Repeats, Settings, Text

TEXT = Text(length=24, d_vocab=24, shortest_block=4, longest_block=8, copies=4)


def text(**changes):
    return TEXT.model_copy(update=changes)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_one_shot_sequences_repeat_one_block_and_nothing_else(seed):
    held = one_shot(TEXT, 6, seed)
    for tokens, repeated in zip(held.tokens.tolist(), held.repeated.tolist(), strict=True):
        again = [k for k, token in enumerate(tokens) if token in tokens[:k]]
        assert TEXT.shortest_block <= len(again) <= TEXT.longest_block
        assert again == list(range(again[0], again[0] + len(again)))
        copies = [tokens.index(tokens[k]) for k in again]
        assert copies == list(range(copies[0], copies[0] + len(copies)))
        assert copies[-1] < again[0]
        assert [k + 1 for k, one in enumerate(repeated) if one] == again[1:]


def test_distances_are_random_so_no_fixed_offset_solves_the_task():
    held = one_shot(TEXT, 200, 3)
    after = successors(held.tokens).nonzero()
    assert len({int(query - key) for _, query, key in after}) > 10


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_segments_lie_apart_and_as_many_as_fit(seed):
    places = copied_from(TEXT, 4, 20, torch.Generator().manual_seed(seed))
    for row in places.tolist():
        counts = Counter(row)
        segment = sorted(place for place, count in counts.items() if count > 1)
        assert TEXT.shortest_block <= len(segment) <= TEXT.longest_block
        assert segment == list(range(segment[0], segment[0] + len(segment)))
        (copies,) = {counts[place] for place in segment}
        assert copies == min(4, TEXT.length // len(segment))
        starts = [at for at, place in enumerate(row) if place == segment[0]]
        for start in starts:
            assert row[start : start + len(segment)] == segment
        filler = [at for at in range(TEXT.length) if not any(0 <= at - start < len(segment) for start in starts)]
        assert all(row[at] == at for at in filler), "filler stands where it was drawn"


def test_a_segment_can_begin_everywhere_and_no_distance_is_fixed():
    text = TEXT.model_copy(update={"longest_block": 4})
    places = copied_from(text, 2, 4000, torch.Generator().manual_seed(0))
    copied = places != torch.arange(24)
    second = copied.float().argmax(1)
    first = places.gather(1, second[:, None])[:, 0]
    pairs = torch.stack([first, second], 1).unique(dim=0, return_counts=True)[1]
    assert len(pairs) == 17 * 18 // 2, "all pairs of places that do not overlap"
    assert pairs.min() > 2
    assert pairs.max() < 60


def test_training_sequences_depend_on_seed_and_step():
    tokens = segments(TEXT, 64, seed=1, step=5)
    assert torch.equal(tokens, segments(TEXT, 64, seed=1, step=5))
    assert not torch.equal(tokens, segments(TEXT, 64, seed=1, step=6))
    assert not torch.equal(tokens, segments(TEXT, 64, seed=2, step=5))


def test_held_out_targets_are_determined_by_an_earlier_copy():
    """The present and the next token stood side by side earlier on; by chance alone they do in one place of 24."""
    held = segments_held_out(TEXT, 200, 0)
    now, after = held.tokens[:, :-1], held.tokens[:, 1:]
    same = (now[:, :, None] == now[:, None, :]) & (after[:, :, None] == after[:, None, :])
    before = same.tril(-1).any(-1)
    assert bool(before[held.repeated].all())
    assert float(before[~held.repeated].float().mean()) < 0.1
    assert 0.3 < float(held.repeated.float().mean()) < 0.6


def test_oracle_counts_distinct_tokens():
    tokens = torch.tensor([[5, 5, 7, 5, 8]])
    expected = torch.tensor([[1.0, 1.0, 2.0, 2.0]]).log()
    torch.testing.assert_close(unigram_oracle(tokens), expected)


def test_gain_is_zero_for_the_oracle_and_the_whole_oracle_for_perfect_copying():
    held = one_shot(TEXT, 20, 0)
    assert float(gain(held.oracle[None], held)) == pytest.approx(0)
    whole = float(held.oracle[held.repeated].mean())
    assert float(gain(torch.where(held.repeated, 0.0, 9.0)[None], held)) == pytest.approx(whole, rel=1e-5)
    assert float(loss_on_repeats(held.repeated.float()[None], held)) == pytest.approx(1)
    assert float(gain(torch.full_like(held.oracle, math.log(24))[None], held)) < 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"longest_block": 13}, "does not fit twice"),
        ({"d_vocab": 23}, "vocabulary of 23 tokens is too small"),
        ({"shortest_block": 9}, "below the shortest"),
    ],
)
def test_data_that_cannot_repeat_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        check(text(**changes))
    check(TEXT)


def test_zero_layers_are_refused_naming_the_key(tmp_path):
    content = load_replication("induction_heads", "smoke").model_dump()
    content["arms"]["two_layers"]["n_layers"] = 0
    with pytest.raises(UserError, match=r"arms.two_layers.n_layers.*greater than or equal to 1"):
        checked(Settings, content, tmp_path / "config.yaml")


def test_an_arm_that_is_measured_must_be_trained():
    content = load_replication("induction_heads", "full").model_dump()
    Settings.model_validate(content)
    content["arms"]["two_layers_smeared"] = None
    with pytest.raises(ValueError, match="the arm 'two_layers_smeared' is measured, but 'arms' does not train it"):
        Settings.model_validate(content)
    content |= {"heads": {"arms": ["one_layer", "two_layers"]}, "two_back": {"seeds": 5}}
    with pytest.raises(ValueError, match="'two_back' changes the keys of smeared arms, and one of them is not trained"):
        Settings.model_validate(content)


def test_transition_of_a_logistic_curve():
    steps = np.arange(0, 1001, 5, dtype=np.float64)
    score = 3 / (1 + np.exp(-(steps - 400) / 20))
    found = transition(steps, score)
    assert found is not None
    assert found.middle == pytest.approx(400, abs=1)
    assert found.width == pytest.approx(2 * 20 * math.log(9), rel=0.02)
    assert plateau_ratio(found, 20) > 3
    assert transition(steps, 0.1 * score) is None
    assert plateau_ratio(None, 20) == 0


def test_a_saturating_curve_has_no_plateau_and_no_bump():
    steps = np.arange(0, 1001, 5, dtype=np.float64)
    rising = 3 * (1 - np.exp(-steps / 200))
    assert plateau_ratio(transition(steps, rising), 20) < 0.1
    assert bump(steps, 4 - rising) == pytest.approx(0, abs=1e-9)


def test_bump_is_the_height_above_the_hull():
    steps = np.array([0.0, 1, 2, 3, 4])
    loss = np.array([4.0, 3.5, 3.5, 1.0, 1.0])
    np.testing.assert_allclose(convex_hull(steps, loss), [4, 3, 2, 1, 1])
    assert bump(steps, loss) == pytest.approx(1.5)
    assert first_crossing(steps, loss[::-1], 2.25) == pytest.approx(1.5)


def test_random_repeats_for_a_language_model():
    drawn = random_repeats(Repeats(sequences=8, block=6, length=30), 5000, seed=1)
    assert drawn.tokens.shape == (8, 30)
    assert bool((drawn.tokens[:, 0] == 0).all())
    for tokens, other, repeated in zip(drawn.tokens, drawn.unrepeated, drawn.repeated, strict=True):
        targets = repeated.nonzero()[:, 0] + 1
        assert len(targets) == 5
        assert bool(torch.isin(tokens[targets], tokens[: targets[0] - 1]).all())
        assert not bool(torch.isin(other[targets], other[: targets[0] - 1]).all())
        assert int((tokens != other).sum()) == 6
    losses = torch.where(drawn.repeated, 1.0, 10.0)
    assert repeat_gain(losses, drawn.repeated).tolist() == pytest.approx([9] * 8)
    with pytest.raises(UserError, match="cannot hold two blocks"):
        random_repeats(Repeats(sequences=2, block=12, length=30), 5000, seed=1)
