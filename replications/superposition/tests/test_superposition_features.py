"""Few features on planted models: the paper's arrangements pass, broken or swapped ones fail."""

import pytest
import torch

from replications.superposition.measure_features import (
    antipodal_pairs,
    disorder,
    intro_metrics,
    many_metrics,
    off_place,
    polygon_metrics,
)
from replications.superposition.settings import Intro, Polygons
from tests.fixtures.superposition_planted import SEEDS, grid, missed, ring

PAIR = ring([0.0, 90.0, None, None, None])
DIGONS = ring([0.0, 90.0, 180.0, 270.0, None])
PENTAGON = ring([0.0, 72.0, 144.0, 216.0, 288.0], norm=1.1)
WORSE = torch.full((2, 5), 0.5, dtype=torch.float64)  # a restart that must not be chosen


def planted(arrangements, densities):
    losses = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(len(SEEDS), len(densities), 1, 1)
    return grid([[one, WORSE] for one in arrangements], densities, losses)


INTRO = {
    "dense_pair_gap": (None, 0.1),
    "dense_dims_per_feature": (0.95, 1.05),
    "dense_superposition": (None, 0.05),
    "digon_gap": (None, 0.05),
    "sparse_stored": (4.5, None),
}


def intro(arrangements):
    densities = [1.0, 0.25, 0.05]
    grids = {"relu": planted(arrangements, densities), "linear": planted([PAIR] * 3, densities)}
    return intro_metrics(grids, Intro.model_construct(middle_density=0.25))


def test_the_papers_arrangements_pass_and_reversed_densities_fail():
    assert missed(intro([PAIR, DIGONS, PENTAGON]), **INTRO) == set()
    assert missed(intro([PENTAGON, DIGONS, PAIR]), **INTRO) == set(INTRO) - {"digon_gap"}
    assert "digon_gap" in missed(intro([PENTAGON, PAIR, DIGONS]), **INTRO)


@pytest.mark.parametrize("swapped", [False, True])
def test_polygons_hold_at_their_own_density_only(swapped):
    settings = Polygons.model_construct(digon_density=0.3, pentagon_density=0.05)
    metrics = polygon_metrics(planted([PENTAGON, DIGONS] if swapped else [DIGONS, PENTAGON], [0.3, 0.05]), settings)
    bounds = {"pentagon_gap": (None, 0.02), "digon_gap": (None, 0.02)}
    assert missed(metrics, **bounds) == (set(bounds) if swapped else set())


@pytest.mark.parametrize(
    ("linear", "middle", "wrong"),
    [
        ([0, 90, None, None], [0, 180, 90, 270], set()),
        ([0, None, 90, None], [0, 180, 90, 270], {"linear_norms_off"}),
        ([0, 90, None, None], [0, 180, 90, 210], {"middle_pairs"}),
    ],
)
def test_the_linear_model_keeps_the_first_features_and_pairs_are_two(linear, middle, wrong):
    """Four features in two dimensions, dense to sparse; `linear` is the linear model at the sparsest density."""
    keeps, digons = ring([0, 90, None, None]), ring([0, 180, 90, 270])
    models = {
        "relu": [[keeps] * 3, [ring(middle)] * 3, [digons] * 3, [digons] * 3],
        "linear": [[keeps] * 3, [keeps] * 3, [keeps] * 3, [ring(linear)] * 3],
    }
    losses = torch.tensor([1.0, 1.5, 2.0], dtype=torch.float64).repeat(len(SEEDS), 4, 1, 1)
    grids = {name: grid(one, [1.0, 0.3, 0.1, 0.03], losses) for name, one in models.items()}
    metrics = many_metrics(grids, SEEDS)
    bounds = {"linear_norms_off": (None, 0.1), "middle_pairs": (2, None), "sparsest_stored": (3.5, None)}
    assert missed(metrics, **bounds) == wrong
    assert metrics["restart_spread"].value == pytest.approx(0.5)


def test_norms_off_their_place():
    assert float(off_place(ring([0, 90, None]), 2)) == 0.0
    assert float(off_place(ring([0, 90, None], norm=0.7), 2)) == pytest.approx(0.3)
    assert float(off_place(torch.tensor([[1.0, 0.0, 0.2], [0.0, 1.0, 0.0]]), 2)) == pytest.approx(0.2)


def test_order_of_superposition():
    kept = torch.tensor([True, True, True, True, False])
    assert disorder(torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]), kept) == 0
    assert disorder(torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]), kept) == 2
    assert disorder(torch.zeros(5), kept) == 0
    assert antipodal_pairs(ring([0, 90, 180, 270, None])) == 2
    assert antipodal_pairs(ring([0, 72, 144, 216, 288])) == 0
