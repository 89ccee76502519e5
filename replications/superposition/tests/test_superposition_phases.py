"""Phase diagrams on planted models: exact solutions pass; upside-down, unsuperposed or smooth ones fail."""

import numpy as np
import pandas as pd
import pytest
import torch

from common.core.errors import UserError
from common.core.files import write_text
from replications.superposition.grid import Grid, save_grids
from replications.superposition.measure_phases import (
    first_order_metrics,
    jump,
    lone_jump,
    lonely_jumps,
    phase_diagram,
    read_exact,
)
from replications.superposition.phases import best_density_threshold
from replications.superposition.settings import Judging
from replications.superposition.tests.planted import SEEDS, missed
from replications.superposition.theory import best_model

DENSITIES, IMPORTANCES = [1.0, 0.2, 0.05, 0.02], [0.1, 0.3, 3.0, 10.0]
JUDGING = Judging(stored_norm=0.3, band=0.0, loss_slack=0.05)
BOUNDS = {"class_agreement": (0.99, None), "near_optimal": (0.95, None), "agreement_superposed": (0.9, None)}


@pytest.fixture(scope="module")
def solved():
    """Exact optimum of a small grid, density by importance."""
    return [[best_model(r, s) for r in IMPORTANCES] for s in DENSITIES]


def measured(folder, solved, change):
    w = torch.tensor(np.array([[cell.w for cell in row] for row in solved]))
    b = torch.tensor(np.array([[cell.b for cell in row] for row in solved]))
    importance = torch.tensor([[1.0, r] for r in IMPORTANCES], dtype=torch.float64)
    densities = torch.tensor(DENSITIES, dtype=torch.float64)

    def grid(w, b):
        W = w[None, :, :, None, None].repeat(len(SEEDS), 1, 1, 1, 1, 1)
        loss = torch.zeros(W.shape[:4], dtype=torch.float64)
        return Grid(W, b[None, :, :, None].repeat(len(SEEDS), 1, 1, 1, 1), loss, loss, densities, importance)

    linear_w = torch.zeros_like(w)
    linear_w[:, :2, 0], linear_w[:, 2:, 1] = 1.0, 1.0
    linear_b = (1 - linear_w) * densities[:, None, None] / 2
    save_grids(folder / "models.safetensors", {"relu": grid(*change(w, b)), "linear": grid(linear_w, linear_b)})
    rows = [
        [r, s, *solved[d][j].w, solved[d][j].loss, min(1.0, r) * (s / 3 - s * s / 4)]
        for d, s in enumerate(DENSITIES)
        for j, r in enumerate(IMPORTANCES)
    ]
    names = ["importance", "density", "w1", "w2", "loss", "linear_loss"]
    write_text(folder / "exact.csv", pd.DataFrame(rows, columns=names).to_csv(index=False))
    return phase_diagram(folder / "models.safetensors", folder / "exact.csv", JUDGING, SEEDS)


def test_exact_solutions_pass(tmp_path, solved):
    metrics, table = measured(tmp_path, solved, lambda w, b: (w, b))
    assert missed(metrics, **BOUNDS) == set()
    assert metrics["linear_as_theory"].value == 1.0
    controls = {control.name: control.value for control in metrics["class_agreement"].controls}
    assert set(controls) == {"linear", "best_density_threshold", "permuted_cells"}
    assert controls["best_density_threshold"] == 14 / 16, "at density 0.2 the exact optimum superposes two of four"
    first = table[(table["seed"] == 1) & (table["density"] == 0.05) & (table["importance"] == 0.3)].iloc[0]
    assert (first["class"], first["exact_class"], first["linear_class"]) == ("superposed", "superposed", "ignored")


def test_a_grid_turned_upside_down_fails(tmp_path, solved):
    metrics, _ = measured(tmp_path, solved, lambda w, b: (w.flip(0), b.flip(0)))
    assert {"class_agreement", "near_optimal"} <= missed(metrics, **BOUNDS)


def test_models_that_never_superpose_fail(tmp_path, solved):
    metrics, _ = measured(tmp_path, solved, lambda w, b: (torch.tensor([1.0, 0.0]).double().expand_as(w), b))
    assert "agreement_superposed" in missed(metrics, **BOUNDS)


def test_models_that_see_density_alone_fail(tmp_path, solved):
    sparse = torch.tensor(DENSITIES)[:, None, None] <= 0.2
    kept = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    both = torch.tensor([0.8, -0.8], dtype=torch.float64)
    metrics, _ = measured(tmp_path, solved, lambda w, b: (torch.where(sparse, both, kept), b))
    assert "class_agreement" in missed(metrics, **BOUNDS)
    assert metrics["class_agreement"].value == 14 / 16


@pytest.mark.parametrize(
    ("last", "compared", "agreement"),
    [
        ([3, 3, 3, 3], [1, 1, 1, 1], 1.0),  # the border lies at one density
        ([1, 1, 2, 2], [1, 1, 1, 1], 1.0),  # nothing is superposed: no threshold
        ([1, 3, 3, 3], [1, 1, 1, 1], 11 / 12),
        ([1, 3, 3, 3], [0, 1, 1, 1], 1.0),  # the cell that differs is not compared
        ([3, 1, 2, 2], [1, 1, 1, 1], 11 / 12),
        ([1, 1, 1, 1], [1, 1, 1, 1], 10 / 12),  # the more important feature must be kept
    ],
)
def test_the_best_rule_on_density_alone(last, compared, agreement):
    truth = np.array([[1, 1, 2, 2], [1, 1, 2, 2], last])
    far = np.array([[True] * 4, [True] * 4, [bool(one) for one in compared]])
    rule = best_density_threshold(truth, far, np.array([1.0, 0.2, 0.05]), np.array(IMPORTANCES))
    assert (rule == truth)[far].mean() == pytest.approx(agreement)


def test_an_optimum_that_can_be_beaten_stops_the_step(tmp_path, solved):
    worse = [[cell._replace(loss=1.5 * cell.loss) for cell in row] for row in solved]
    with pytest.raises(ArithmeticError, match="the exact optimum is none"):
        measured(tmp_path, worse, lambda w, b: (w, b))


def test_an_exact_table_of_another_grid_is_refused(tmp_path, solved):
    measured(tmp_path, solved, lambda w, b: (w, b))
    with pytest.raises(UserError, match="16 cells, the trained grid 25"):
        read_exact(tmp_path / "exact.csv", (5, 5))


@pytest.mark.parametrize("swapped", [False, True])
def test_only_an_abrupt_entry_counts_as_first_order(swapped):
    densities = np.geomspace(0.5, 0.3, 20)
    abrupt, smooth = np.where(densities < 0.376, 0.75, 0.0), np.linspace(0.3, 1.0, 20)
    weaker = np.stack([smooth, abrupt] if swapped else [abrupt, smooth], axis=1)
    W = torch.ones(len(SEEDS), 20, 2, 1, 1, 2, dtype=torch.float64)
    W[..., 0, 0, 1] = -torch.tensor(weaker)
    importance = torch.tensor([[1.0, 0.3], [1.0, 1.0]], dtype=torch.float64)
    zero = torch.zeros(W.shape[:4], dtype=torch.float64)
    grid = Grid(W, torch.zeros(*W.shape[:4], 2, dtype=torch.float64), zero, zero, torch.tensor(densities), importance)
    metrics = first_order_metrics(grid, {"w1": np.ones_like(weaker), "w2": weaker})
    bounds = {"jump": (0.5, None), "before": (None, 0.05)}
    assert missed(metrics, **bounds) == (set(bounds) if swapped else set())
    assert metrics["jump_density_ratio"].value == pytest.approx(1.0)


def test_a_jump_counts_by_how_far_it_exceeds_every_other_step():
    courses = [[0.0, 0.1, 0.8, 0.9], [0.0, 0.7, 0.1, 0.8], [0.8, 0.0, 0.7, 0.7]]  # one jump, two, a fall before it
    assert lone_jump(np.array(courses)) == pytest.approx([0.6, 0.0, -0.1], abs=1e-9)


def test_neither_a_random_order_nor_single_restarts_make_a_lone_jump():
    weaker = np.where(np.arange(40) < 25, 0.0, 0.75)
    W = torch.ones(2, 40, 1, 6, 1, 2, dtype=torch.float64)
    W[:, :, 0, ::2, 0, 1] = torch.tensor(weaker)[:, None]  # every second restart is on the other branch
    W[:, :, 0, 1::2, 0, 1] = 0.75 - torch.tensor(weaker)[:, None]
    zero = torch.zeros(W.shape[:4], dtype=torch.float64)
    grid = Grid(W, torch.zeros(*W.shape[:4], 2), zero, zero, torch.arange(40), torch.tensor([[1.0, 0.3]]))
    alone, shuffled, single = lonely_jumps(grid, np.stack([weaker, weaker]), 0)
    assert alone == pytest.approx([0.75, 0.75])
    assert max(*shuffled, *single) < 0.05


def test_jump_is_the_largest_rise_not_the_largest_fall():
    assert jump(np.array([0.0, 0.1, 0.6, 0.0])) == 1
