"""The claims of the replication on planted models: right models pass, and swapped or broken ones fail."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from common.core.claims import evaluate, load_claims
from common.core.files import write_text
from common.core.metrics import read_metrics
from replications.superposition.grid import Grid, save_grids
from replications.superposition.measure_first_order import jump, measure_first_order
from replications.superposition.measure_intro import measure_intro
from replications.superposition.measure_phase_diagram import measure_phase_diagram
from replications.superposition.measure_polygons import measure_polygons
from replications.superposition.theory import best_model
from replications.superposition.training_settings import Judging

SEEDS = [0, 1, 2]
CLAIMS = {claim.id: claim for claim in load_claims("superposition")}


def verdict(name, metrics):
    return evaluate("superposition", CLAIMS[name], "toy", read_metrics(metrics)).verdict


def ring(angles, norm=1.0):
    """Columns at the given angles (degrees); None is a forgotten feature."""
    kept = torch.tensor([0.0 if a is None else norm for a in angles], dtype=torch.float64)
    radians = torch.deg2rad(torch.tensor([a or 0.0 for a in angles], dtype=torch.float64))
    return kept * torch.stack([radians.cos(), radians.sin()])


PAIR = ring([0.0, 90.0, None, None, None])
DIGONS = ring([0.0, 90.0, 180.0, 270.0, None])
PENTAGON = ring([0.0, 72.0, 144.0, 216.0, 288.0], norm=1.1)


def planted(arrangements, densities):
    """The same model for every seed; a second, worse restart that must not be chosen."""
    W = torch.stack(arrangements)[None, :, None, None].repeat(len(SEEDS), 1, 1, 2, 1, 1)
    W[:, :, :, 1] = 0.5
    loss = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(*W.shape[:3], 1)
    importance = torch.ones(1, 5, dtype=torch.float64)
    b = torch.zeros(*W.shape[:4], 5, dtype=torch.float64)
    return Grid(W, b, loss, 0 * loss, torch.tensor(densities, dtype=torch.float64), importance)


def intro(folder, arrangements):
    densities = [1.0, 0.25, 0.05]
    grids = {"relu": planted(arrangements, densities), "linear": planted([PAIR] * 3, densities)}
    save_grids(folder / "models.safetensors", grids)
    paths = {"metrics": folder / "metrics.json", "table": folder / "table.csv"}
    measure_intro(models=folder / "models.safetensors", seeds=SEEDS, middle_density=0.25, **paths)
    return folder / "metrics.json"


INTRO = ["dense_pair", "dense_dims_per_feature", "dense_orthogonal", "middle_digons", "sparse_stores_all"]


def test_the_papers_arrangements_pass_every_claim(tmp_path):
    metrics = intro(tmp_path, [PAIR, DIGONS, PENTAGON])
    assert {name: verdict(name, metrics) for name in INTRO} == dict.fromkeys(INTRO, "reproduced")


@pytest.mark.parametrize("name", INTRO)
def test_reversed_densities_fail_every_claim(tmp_path, name):
    order = [PENTAGON, PAIR, DIGONS] if name == "middle_digons" else [PENTAGON, DIGONS, PAIR]
    assert verdict(name, intro(tmp_path, order)) == "not reproduced"


@pytest.mark.parametrize(("swapped", "expected"), [(False, "reproduced"), (True, "not reproduced")])
def test_polygon_claims_hold_at_their_own_density_only(tmp_path, swapped, expected):
    arrangements = [PENTAGON, DIGONS] if swapped else [DIGONS, PENTAGON]
    save_grids(tmp_path / "models.safetensors", {"relu": planted(arrangements, [0.3, 0.05])})
    files = {"metrics": tmp_path / "m.json", "table": tmp_path / "t.csv", "restarts": tmp_path / "r.csv"}
    measure_polygons(
        models=tmp_path / "models.safetensors", seeds=SEEDS, digon_density=0.3, pentagon_density=0.05, **files
    )
    assert {verdict(name, tmp_path / "m.json") for name in ("pentagon", "two_digons")} == {expected}


DENSITIES, IMPORTANCES = [1.0, 0.2, 0.05, 0.02], [0.1, 0.3, 3.0, 10.0]
JUDGING = Judging(stored_norm=0.3, band=0.0, loss_slack=0.05)


@pytest.fixture(scope="module")
def solved():
    """Exact optimum of a small grid, density by importance."""
    return [[best_model(r, s) for r in IMPORTANCES] for s in DENSITIES]


def phase_diagram(folder, solved, change):
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
        [r, s, *solved[d][j].w, solved[d][j].loss, 1.0, min(1.0, r) * (s / 3 - s * s / 4)]
        for d, s in enumerate(DENSITIES)
        for j, r in enumerate(IMPORTANCES)
    ]
    names = ["importance", "density", "w1", "w2", "loss", "candidate_loss", "linear_loss"]
    write_text(folder / "exact.csv", pd.DataFrame(rows, columns=names).to_csv(index=False))
    files = {"exact": folder / "exact.csv", "metrics": folder / "m.json", "table": folder / "t.csv"}
    measure_phase_diagram(models=folder / "models.safetensors", seeds=SEEDS, judging=JUDGING, **files)
    return folder / "m.json"


PHASE = ["phase_diagram", "near_optimal", "superposition_phase"]


def test_exact_solutions_pass_the_phase_diagram_claims(tmp_path, solved):
    metrics = phase_diagram(tmp_path, solved, lambda w, b: (w, b))
    assert {name: verdict(name, metrics) for name in PHASE} == dict.fromkeys(PHASE, "reproduced")
    assert json.loads(metrics.read_text())["linear_as_theory"]["value"] == 1.0


def test_a_grid_turned_upside_down_fails(tmp_path, solved):
    metrics = phase_diagram(tmp_path, solved, lambda w, b: (w.flip(0), b.flip(0)))
    assert verdict("phase_diagram", metrics) != "reproduced"
    assert verdict("near_optimal", metrics) != "reproduced"


def test_models_that_never_superpose_fail(tmp_path, solved):
    metrics = phase_diagram(tmp_path, solved, lambda w, b: (torch.tensor([1.0, 0.0]).double().expand_as(w), b))
    assert verdict("superposition_phase", metrics) == "not reproduced"


def test_an_optimum_that_can_be_beaten_stops_the_step(tmp_path, solved):
    worse = [[cell._replace(loss=1.5 * cell.loss) for cell in row] for row in solved]
    with pytest.raises(ArithmeticError, match="the exact optimum is none"):
        phase_diagram(tmp_path, worse, lambda w, b: (w, b))


def test_an_exact_table_of_another_grid_is_refused(tmp_path, solved):
    from common.core.errors import UserError
    from replications.superposition.cells import read_exact

    phase_diagram(tmp_path, solved, lambda w, b: (w, b))
    with pytest.raises(UserError, match="16 cells, the trained grid 25"):
        read_exact(tmp_path / "exact.csv", (5, 5))


@pytest.mark.parametrize(("swapped", "expected"), [(False, "reproduced"), (True, "not reproduced")])
def test_only_an_abrupt_entry_counts_as_first_order(tmp_path, swapped, expected):
    densities = np.geomspace(0.5, 0.3, 20)
    abrupt, smooth = np.where(densities < 0.376, 0.75, 0.0), np.linspace(0.3, 1.0, 20)
    weaker = np.stack([smooth, abrupt] if swapped else [abrupt, smooth], axis=1)
    W = torch.ones(len(SEEDS), 20, 2, 1, 1, 2, dtype=torch.float64)
    W[..., 0, 0, 1] = -torch.tensor(weaker)
    importance = torch.tensor([[1.0, 0.3], [1.0, 1.0]], dtype=torch.float64)
    zero = torch.zeros(W.shape[:4], dtype=torch.float64)
    grid = Grid(W, torch.zeros(*W.shape[:4], 2, dtype=torch.float64), zero, zero, torch.tensor(densities), importance)
    save_grids(tmp_path / "models.safetensors", {"relu": grid})
    cells = [[r, s, 1.0, weaker[d, j], 0.01] for d, s in enumerate(densities) for j, r in enumerate((0.3, 1.0))]
    frame = pd.DataFrame(cells, columns=["importance", "density", "w1", "w2", "loss"])
    write_text(tmp_path / "exact.csv", frame.to_csv(index=False))
    files = {"exact": tmp_path / "exact.csv", "metrics": tmp_path / "m.json"}
    files |= {"table": tmp_path / "t.csv", "branches": tmp_path / "b.csv"}
    measure_first_order(models=tmp_path / "models.safetensors", seeds=SEEDS, **files)
    found = {verdict(name, tmp_path / "m.json") for name in ("first_order_jump", "first_order_before")}
    assert found == {expected}


def test_jump_is_the_largest_rise_not_the_largest_fall():
    assert jump(np.array([0.0, 0.1, 0.6, 0.0])) == 1
