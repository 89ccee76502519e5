"""The readings against planted waves, Gromov's closed form and literal sums."""

import math

import pytest
import torch

from replications.grokking.fourier import (
    circle,
    cosine_shares,
    excluded,
    excluded_elsewhere,
    fourier_norms,
    gini,
    grid_norms,
    key_frequencies,
    others,
    overlap,
    permuted,
    phase_error,
    read_neurons,
    restricted,
    roundness,
    strongest,
    wave_shares,
)
from replications.grokking.task import all_pairs, task
from replications.grokking.transformer import losses

PRIME, KEYS = 13, [2, 5]
ANGLE = 2 * math.pi / PRIME * torch.arange(PRIME, dtype=torch.float64)


def planted(prime, frequencies):
    """Logits of the algorithm itself, sum_k cos(w_k (a + b - c)): ground truth for the measures."""
    gap = (all_pairs(prime).sum(-1)[:, None] - torch.arange(prime)[None]).double()
    return torch.stack([torch.cos(2 * math.pi * k / prime * gap) for k in frequencies]).sum(0)


def test_planted_waves_are_read_back():
    logits = planted(PRIME, KEYS)
    shares = cosine_shares(logits)
    assert torch.allclose(shares[torch.tensor(KEYS) - 1], torch.tensor(0.5, dtype=torch.float64))
    assert float(shares.sum()) == pytest.approx(1)
    assert key_frequencies(shares, 0.05) == strongest(shares, 2) == KEYS
    answers = task(PRIME, 0.5, 0).answers
    assert torch.equal(logits.argmax(-1), answers)
    assert float(losses(restricted(30 * logits, KEYS), answers).mean()) < 1e-3
    assert float(losses(excluded(30 * logits, KEYS), answers).mean()) == pytest.approx(math.log(PRIME), abs=1e-6)
    for other in others(PRIME, KEYS, 5):
        assert not set(other) & set(KEYS)
        assert torch.allclose(excluded(logits, other), logits, atol=1e-6)
        assert torch.allclose(restricted(logits, other), logits.mean(0).expand_as(logits), atol=1e-6)


def test_restricted_and_excluded_logits_add_up():
    logits = torch.randn(PRIME**2, PRIME, generator=torch.Generator().manual_seed(0)).double()
    both = restricted(logits, KEYS) + excluded(logits, KEYS)
    assert torch.allclose(both, logits + logits.mean(0), atol=1e-9)


def test_waves_taken_from_other_pairs_are_changes_of_equal_norm():
    logits = torch.randn(PRIME**2, PRIME, generator=torch.Generator().manual_seed(0)).double()
    taken = logits - excluded(logits, KEYS)
    for moved in excluded_elsewhere(logits, KEYS, 3):
        rows = logits - moved
        assert float(rows.norm()) == pytest.approx(float(taken.norm()))
        assert torch.allclose(rows.sort(0).values, taken.sort(0).values, atol=1e-9), "the same rows"
        assert not torch.allclose(rows, taken, atol=0.1), "at other pairs"


def test_shares_are_the_projections_on_literal_waves():
    logits = torch.randn(PRIME**2, PRIME, generator=torch.Generator().manual_seed(0)).double()
    centred = logits - logits.mean(-1, keepdim=True)
    centred = centred - centred.mean(0)
    for k, share in enumerate(cosine_shares(logits).tolist(), start=1):
        wave = planted(PRIME, [k])
        wanted = (wave * centred).sum() ** 2 / wave.square().sum() / centred.square().sum()
        assert share == pytest.approx(float(wanted))


def test_a_wave_in_the_embedding_is_one_frequency_and_a_circle():
    table = torch.stack([2 * torch.cos(3 * ANGLE), 2 * torch.sin(3 * ANGLE), torch.ones(PRIME)], 1)
    assert float(wave_shares(table)[2]) == pytest.approx(1)
    norms = fourier_norms(table)
    assert norms[2].tolist() == pytest.approx([2 * (PRIME / 2) ** 0.5] * 2)
    assert float(norms.square().sum()) == pytest.approx(float((table - table.mean(0)).square().sum()))
    assert roundness(table, [3]) == pytest.approx(1)
    assert circle(table, 3).norm(dim=1).tolist() == pytest.approx([2, 2])
    line = torch.cos(3 * ANGLE)[:, None] * torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    assert roundness(line, [3]) == pytest.approx(0, abs=1e-6)


def test_grid_norms_are_literal_projections():
    a, b = (ANGLE[all_pairs(PRIME)[:, at]] for at in (0, 1))
    norms = grid_norms((torch.cos(2 * a) * torch.sin(5 * b))[:, None])
    assert float(norms[3, 10]) == pytest.approx(PRIME / 2)  # order: 1, cos 1, sin 1, cos 2, sin 2, ...
    assert float(norms.square().sum()) == pytest.approx(float(norms[3, 10]) ** 2)


def test_a_neuron_of_one_frequency_is_pure():
    a, b = (ANGLE[all_pairs(PRIME)[:, at]] for at in (0, 1))
    pure = torch.cos(4 * a) * torch.sin(4 * b) + torch.cos(4 * a + 1) + 2
    mixed = torch.cos(4 * a) + torch.cos(3 * b)
    found = read_neurons(torch.stack([pure, mixed, torch.zeros_like(a)], 1), torch.zeros(3, PRIME))
    assert found.share.tolist() == pytest.approx([1, 0.5, 0], abs=1e-6)
    assert int(found.frequency[0]) == 4


def test_the_closed_form_is_read_as_pure_waves_whose_phases_add_up():
    """Gromov's network: neurons (cos(w_k a + u) + cos(w_k b + v))^2 that write cos(w_k c + u + v)."""
    draw = torch.Generator().manual_seed(0)
    count, prime = 1500, 23
    k = torch.randint(1, (prime - 1) // 2 + 1, (count,), generator=draw)
    u, v = 2 * math.pi * torch.rand(2, count, generator=draw, dtype=torch.float64)
    a, b = (2 * math.pi / prime * all_pairs(prime)[:, [at]] * k for at in (0, 1))
    post = (torch.cos(a + u) + torch.cos(b + v) + 0.1) ** 2  # the offset leaves the waves of a and of b themselves
    writes = torch.cos(2 * math.pi / prime * torch.arange(prime) * k[:, None] + (u + v)[:, None])
    found = read_neurons(post, writes)
    pure = found.frequency == k
    assert float(pure.double().mean()) > 0.5, "the second harmonic may be stronger than the first"
    assert float(found.phase_error[pure].max()) < 1e-4
    shuffled = phase_error(permuted(found.phases, found.frequency))
    assert float(shuffled[pure].median()) == pytest.approx(math.pi / 2, abs=0.25)
    assert torch.equal((post @ writes).argmax(-1), task(prime, 0.5, 0).answers)


def test_phase_errors_of_unrelated_phases_are_even():
    phases = torch.empty(3, 20_000, dtype=torch.float64).uniform_(
        -math.pi, math.pi, generator=torch.Generator().manual_seed(0)
    )
    errors = phase_error(phases)
    assert 0 <= float(errors.min()) <= float(errors.max()) <= math.pi
    assert float(errors.median()) == pytest.approx(math.pi / 2, abs=0.05)


def test_permuted_phases_stay_with_their_frequency():
    phases, frequency = torch.arange(18.0).reshape(3, 6), torch.tensor([1, 2, 1, 2, 1, 2])
    found = permuted(phases, frequency)
    assert torch.equal(found[:2], phases[:2])
    for k in (1, 2):
        assert sorted(found[2, frequency == k].tolist()) == phases[2, frequency == k].tolist()


def test_sets_of_frequencies():
    assert overlap([1, 2], [2, 3]) == pytest.approx(1 / 3)
    assert others(5, [1, 2], 1) == [[]]
    assert key_frequencies(torch.zeros(3).double(), 0.1) == [1]


def test_gini_is_zero_for_equal_and_near_one_for_a_single_value():
    assert gini(torch.ones(10)) == pytest.approx(0)
    assert gini(torch.eye(10)[0]) == pytest.approx(0.9)
