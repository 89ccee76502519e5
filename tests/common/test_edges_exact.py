"""Exact edge patching and ACDC on graphs whose answer is known."""

import pytest
import torch

from common.edges import acdc, exact_edges

EDGES = torch.ones(3, 4, dtype=torch.bool).tril(1)
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

    assert torch.equal(acdc(distance, EDGES, 0.1), (WORTH != 0) & EDGES)
    assert torch.equal(acdc(distance, EDGES, 1.0), (WORTH.abs() > 1) & EDGES)
    assert not acdc(distance, EDGES, 100.0).any()


def test_acdc_keeps_one_of_two_edges_that_do_the_same():
    def distance(held):
        return 1.0 - held[:, [0, 2], [1, 3]].any(1).double()

    kept = acdc(distance, EDGES, 0.1)
    assert int(kept.sum()) == 1
    assert kept[0, 1], "the sweep goes from the last reader to the first"
    assert exact_edges(distance, EDGES, 4).abs().max() == 0, "exact patching sees neither"
