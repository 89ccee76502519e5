"""Real text and fuzzy repeats: masks against literal loops, planted rises, and one pass against the bridge's own."""

import numpy as np
import pytest
import torch

from common.core.errors import UserError
from common.data.corpora import Document
from common.interp.decoder import Decoder
from replications.induction_heads.language_model import losses_from, residual_before, run_pass, write_norms
from replications.induction_heads.model_heads import random_set
from replications.induction_heads.read_text import (
    Rises,
    documents,
    ratio,
    rises_metrics,
    summed,
    windows_metrics,
)
from replications.induction_heads.repeats import completes_a_pair, fuzzy_repeats, word_pairs
from replications.induction_heads.settings import RealText, Repeats
from tests.fixtures.native_bridge import native_bridge

TEXT = RealText(documents=48, early=[32, 63], late=[192, 255], near=32, draws=20, floor=0.02)


def test_pairs_equal_their_literal_definition():
    tokens = torch.randint(4, (5, 14), generator=torch.Generator().manual_seed(0))
    found = completes_a_pair(tokens)
    for row, line in enumerate(tokens.tolist()):
        for t in range(13):
            seen = {(line[k], line[k + 1]) for k in range(t)}
            assert bool(found[row, t]) == ((line[t], line[t + 1]) in seen)


def test_random_sets_match_the_layers_and_never_hold_the_heads():
    heads = [(2, 1), (2, 3), (4, 0)]
    rng = np.random.default_rng(0)
    drawn = [random_set(heads, 5, rng, {*heads, (2, 0)}) for _ in range(50)]
    assert all([layer for layer, _ in one] == [2, 2, 4] for one in drawn)
    assert not any(set(one) & {*heads, (2, 0)} for one in drawn)
    assert all(len(set(one)) == 3 for one in drawn)
    assert {tuple(sorted(one)) for one in drawn} == {((2, 2), (2, 4), (4, head)) for head in range(1, 5)}


def rises_of(pairs, others, noise=0.02, n=48, seed=0):
    """Documents with 40 completing tokens and 200 others, and a rise of the loss on each kind."""
    rng = np.random.default_rng(seed)
    completing = np.zeros((n, 240), dtype=bool)
    completing[:, :40] = True
    change = np.where(completing, pairs, others) + rng.normal(0, noise, (n, 1))
    return summed(change, completing)


def planted(effect, random):
    null = [rises_of(*random, seed=k + 1) for k in range(20)]
    return rises_metrics(rises_of(*effect), null, rises_of(*random, seed=30), 0.02)


@pytest.mark.parametrize(
    ("effect", "random", "expected", "controls"),
    [
        ((0.4, 0.04), (0.01, 0.01), 10, 0.5),
        ((0.4, 0.4), (0.01, 0.01), 1, 0.5),  # all tokens suffer alike
        ((0.0, 0.0), (0.0, 0.0), 0, 0),  # nothing matters: the floor keeps the ratio from exploding
        ((0.4, 0.04), (0.4, 0.04), 10, 10),  # random heads do the same
    ],
)
def test_ratio_of_planted_rises(effect, random, expected, controls):
    found = planted(effect, random)["ratio"]
    assert found.value == pytest.approx(expected, abs=0.3 * max(1, expected / 2))
    assert found.uncertainty.count == 48
    for name in ("random_heads", "heads_that_write_most", "random_sets"):
        control = found.control(name)
        assert control.value == pytest.approx(controls, abs=0.3 * max(1, controls / 2))
        assert (control.difference.ci_low > 0.5) == (expected - controls > 5)


def test_ratio_has_a_floor():
    one = Rises(np.array([4.0, 4.0]), np.array([0.0, 0.0]), np.array([10.0, 10.0]), np.array([10.0, 10.0]))
    assert float(ratio(one, 0.02)) == pytest.approx(0.4 / 0.02)
    assert float(ratio(one._replace(others=np.array([1.0, 1.0])), 0.02)) == pytest.approx(4)
    assert ratio(one, 0.02, np.array([[0, 0], [0, 1], [1, 1]])).shape == (3,)


def test_window_scores_of_planted_losses():
    """Losses fall with context; without the heads they fall less; foreign context does not help."""
    rng = np.random.default_rng(0)
    level = 2.4 + 0.3 * rng.normal(size=(48, 1))
    index = np.arange(1, 256)
    intact, without = (level - slope * np.log(index)[None] for slope in (0.2, 0.1))
    late = intact[:, 191:255]
    found = windows_metrics(TEXT, intact, without, near=late + 0.3, foreign=late + 0.3)
    expected = float((-0.2 * np.log(index[191:255])).mean() + (0.2 * np.log(index[31:63])).mean())
    assert found["window_score"].value == pytest.approx(expected)
    assert found["window_score_lost"].value == pytest.approx(-expected / 2)
    assert found["context_gain"].value == pytest.approx(0.3)
    assert found["context_gain"].control("foreign_context").value == pytest.approx(0, abs=1e-9)


class Words:
    """A tokenizer with four words in both forms, one in small letters only, and one that is too short."""

    def get_vocab(self):
        words = ["table", "horse", "green", "water"]
        both = [*words, *(word.capitalize() for word in words), "lonely", "of", "Of"]
        return {f"\u0120{word}": 200 + i for i, word in enumerate(both)} | {"table": 7}


def test_word_pairs_and_fuzzy_repeats():
    pairs = word_pairs(Words())
    assert pairs.tolist() == [[202, 206], [201, 205], [200, 204], [203, 207]]
    drawn = fuzzy_repeats(Repeats(sequences=6, block=4, length=16), pairs, 0)
    small, capital = set(pairs[:, 0].tolist()), set(pairs[:, 1].tolist())
    for tokens, words in zip(drawn.tokens.tolist(), drawn.words.tolist(), strict=True):
        again = [t for t, token in enumerate(tokens) if token in capital]
        assert len(again) == 4
        assert again == list(range(again[0], again[0] + 4))
        assert {tokens[t] for t in range(1, 16) if t not in again} <= small
        assert words[again[0] : again[0] + 4] in [words[k : k + 4] for k in range(again[0] - 3)]
    differ = drawn.tokens != drawn.unrepeated
    assert int(differ.sum(1).max()) <= 4
    with pytest.raises(UserError, match="no words with both"):
        word_pairs(type("Empty", (), {"get_vocab": lambda self: {"a": 0}})())


@pytest.fixture(scope="module")
def bridge():
    return native_bridge(3)


@pytest.mark.parametrize("removed", [[], [(1, 0)], [(1, 1), (2, 0), (2, 1)]])
def test_going_on_from_a_layer_equals_a_whole_pass(bridge, removed):
    tokens = torch.randint(11, (3, 10), generator=torch.Generator().manual_seed(0))
    found = losses_from(Decoder(bridge, 10), 1, residual_before(bridge, 1, tokens), tokens, removed)
    torch.testing.assert_close(found, run_pass(bridge, tokens, removed=removed).losses, atol=1e-5, rtol=0)


def test_the_first_position_keeps_its_heads(bridge):
    """Without every head of every layer, the first position is the intact model's, and no other is."""
    tokens = torch.randint(11, (3, 10), generator=torch.Generator().manual_seed(0))
    every = [(layer, head) for layer in range(3) for head in range(2)]
    intact, removed = run_pass(bridge, tokens).losses, run_pass(bridge, tokens, removed=every).losses
    torch.testing.assert_close(removed[:, 0], intact[:, 0], atol=1e-6, rtol=0)
    assert float((removed[:, 1:] - intact[:, 1:]).abs().amax(0).min()) > 1e-4


def test_norms_of_what_heads_write_leave_out_the_first_position(bridge):
    tokens = torch.randint(11, (3, 10), generator=torch.Generator().manual_seed(0))
    found = write_norms(Decoder(bridge, 10), tokens)
    seen = {}
    hooks = [
        (f"blocks.{layer}.attn.hook_z", lambda z, hook, layer=layer: seen.update({layer: z.detach()}))
        for layer in range(3)
    ]
    bridge.run_with_hooks(tokens, fwd_hooks=hooks)
    for layer in range(3):
        z, W_O = seen[layer], bridge.blocks[layer].attn.W_O.detach()
        for head in range(2):
            each = [float((z[b, t, head] @ W_O[head]).norm()) for b in range(3) for t in range(1, 10)]
            assert float(found[layer, head]) == pytest.approx(sum(each) / len(each), rel=1e-4)


def test_documents_are_long_enough_and_start_with_the_document_token(monkeypatch, tmp_path):
    texts = ["a" * 300] * 5 + ["a" * 20] * 30
    module = "replications.induction_heads.read_text"
    monkeypatch.setattr(
        f"{module}.load_tokenizer", lambda folder: lambda text, **options: {"input_ids": [9] * len(text)}
    )
    every = [Document(id=str(k), group="g", kind="source", text=text) for k, text in enumerate(texts)]
    monkeypatch.setattr(f"{module}.read_corpus", lambda folder, split: every)
    found = documents(tmp_path, "held_out", tmp_path, TEXT.model_copy(update={"documents": 4}), 0)
    assert found.shape == (4, 256)
    assert bool((found[:, 0] == 0).all())
    assert bool((found[:, 1:] == 9).all())
    with pytest.raises(UserError, match="only 5 of the 48 documents have 256 tokens"):
        documents(tmp_path, "held_out", tmp_path, TEXT, 0)
