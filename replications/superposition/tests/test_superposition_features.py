"""Few features on planted models: the paper's arrangements pass, broken or swapped ones fail."""

import pytest
import torch

from replications.superposition.geometry import dimensionality
from replications.superposition.measure_features import (
    angle_gap,
    antipodal_pairs,
    intro_metrics,
    many_metrics,
    polygon_metrics,
)
from replications.superposition.settings import Intro, Polygons
from replications.superposition.tests.planted import SEEDS, grid, missed, ring
from replications.superposition.theory import variance

PAIR = ring([0.0, 90.0, None, None, None])
DIGONS = ring([0.0, 90.0, 180.0, 270.0, None])
PENTAGON = ring([0.0, 72.0, 144.0, 216.0, 288.0], norm=1.1)
WORSE = torch.full((2, 5), 0.5, dtype=torch.float64)  # a restart that must not be chosen


def planted(arrangements, densities):
    losses = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(len(SEEDS), len(densities), 1, 1)
    return grid([[one, WORSE] for one in arrangements], densities, losses)


INTRO = {
    "dense_pair_gap": (None, 0.1),
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


def test_a_right_angle_and_a_triangle_have_the_shares_of_a_pentagon_but_not_its_angles():
    planes = torch.stack([PENTAGON, ring([0, 90, 10, 130, 250])])
    assert torch.allclose(dimensionality(planes), torch.tensor(0.4, dtype=torch.float64), atol=1e-6)
    assert angle_gap(planes).tolist() == pytest.approx([0, 62], abs=1e-4)


@pytest.mark.parametrize("swapped", [False, True])
def test_polygons_hold_at_their_own_density_only(swapped):
    settings = Polygons.model_construct(digon_density=0.3, pentagon_density=0.05)
    metrics = polygon_metrics(planted([PENTAGON, DIGONS] if swapped else [DIGONS, PENTAGON], [0.3, 0.05]), settings)
    bounds = {"pentagon_gap": (None, 0.02), "pentagon_angles": (None, 5), "digon_gap": (None, 0.02)}
    assert missed(metrics, **bounds) == (set(bounds) if swapped else set())


PAIRS, TWO = ring([0, 180, 90, 270]), ring([0, 90, None, None])


def forgotten(density):
    """Biases of a model that stores the first two of four features and answers the mean for the others."""
    return torch.tensor([0, 0, density / 2, density / 2], dtype=torch.float64)


@pytest.mark.parametrize(
    ("dense", "sparse", "wrong"),
    [
        (TWO, PAIRS, set()),
        (PAIRS, PAIRS, {"dense_dimensionality"}),
        (TWO, TWO, {"sparsest_loss", "dense_dimensionality"}),
    ],
)
def test_dense_features_have_dimensions_and_sparse_ones_lower_the_loss(dense, sparse, wrong):
    """Four features in two dimensions. Losses are those of the models themselves on new points, over that of the best
    linear model, whatever the grid says: that was measured where restarts were chosen."""
    densities, claimed = [1.0, 0.03], torch.full((len(SEEDS), 2, 1, 1), 7.0, dtype=torch.float64)
    grids = {"relu": grid([[dense], [sparse]], densities, claimed), "linear": grid([[TWO]] * 2, densities, claimed)}
    for name, models in (("relu", (dense, sparse)), ("linear", (TWO, TWO))):
        for d, (one, density) in enumerate(zip(models, densities, strict=True)):
            grids[name].b[:, d] = forgotten(density) if one is TWO else 0.0
    grids["random_directions"] = grid([[ring([10, 50, 180, 270])]], [0.03], claimed[:, 1:])
    metrics = many_metrics(grids)
    assert missed(metrics, dense_dimensionality=(0.9, None), sparsest_loss=(None, 0.35)) == wrong
    found = metrics["sparsest_loss"]
    pairs = 4 * 0.03**2 / 6 / (2 * variance(0.03))
    assert found.value == pytest.approx(pairs if sparse is PAIRS else 1.0, rel=0.03)
    assert found.control("linear").value == pytest.approx(1.0, rel=0.03)
    assert found.control("random_directions").value > 1.5 * pairs


def test_antipodal_pairs_lose_what_their_models_lose():
    n, hidden, density, importance = 7, 2, 0.1, 0.7 ** torch.arange(7).double()
    W, b = torch.zeros(hidden, n).double(), torch.zeros(n).double()
    for unit in range(hidden):
        W[unit, 2 * unit], W[unit, 2 * unit + 1] = 1.0, -1.0
    b[2 * hidden :] = density / 2  # the mean of what is forgotten
    x = (torch.rand(n, 400_000, generator=torch.Generator().manual_seed(0)) / density).double()
    x = torch.where(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < density, x * density, 0.0)
    error = (W.T @ (W @ x) + b[:, None]).relu() - x
    assert antipodal_pairs(importance, hidden, density) == pytest.approx(
        float(error.square().mean(1) @ importance), rel=0.01
    )
