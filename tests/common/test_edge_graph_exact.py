"""Exact edge patching and ACDC on graphs whose answer is known."""

import pytest
import torch

from common.interp.acdc import acdc, exact_edges

EDGES = torch.ones(3, 4, dtype=torch.bool).tril(1)
APART = torch.zeros(4, 3, dtype=torch.bool)  # no writer computes from a reader
WORTH = torch.zeros(3, 4, dtype=torch.float64)
WORTH[0, 0], WORTH[1, 2], WORTH[2, 3] = 3.0, -2.0, 0.5


def worth(held):
    """The edges add up."""
    return (held * WORTH).sum((1, 2))


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_exact_effects_of_edges_that_add_up(at_once):
    torch.testing.assert_close(exact_edges(worth, EDGES, at_once), -WORTH * EDGES)


def test_acdc_keeps_what_raises_the_distance():
    def distance(held):
        return (worth(held) - worth(EDGES[None])).abs()

    assert torch.equal(acdc(distance, EDGES, APART, 0.1), (WORTH != 0) & EDGES)
    assert torch.equal(acdc(distance, EDGES, APART, 1.0), (WORTH.abs() > 1) & EDGES)
    assert not acdc(distance, EDGES, APART, 100.0).any()


def test_acdc_keeps_one_of_two_edges_that_do_the_same():
    def distance(held):
        return 1.0 - held[:, [0, 2], [1, 3]].any(1).double()

    kept = acdc(distance, EDGES, APART, 0.1)
    assert int(kept.sum()) == 1
    assert kept[0, 1], "the sweep goes from the last reader to the first"
    assert exact_edges(distance, EDGES, 4).abs().max() == 0, "exact patching sees neither"


def test_acdc_leaves_out_what_nobody_reads():
    """Writer 1 computes from reader 0 and is read by reader 2 alone, an edge that is worth nothing."""
    feeds, runs = APART.clone(), []
    feeds[0, 1] = True
    edges = EDGES.clone()
    edges[1] = torch.tensor([False, False, True, False])

    def distance(held):
        runs.append(held[0].clone())
        through = held[:, 0, 0] & held[:, 1, 2]
        return 1.0 - through.double() * 0.05 - held[:, 2, 3].double()

    kept = acdc(distance, edges, feeds, 0.1)
    assert kept.nonzero().tolist() == [[2, 3]]
    assert all(one[0, 0] for one in runs), "the edge into reader 0 went without a run"
    assert torch.equal(kept, acdc(distance, edges, APART, 0.1)), "the same circuit by brute force"
