"""Claims of the later parts on planted models: the paper's arrangements pass, broken or swapped ones fail."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from common.core.claims import evaluate, load_claims
from common.core.metrics import read_metrics
from common.toys.settings import Optimisation
from replications.superposition.exact_thirds import best_third, nodes
from replications.superposition.grid import Grid, save_grids
from replications.superposition.measure_double_descent import irregularity, measure_double_descent, weighted_share
from replications.superposition.measure_learning import across_sets, largest_jump, within_sets
from replications.superposition.measure_many import antipodal_pairs, disorder
from replications.superposition.measure_neurons import measure_neurons, polysemantic
from replications.superposition.measure_rarer import crossing, measure_rarer
from replications.superposition.measure_sets import measure_sets, within
from replications.superposition.measure_third_feature import CLASSES, classify
from replications.superposition.measure_uniform import plateau_shares
from replications.superposition.theory import antipodal, border, forget_extra, variance
from replications.superposition.training_settings import WidthTraining

SEEDS = [0, 1, 2]
CLAIMS = {claim.id: claim for claim in load_claims("superposition")}


def verdicts(names, path):
    metrics = read_metrics(path)
    return {name: evaluate("superposition", CLAIMS[name], "toy", metrics).verdict for name in names}


def ring(angles, norm=1.0):
    """Columns at the given angles (degrees); None is a feature that is not stored."""
    kept = torch.tensor([0.0 if a is None else norm for a in angles], dtype=torch.float64)
    radians = torch.deg2rad(torch.tensor([a or 0.0 for a in angles], dtype=torch.float64))
    return kept * torch.stack([radians.cos(), radians.sin()])


def grid(models, densities, losses=None):
    """models[density][restart], the same for every seed."""
    W = torch.stack([torch.stack(restarts) for restarts in models])[None, :, None].repeat(len(SEEDS), 1, 1, 1, 1, 1)
    loss = torch.ones(W.shape[:4], dtype=torch.float64) if losses is None else losses
    b = torch.zeros(*W.shape[:4], W.shape[-1], dtype=torch.float64)
    ones = torch.ones(1, W.shape[-1], dtype=torch.float64)
    return Grid(W, b, loss, 0 * loss, torch.tensor(densities, dtype=torch.float64), ones)


PAIRS = {"right": ring([0, 90, 180, 270]), "opposite": ring([0, 180, 90, 270])}
CHANCE = [ring([0, 180, 90, 270]), ring([0, 90, 180, 270]), ring([0, 90, 270, 180])]


def sets(folder, correlated, exclusive, dense, sparse):
    rng = torch.Generator().manual_seed(0)
    mixed = torch.cat([torch.eye(10), -torch.eye(10)[torch.randperm(10, generator=rng)]], dim=0).T.double()
    grids = {
        "pairs.correlated": grid([[correlated] * 3], [0.05]),
        "pairs.exclusive": grid([[exclusive] * 3], [0.05]),
        "pairs.independent": grid([CHANCE], [0.05]),
        "three_pairs.correlated": grid([[dense] * 2, [sparse] * 2], [0.4, 0.02]),
        "three_pairs.independent": grid([[ring([0, 60, 120, 180, 240, 300])] * 2] * 2, [0.4, 0.02]),
        "local_bases.correlated": grid([[mixed]], [0.1]),
        "local_bases.independent": grid([[mixed]], [0.1]),
    }
    save_grids(folder / "models.safetensors", grids)
    tables = {name: folder / f"{name}.csv" for name in ("table", "collapse", "products")}
    measure_sets(
        models=folder / "models.safetensors", seeds=SEEDS, collapse_density=0.4, metrics=folder / "m.json", **tables
    )
    return folder / "m.json"


SETS = ["correlated_orthogonal", "exclusive_antipodal", "pairs_collapse", "hexagon_side_by_side", "local_bases"]
COLLAPSED, HEXAGON = ring([0, 1, 120, 121, 240, 241]), ring([0, 60, 120, 180, 240, 300])


def test_the_papers_sets_pass_every_claim(tmp_path):
    metrics = sets(tmp_path, PAIRS["right"], PAIRS["opposite"], COLLAPSED, HEXAGON)
    assert verdicts(SETS, metrics) == dict.fromkeys(SETS, "reproduced")


def test_swapped_sets_fail(tmp_path):
    metrics = sets(tmp_path, PAIRS["opposite"], PAIRS["right"], HEXAGON, ring([0, 180, 60, 240, 120, 300]))
    found = verdicts(SETS[:4], metrics)
    assert "reproduced" not in found.values()


def test_overlap_within_sets_is_found():
    own = torch.cat([torch.eye(4)[:, :2], -torch.eye(4)[:, :2], torch.eye(4)[:, 2:], -torch.eye(4)[:, 2:]], dim=1)
    assert within(own.double()) == 1.0
    assert within(own[:, [0, 1, 4, 5, 2, 3, 6, 7]].double()) == 0.0


RATIOS = [1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.1]


def rarer(folder, slope):
    """Pentagon losses of a given slope against digons of the closed form."""
    pentagon, digons = ring([0, 72, 144, 216, 288]), ring([0, 90, 180, 270, None])
    s = 0.05
    theory = torch.tensor([2 * s * s / 3 + variance(s * ratio) for ratio in RATIOS], dtype=torch.float64)
    own = theory[4] * (torch.tensor(RATIOS, dtype=torch.float64) / 0.25) ** slope
    losses = torch.stack([own, theory], dim=-1)[None, :, None].repeat(len(SEEDS), 1, 1, 1)
    losses[1:, :, :, 0] *= 1.001
    save_grids(folder / "models.safetensors", {"relu": grid([[pentagon, digons]] * len(RATIOS), RATIOS, losses)})
    tables = {"table": folder / "t.csv", "columns": folder / "c.csv"}
    measure_rarer(models=folder / "models.safetensors", seeds=SEEDS, density=s, metrics=folder / "m.json", **tables)
    return folder / "m.json"


def test_crossing_branches_are_found(tmp_path):
    path = rarer(tmp_path, 0.3)
    names = ["rarer_feature_snaps", "rarer_branches_cross", "rarer_digon_theory"]
    assert verdicts(names, path) == dict.fromkeys(names, "reproduced")
    assert read_metrics(path)["crossing"].value == pytest.approx(4.0, rel=0.02)


def test_branches_that_never_cross_stop_the_step(tmp_path):
    with pytest.raises(ArithmeticError, match="never cross"):
        rarer(tmp_path, 2.0)


def test_crossing_of_two_power_laws():
    ratios = np.geomspace(1.0, 0.1, 20)
    at, kink, bend = crossing(ratios, 0.3**0.2 * ratios**0.2, 0.3**-0.5 * ratios**0.9)
    assert at == pytest.approx(0.3, rel=1e-6)
    assert kink == pytest.approx(0.7, rel=1e-6)
    assert bend == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("density", "importance"), [(0.05, 1.0), (1.0, 0.1), (0.1, 10.0)])
def test_the_third_features_optimum_is_no_worse_than_the_closed_forms(density, importance):
    _, _, loss = best_third(importance, density, [])
    v, s = variance(density), density
    best = min(min(importance, 1.0) * v, (1 + importance) * s * s / 6, s * s / 3)
    assert 0.7 * best < loss < 1.01 * best  # quadrature


def test_third_feature_classes():
    third = {
        "ignored": [[1, 0, 0], [0, 1, 0]],
        "dedicated": [[1, 0, 0], [0, 0, 1]],
        "superposed": [[1, 0, -1], [0, 1, 0]],
    }
    for name, W in third.items():
        assert CLASSES[int(classify(np.array(W, dtype=float), 0.3))] == name
    assert CLASSES[int(classify(np.array([[0.1, 0, -1.0], [0, 1, 0]]), 0.3))] == "dedicated"


def test_quadrature_has_the_moments_of_three_features():
    x, weight = nodes(0.3)
    assert float(weight.sum()) == pytest.approx(1.0)
    np.testing.assert_allclose(x @ weight, 0.15)
    np.testing.assert_allclose((x * weight) @ x.T, 0.1 * np.eye(3) + 0.0225 * (1 - np.eye(3)))


def test_a_staircase_has_a_plateau_and_a_slope_has_none():
    densities = torch.logspace(0, -1.3, 40, dtype=torch.float64)
    stairs = torch.where(densities > 0.55, 1.0, torch.where(densities > 0.2, 0.5, 0.3)).double()
    slope = 1.0 + torch.linspace(0, -0.8, 40, dtype=torch.float64)
    assert plateau_shares(stairs, densities)[0] > 0.8
    assert plateau_shares(slope, densities)[0] < 0.2
    shifted = torch.where(densities > 0.55, 1.0, torch.where(densities > 0.2, 0.6, 0.3)).double()
    assert plateau_shares(shifted, densities)[1] > 0.8


def test_order_of_superposition():
    kept = torch.tensor([True, True, True, True, False])
    assert disorder(torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]), kept) == 0
    assert disorder(torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]), kept) == 2
    assert disorder(torch.zeros(5), kept) == 0
    assert antipodal_pairs(ring([0, 90, 180, 270, None])) == 2
    assert antipodal_pairs(ring([0, 72, 144, 216, 288])) == 0


def test_jumps_and_stages():
    shares = torch.zeros(101, 3, dtype=torch.float64)
    shares[60:, 0] = 0.5
    loss = torch.linspace(2.0, 1.0, 101, dtype=torch.float64)
    loss[60:] -= 0.3
    change, drop, both = largest_jump(shares, loss)
    assert change == both == 0.5
    assert drop > 10
    assert largest_jump(shares, torch.linspace(2.0, 1.0, 101, dtype=torch.float64))[2] == 0  # a jump without a drop
    smooth = torch.linspace(0, 0.5, 101, dtype=torch.float64)[:, None].expand(-1, 3)
    assert largest_jump(smooth, torch.linspace(2.0, 1.0, 101, dtype=torch.float64))[0] < 0.01
    together = torch.eye(3, dtype=torch.float64)[:, [0, 0, 0, 1, 1, 1]]
    assert float(within_sets(together)) == pytest.approx(1.0)
    octahedron = torch.cat([torch.eye(3), -torch.eye(3)], dim=1).double()
    assert float(across_sets(octahedron)) == 1.0
    assert float(across_sets(octahedron[:, [0, 3, 1, 4, 2, 5]])) == pytest.approx(1 / 3)


def test_units_that_serve_several_features(tmp_path):
    alone, shared = torch.eye(5, 10).double(), torch.cat([torch.eye(5), torch.eye(5)], dim=1).double()
    assert float(polysemantic(alone)) == 0
    assert float(polysemantic(shared)) == 5
    turned = (
        torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q @ alone
    )
    grids = {
        "relu_hidden": grid([[alone] * 2, [shared] * 2], [1.0, 0.02]),
        "relu": grid([[turned] * 2] * 2, [1.0, 0.02]),
    }
    save_grids(tmp_path / "models.safetensors", grids)
    measure_neurons(
        models=tmp_path / "models.safetensors",
        seeds=SEEDS,
        monosemantic_density=1.0,
        metrics=tmp_path / "m.json",
        table=tmp_path / "t.csv",
    )
    names = ["neurons_dense", "neurons_sparse"]
    assert verdicts(names, tmp_path / "m.json") == dict.fromkeys(names, "reproduced")


DESCENT = ["double_descent", "double_descent_widths", "features_at_last", "points_share_equally"]
SWEEP = WidthTraining(
    n_features=60, widths=[2, 3], density=0.1, points=[4, 6, 50, 60], chunk=100, chunks=1, test_points=16,
    control_decay=1.0, n_seeds=3, optimisation=Optimisation(
        steps=1, batch=1, learning_rate=0.1, warmup=0, beta1=0.9, beta2=0.9, weight_decay=0.0, clip=1.0
    ),
)  # fmt: skip


def few_points(folder, *, bump=1.0, wide_bump=0.1, decayed_bump=0.0, regular=True):
    """Points as regular polygons and features as a mess, until at many points the features form a pentagon."""
    points = [4, 6, 50, 60]
    mess = 0.1 * torch.randn(2, 60, generator=torch.Generator().manual_seed(0))
    clean = torch.zeros(2, 60)
    clean[:, :5] = ring([0, 72, 144, 216, 288])
    W = torch.stack([mess, mess, mess, clean])[None, :, None].repeat(2, 1, 3, 1, 1)
    test = torch.tensor([1.0, 1.0, 1.0 + bump, 0.9])[None, :, None].repeat(2, 1, 3) + 0.01 * torch.arange(3)
    test[1, 2] = 1.0
    tensors = {"W": W, "b": torch.zeros(2, 4, 3, 60), "train_loss": test.clone(), "test_loss": test}
    sweep = torch.stack([test, test - 1.0], dim=-1)
    sweep[:, 2, :, 1] = 0.01 * torch.arange(3) + torch.tensor([wide_bump, decayed_bump])[:, None]
    tensors |= {"widths.test_loss": sweep, "widths.train_loss": sweep.clone()}
    crooked = {size: ring([7 * k for k in range(size)]) for size in points}
    for size in points:
        polygon = ring([360 * k / size for k in range(size)]) if regular else crooked[size]
        tensors[f"hidden.{size}"] = polygon[None, None].repeat(2, 3, 1, 1)
        tensors[f"start.{size}"] = crooked[size][None].repeat(3, 1, 1)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "models.safetensors")
    files = {name: folder / f"{name}.csv" for name in ("table", "columns", "sweep")}
    models = folder / "models.safetensors"
    measure_double_descent(models=models, seeds=SEEDS, points=points, widths=SWEEP, metrics=folder / "m.json", **files)
    return verdicts(DESCENT, folder / "m.json")


@pytest.mark.parametrize(
    ("broken", "missed"),
    [
        ({}, set()),
        ({"bump": 0.0}, {"double_descent", "double_descent_widths"}),
        ({"wide_bump": 0.0}, {"double_descent_widths"}),
        ({"decayed_bump": 0.1}, {"double_descent_widths"}),
        ({"regular": False}, {"points_share_equally"}),
    ],
)
def test_few_points_then_features(tmp_path, broken, missed):
    found = few_points(tmp_path, **broken)
    assert {name for name in DESCENT if found[name] != "reproduced"} == missed


def test_shares_are_equal_in_every_tight_frame_and_not_in_a_fan():
    for angles in ([0, 90, 180, 270], [0, 0, 90, 90], [0, 45, 90, 135]):
        assert float(irregularity(ring(angles))) == pytest.approx(0, abs=1e-6)
    assert float(irregularity(ring([0, 20, 40, 60]))) > 0.1


def test_weighted_share_ignores_scale():
    W = ring([0, 72, 144, 216, 288])
    assert float(weighted_share(W)) == pytest.approx(0.4)
    assert float(weighted_share(0.01 * W)) == pytest.approx(0.4)


def test_the_closed_form_borders_are_where_losses_meet():
    for r in (0.2, 0.6):
        s = float(border(np.array([r]))[0])
        assert antipodal(r, s) == pytest.approx(forget_extra(r, s))
