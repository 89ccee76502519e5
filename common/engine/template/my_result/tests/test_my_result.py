"""my_result: the probe against a literal version, and the control that must miss."""

import pytest
import torch

from common.core.metrics import read_metrics
from common.core.step import RunInfo
from replications.my_result.measure import MeasureFiles, measure
from replications.my_result.settings import Data
from replications.my_result.train import TrainFiles, data, train

SETTINGS = Data(n_features=5, samples=400, noise=0.5)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("my_result")
    probes, metrics = folder / "probes.safetensors", folder / "metrics.json"
    train(TrainFiles(probes=probes), SETTINGS, RunInfo(scale="smoke", seeds=[0, 1, 2], device="cpu"))
    measure(MeasureFiles(probes=probes, metrics=metrics))
    return read_metrics(metrics)


def test_labels_are_the_sign_of_the_projection_when_there_is_no_noise():
    points, labels, direction = data(0, SETTINGS.model_copy(update={"noise": 0.0}))
    assert torch.equal(labels, torch.sign(points @ direction))


def test_the_cosine_is_that_of_the_normal_equations(measured):
    points, labels, direction = data(1, SETTINGS)
    probe = torch.linalg.inv(points.T @ points) @ points.T @ labels
    expected = float(probe @ direction / probe.norm() / direction.norm())
    assert measured["cosine"].per_seed[1] == pytest.approx(expected, abs=1e-9)


def test_the_control_misses(measured):
    assert min(measured["cosine"].per_seed) > 0.9
    assert max(measured["cosine"].control("shuffled_labels").per_seed) < 0.9
