"""Head scores on planted heads: a perfect induction head, its parts, and cheats that must not count."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.interp.head_scores import (
    HeadWeights,
    composition,
    copying,
    copying_first,
    duplicate_token,
    duplicates,
    eigenvalue_score,
    positional_share,
    prefix_matching,
    previous_token,
    random_heads,
    successors,
)
from common.toys.settings import Architecture
from common.toys.transformer import forward, token_losses

VOCAB, LENGTH = 20, 18


def repeats(n=40, seed=0, gap=None):
    """Distinct tokens with one block of 5, from position 1 on, repeated at a random (or one fixed) distance."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n):
        fresh = torch.randperm(VOCAB, generator=generator)[: LENGTH - 5]
        cut = int(torch.randint(6, LENGTH - 5 + 1, (1,), generator=generator)) if gap is None else gap + 1
        rows.append(torch.cat([fresh[:cut], fresh[1:6], fresh[cut:]]))
    return torch.stack(rows)


def hand_built(sharp=60.0, loud=60.0):
    """Two layers, one head each, shortformer positions. Layer 0 copies token t - 1 into a second half of the residual
    stream. Layer 1 looks for it with the present token and copies the present half into the logits.

    Dimensions: [token one-hot | previous token one-hot | position one-hot]; positions never enter the residual stream.
    """
    d = 2 * VOCAB + LENGTH
    shape = Architecture(
        n_layers=2, keys="plain", positions="shortformer", mlp="none", d_model=d, n_heads=1, d_head=d,
        d_vocab=VOCAB, n_ctx=LENGTH,
    )  # fmt: skip
    zero = torch.zeros(1, 1, d, d)
    token, previous, position = slice(0, VOCAB), slice(VOCAB, 2 * VOCAB), slice(2 * VOCAB, d)
    W = {f"blocks.{layer}.attn.{name}": zero.clone() for layer in (0, 1) for name in ("W_Q", "W_K", "W_V", "W_O")}
    W["embed.W_E"] = torch.eye(VOCAB, d)[None]
    W["pos_embed.W_pos"] = torch.eye(d)[None, position]
    W["unembed.W_U"] = loud * torch.eye(d, VOCAB)[None]
    W["blocks.0.attn.W_Q"][0, 0, position, position] = sharp * torch.eye(LENGTH).roll(-1, 1)
    W["blocks.0.attn.W_K"][0, 0, position, position] = sharp * torch.eye(LENGTH)
    W["blocks.0.attn.W_V"][0, 0, token, token] = torch.eye(VOCAB)
    W["blocks.0.attn.W_O"][0, 0, token, previous] = torch.eye(VOCAB)
    W["blocks.1.attn.W_Q"][0, 0, token, token] = sharp * torch.eye(VOCAB)
    W["blocks.1.attn.W_K"][0, 0, previous, token] = torch.eye(VOCAB)
    W["blocks.1.attn.W_V"][0, 0, token, token] = torch.eye(VOCAB)
    W["blocks.1.attn.W_O"][0, 0, token, token] = 3 * torch.eye(VOCAB)
    return shape, W


def run(tokens):
    shape, W = hand_built()
    cache = {}
    logits = forward(W, tokens[None], shape, cache=cache)
    return logits, [cache[f"blocks.{layer}.attn.hook_pattern"] for layer in (0, 1)], W


def heads_of(W):
    return [
        HeadWeights(*(W[f"blocks.{layer}.attn.{name}"][0, 0] for name in ("W_Q", "W_K", "W_V", "W_O")))
        for layer in (0, 1)
    ]


def test_hand_built_induction_head_scores_one_and_predicts_the_repeat():
    tokens = repeats()
    logits, (first, second), _ = run(tokens)
    assert float(previous_token(first)) == pytest.approx(1, abs=0.02)
    assert float(prefix_matching(second, tokens)) == pytest.approx(1, abs=0.02)
    assert float(prefix_matching(first, tokens)) < 0.2
    assert float(previous_token(second)) < 0.3
    assert float(duplicate_token(second, tokens)) < 0.05
    assert float(positional_share(second, tokens)) < 0.4
    predictable = successors(tokens).any(-1)[:, :-1]
    predictable[:, :-1] &= predictable[:, 1:]  # the last token of the copy is followed by something new
    predictable[:, -1] = False
    assert float(token_losses(logits, tokens[None])[0][predictable].max()) < 0.05


def test_positional_cheat_does_not_count_as_induction():
    """Attention a fixed distance back looks like induction where that distance is the period, and only there."""
    fixed, free = repeats(gap=7), repeats()
    cheat = torch.zeros(40, 1, LENGTH, LENGTH)
    cheat[:, :, range(6, LENGTH), range(LENGTH - 6)] = 1.0
    cheat[:, :, :6, 0] = 1.0
    assert float(prefix_matching(cheat, fixed)) == pytest.approx(1)  # the trap is real
    assert float(prefix_matching(cheat, free)) < 0.35
    for tokens in (fixed, free):
        assert float(prefix_matching(cheat, tokens) - positional_share(cheat, tokens)) == pytest.approx(0, abs=1e-6)
    _, (_, second), _ = run(free)
    assert float(prefix_matching(second, free) - positional_share(second, free)) > 0.6


def test_masks_equal_their_literal_definitions():
    tokens = torch.tensor([[3, 1, 3, 3, 2, 1, 3]])
    for query in range(7):
        for key in range(7):
            copy = key < query and tokens[0, key] == tokens[0, query]
            after = 0 < key <= query and tokens[0, key - 1] == tokens[0, query]
            assert bool(duplicates(tokens)[0, query, key]) == bool(copy)
            assert bool(successors(tokens)[0, query, key]) == bool(after)


def test_all_earlier_copies_count():
    """A head that spreads over the successors of three copies is as much an induction head as one that picks one."""
    tokens = torch.arange(4).repeat(4)[None]
    spread = successors(tokens).float()
    pattern = (spread / spread.sum(-1, keepdim=True).clamp(min=1))[:, None]
    assert float(prefix_matching(pattern, tokens)) == pytest.approx(1)


def test_no_repeats_is_an_error():
    with pytest.raises(ValueError, match="no repeated token"):
        prefix_matching(torch.ones(1, 1, 5, 5) / 5, torch.arange(5)[None])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_pattern_scores_lie_between_zero_and_one(seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, (2, 9), generator=generator)
    pattern = torch.randn(2, 3, 9, 9, generator=generator).tril().softmax(-1)
    pattern = pattern.tril() / pattern.tril().sum(-1, keepdim=True)
    for score in (prefix_matching(pattern, tokens), duplicate_token(pattern, tokens), previous_token(pattern)):
        assert score.shape == (3,)
        assert bool(((score >= 0) & (score <= 1 + 1e-6)).all())


def test_copying_of_identity_opposite_and_noise():
    assert float(copying(torch.eye(20))) == pytest.approx(1, abs=1e-6)
    assert float(copying(-torch.eye(20))) == pytest.approx(-1, abs=1e-6)
    noise = torch.randn(200, 30, 30, generator=torch.Generator().manual_seed(0))
    assert float(copying(noise).mean()) == pytest.approx(2 / 30 - 1, abs=0.03)
    assert float(copying_first(noise).mean()) == pytest.approx(1 / 30, abs=0.01)
    assert float(copying_first(torch.eye(20) + 0.4 * torch.rand(20, 20))) == 1
    assert float(copying_first(-torch.eye(20))) == 0


def test_eigenvalue_score_equals_the_dense_spectrum_and_knows_copying():
    generator = torch.Generator().manual_seed(1)
    left = torch.randn(5, 12, 4, generator=generator, dtype=torch.float64)
    right = torch.randn(5, 4, 12, generator=generator, dtype=torch.float64)
    dense = torch.linalg.eigvals(left @ right)
    expected = dense.sum(-1).real / dense.abs().sum(-1)
    torch.testing.assert_close(eigenvalue_score(left, right), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(eigenvalue_score(left, left.mT), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(eigenvalue_score(left, -left.mT), -torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_composition_equals_dense_matrices(kind):
    heads = random_heads(12, 4, 6, seed=3)
    early, late = HeadWeights(*(W[:3, None] for W in heads)), HeadWeights(*(W[None, 3:6] for W in heads))
    earlier = early.W_V @ early.W_O
    later = {"Q": late.W_Q @ late.W_K.mT, "K": late.W_K @ late.W_Q.mT, "V": late.W_V @ late.W_O}[kind]
    norm = torch.linalg.matrix_norm
    expected = norm(earlier @ later) / (norm(earlier) * norm(later))
    torch.testing.assert_close(composition(kind, early, late), expected)


def test_random_heads_compose_at_one_over_root_d_model():
    heads = random_heads(64, 8, 400, seed=0)
    score = composition("K", heads, HeadWeights(*(W.roll(1, 0) for W in heads)))
    assert float(score.mean()) == pytest.approx(1 / math.sqrt(64), rel=0.05)


def test_only_the_key_of_the_hand_built_head_reads_the_previous_token_head():
    early, late = heads_of(run(repeats(n=2))[2])
    assert float(composition("K", early, late)) > 0.2
    assert float(composition("Q", early, late)) == pytest.approx(0, abs=1e-6)
    assert float(composition("V", early, late)) == pytest.approx(0, abs=1e-6)
