"""Twenty features, eighty features and attacks on them: planted models, and what makes each claim fail."""

import pytest
import torch

from common.core.metrics import read_metrics
from replications.superposition.grid import save_grids
from replications.superposition.measure_adversarial import excess_losses
from replications.superposition.measure_many import measure_many, off_place
from replications.superposition.measure_uniform import at_levels, measure_uniform, untrained
from tests.fixtures.test_superposition_parts import SEEDS, grid, ring, verdicts


def many(folder, linear, middle):
    """Four features in two dimensions, dense to sparse; the linear model at the sparsest density is `linear`."""
    keeps, digons = ring([0, 90, None, None]), ring([0, 180, 90, 270])
    models = {
        "relu": [[keeps] * 3, [middle] * 3, [digons] * 3, [digons] * 3],
        "linear": [[keeps] * 3, [keeps] * 3, [keeps] * 3, [linear] * 3],
    }
    losses = torch.tensor([1.0, 1.5, 2.0], dtype=torch.float64).repeat(len(SEEDS), 4, 1, 1)
    densities = [1.0, 0.3, 0.1, 0.03]
    save_grids(folder / "models.safetensors", {k: grid(one, densities, losses) for k, one in models.items()})
    files = {"metrics": folder / "m.json", "table": folder / "t.csv", "products": folder / "p.csv"}
    measure_many(models=folder / "models.safetensors", seeds=SEEDS, **files)
    return folder / "m.json"


MANY = ["linear_norms", "antipodal_first"]


@pytest.mark.parametrize(
    ("linear", "middle", "missed"),
    [
        ([0, 90, None, None], [0, 180, 90, 270], set()),
        ([0, None, 90, None], [0, 180, 90, 270], {"linear_norms"}),
        ([0, 90, None, None], [0, 180, 90, 210], {"antipodal_first"}),
    ],
)
def test_the_linear_model_keeps_the_first_features_and_pairs_are_two(tmp_path, linear, middle, missed):
    path = many(tmp_path, ring(linear), ring(middle))
    assert {name for name, found in verdicts(MANY, path).items() if found != "reproduced"} == missed
    assert read_metrics(path)["restart_spread"].value == pytest.approx(0.5)


def test_norms_off_their_place():
    assert float(off_place(ring([0, 90, None]), 2)) == 0.0
    assert float(off_place(ring([0, 90, None], norm=0.7), 2)) == pytest.approx(0.3)
    assert float(off_place(torch.tensor([[1.0, 0.0, 0.2], [0.0, 1.0, 0.0]]), 2)) == pytest.approx(0.2)


def uniform(folder, sparse):
    """Eight features in four dimensions, the last density sparse."""
    digons = torch.cat([torch.eye(4), -torch.eye(4)], dim=1).double()
    one = torch.eye(4, 8).double()
    models = {"relu": [[one], [digons], [sparse]], "linear": [[one]] * 3}
    grids = {name: grid(models[name], [1.0, 0.4, 0.05]) for name in models}
    save_grids(folder / "models.safetensors", grids)
    files = {"metrics": folder / "m.json", "table": folder / "t.csv", "graphs": folder / "g.csv"}
    measure_uniform(models=folder / "models.safetensors", seeds=SEEDS, polytope_densities=[0.23, 0.5], **files)
    return folder / "m.json"


def test_clusters_at_sparser_densities_are_digons_and_no_tangle(tmp_path):
    digons = torch.cat([torch.eye(4), -torch.eye(4)], dim=1).double()
    names = ["uniform_clusters", "uniform_clusters_sparser"]
    assert verdicts(names, uniform(tmp_path, digons)) == dict.fromkeys(names, "reproduced")
    tangle = torch.randn(4, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    path = uniform(tmp_path, tangle)
    assert verdicts(names, path)["uniform_clusters_sparser"] != "reproduced"
    assert read_metrics(path)["clusters_sparser"].value < 0.5
    assert read_metrics(path)["clusters_untrained"].value < 0.5
    assert read_metrics(path)["clusters"].value == 1.0


def test_the_random_control_of_sparser_densities_is_taken_there(tmp_path):
    alone = torch.eye(4, 8).double() * (torch.arange(8) < 1)
    metrics = read_metrics(uniform(tmp_path, alone))
    assert metrics["clusters_sparser_random"].value == 0.0  # one feature has a dimension of its own in any direction
    assert metrics["clusters_random"].value > 0.0


def test_untrained_weights_count_all_features_if_none_is_stored():
    draws = untrained(10, 80, 0)
    assert draws.shape == (20, 10, 80)
    assert float(draws.std()) == pytest.approx((2 / 90) ** 0.5, rel=0.05)
    assert not torch.equal(draws[0], untrained(10, 80, 1)[0])
    small = 0.1 * torch.cat([torch.eye(2), -torch.eye(2)], dim=1).double()[None]
    assert at_levels(torch.full((1, 4), 0.5, dtype=torch.float64), small) == 1.0
    some = torch.tensor([[[1.0, 0.0, 0.1, 0.1]]], dtype=torch.float64)
    assert at_levels(torch.tensor([[0.1, 0.1, 0.5, 0.5]], dtype=torch.float64), some) == 0.0


def test_a_model_without_superposition_has_vulnerability_one():
    x = torch.rand(6, 200, generator=torch.Generator().manual_seed(0))
    x[3:] = 0.0
    W, b = torch.eye(3, 6), torch.zeros(6)
    weight = torch.full((200,), 1 / 200)
    directions = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    worst, random = excess_losses(W, b, x, weight, 0.1, directions)
    assert worst == pytest.approx(0.01, rel=1e-4)
    assert random < 0.01
    shared = torch.cat([torch.eye(3), torch.eye(3)], dim=1)
    assert excess_losses(shared, b, x, weight, 0.1, directions)[0] > 1.5 * worst


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
    assert excess_losses(W, b, x, weight, 0.3, directions)[1] == pytest.approx(slow / 7, rel=1e-4)
    assert excess_losses(W, b, x, weight, 0.3, W.T @ W)[1] == excess_losses(W, b, x, weight, 0.3, directions)[0]
