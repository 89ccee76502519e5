"""Sets, many equal features and attacks on planted models: what makes each metric fail."""

import pytest
import torch

from replications.superposition.geometry import within
from replications.superposition.measure_geometry import (
    local_base_metrics,
    pair_metrics,
    three_pair_metrics,
)
from replications.superposition.measure_uniform import (
    ABOVE,
    BELOW,
    adversarial_metrics,
    at_levels,
    attack,
    excess_losses,
    plateau_shares,
    uniform_metrics,
)
from replications.superposition.settings import Uniform
from replications.superposition.tests.planted import SEEDS, grid, missed, ring

PAIRS = {"right": ring([0, 90, 180, 270]), "opposite": ring([0, 180, 90, 270])}
CHANCE = [ring([0, 180, 90, 270]), ring([0, 90, 180, 270]), ring([0, 90, 270, 180])]
COLLAPSED, HEXAGON = ring([0, 1, 120, 121, 240, 241]), ring([0, 60, 120, 180, 240, 300])
SETS = {
    "correlated_cosine": (None, 0.15),
    "exclusive_cosine": (None, -0.9),
    "collapsed": (2.5, None),
    "side_by_side": (0.9, None),
    "within_sets": (None, 0.25),
}


def sets(correlated, exclusive, dense, sparse):
    rng = torch.Generator().manual_seed(0)
    mixed = torch.cat([torch.eye(10), -torch.eye(10)[torch.randperm(10, generator=rng)]], dim=0).T.double()
    pairs = {
        "correlated": grid([[correlated] * 3], [0.05]),
        "exclusive": grid([[exclusive] * 3], [0.05]),
        "independent": grid([CHANCE], [0.05]),
    }
    three_pairs = {
        "correlated": grid([[dense] * 2, [sparse] * 2], [0.4, 0.02]),
        "independent": grid([[HEXAGON] * 2] * 2, [0.4, 0.02]),
    }
    local_bases = {kind: grid([[mixed]], [0.1]) for kind in ("correlated", "independent")}
    return pair_metrics(pairs) | three_pair_metrics(three_pairs, 0.4) | local_base_metrics(local_bases)


def test_the_papers_sets_pass_and_swapped_ones_fail():
    assert missed(sets(PAIRS["right"], PAIRS["opposite"], COLLAPSED, HEXAGON), **SETS) == set()
    swapped = sets(PAIRS["opposite"], PAIRS["right"], HEXAGON, ring([0, 180, 60, 240, 120, 300]))
    assert missed(swapped, **SETS) == set(SETS) - {"within_sets"}


def test_overlap_within_sets_is_found():
    own = torch.cat([torch.eye(4)[:, :2], -torch.eye(4)[:, :2], torch.eye(4)[:, 2:], -torch.eye(4)[:, 2:]], dim=1)
    assert within(own.double()) == 1.0
    assert within(own[:, [0, 1, 4, 5, 2, 3, 6, 7]].double()) == 0.0


ENDS = (ABOVE, BELOW)


def test_a_staircase_has_a_plateau_and_a_slope_has_none():
    densities = torch.logspace(0, -1.3, 40, dtype=torch.float64)
    stairs = torch.where(densities > 0.55, 1.0, torch.where(densities > 0.2, 0.5, 0.3)).double()
    slope = 1.0 + torch.linspace(0, -0.8, 40, dtype=torch.float64)
    assert plateau_shares(stairs, densities, *ENDS)[0] > 0.8
    assert plateau_shares(slope, densities, *ENDS)[0] < 0.2
    shifted = torch.where(densities > 0.55, 1.0, torch.where(densities > 0.2, 0.6, 0.3)).double()
    assert plateau_shares(shifted, densities, *ENDS)[1] > 0.8


DIGONS = torch.cat([torch.eye(4), -torch.eye(4)], dim=1).double()


def uniform(sparse):
    """Eight features in four dimensions, the last density sparse."""
    models = [[torch.eye(4, 8).double()], [DIGONS], [sparse]]
    return uniform_metrics(grid(models, [1.0, 0.4, 0.05]), Uniform.model_construct(plateau_ends=0.25), SEEDS)


def test_clusters_at_sparser_densities_are_digons_and_no_tangle():
    metrics = uniform(DIGONS)
    assert missed(metrics, clusters_sparser=(0.8, None)) == set()
    assert metrics["most_at_1_2"].value == 1.0
    assert metrics["most_at_2_3"].value == 0.0
    tangle = uniform(torch.randn(4, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    assert tangle["clusters_sparser"].value < 0.5
    assert tangle["clusters_sparser"].control("untrained").value < 0.5
    assert tangle["most_at_1_2"].value == 1.0  # at another density


def test_all_features_count_if_none_is_stored():
    shares = torch.tensor([0.5, 0.5, 0.1, 0.1], dtype=torch.float64)
    assert at_levels(shares, torch.zeros(4, dtype=torch.bool), [0.5]) == 0.5
    assert at_levels(shares, torch.tensor([False, False, True, True]), [0.5]) == 0.0


def test_a_model_without_superposition_has_vulnerability_one():
    x = torch.rand(6, 200, generator=torch.Generator().manual_seed(0))
    x[3:] = 0.0
    W, b = torch.eye(3, 6), torch.zeros(6)
    weight = torch.full((200,), 1 / 200)
    directions = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    found = excess_losses(W, b, x, weight, 0.1, directions)
    assert found.feature == pytest.approx(0.01, rel=1e-4)
    assert found.random < found.row_space < 0.01, "the model ignores three of six dimensions"
    shared = torch.cat([torch.eye(3), torch.eye(3)], dim=1)
    assert excess_losses(shared, b, x, weight, 0.1, directions).feature > 1.5 * found.feature


def test_vulnerability_faces_random_directions_and_is_one_for_the_dense_model():
    one = torch.eye(4, 8).double()
    planted = grid([[one], [DIGONS], [DIGONS + 0.3]], [1.0, 0.4, 0.05])
    attacks = attack(planted, 16, SEEDS)
    assert attacks["vulnerability"][:, 0].tolist() == [1.0] * len(SEEDS)
    metrics = adversarial_metrics(planted, attacks, SEEDS)
    names = [control.name for control in metrics["vulnerability"].controls]
    assert names == ["random_directions", "row_space_directions"]
    assert metrics["vulnerability_over_ideal"].control("densest_models").value == pytest.approx(1.0, rel=0.2)
    names = [control.name for control in metrics["tracks_features"].controls]
    assert names == ["random_directions", "density_alone"]


def test_the_random_attack_is_the_worst_of_its_directions_at_every_point():
    generator = torch.Generator().manual_seed(0)
    W, b = torch.randn(3, 5, generator=generator), 0.1 * torch.randn(5, generator=generator)
    x, directions = torch.rand(5, 7, generator=generator), torch.randn(5, 5, generator=generator)
    weight = torch.full((7,), 1 / 7)

    def loss(point, move):
        return float((((W.T @ (W @ (point + move)) + b).clamp(min=0) - point) ** 2).sum())

    slow = sum(
        max(loss(point, 0.3 * one / one.norm()) for one in directions.T) - loss(point, torch.zeros(5)) for point in x.T
    )
    found = excess_losses(W, b, x, weight, 0.3, directions)
    assert found.random == pytest.approx(slow / 7, rel=1e-4)
    own = excess_losses(W, b, x, weight, 0.3, W.T @ W)
    assert own.random == found.feature
    assert own.row_space == pytest.approx(found.feature, rel=1e-4), "feature directions lie in that space"
