"""Fixtures of the tests of this folder: one tiny model, one of its frozen passes, and transcoders."""

import pytest

from common.saes.sae import Sae
from common.toys.transformer import initial_weights
from replications.circuit_tracing.frozen import FrozenPass
from replications.circuit_tracing.task import tables
from replications.circuit_tracing.tests.circuit_tracing_tiny import SHAPE, TASK, transcoder
from replications.circuit_tracing.toy import freeze, read
from tests.browser.conftest import browser  # noqa: F401


@pytest.fixture(scope="module")
def weights():
    return initial_weights(SHAPE, [3])


@pytest.fixture(scope="module")
def frozen(weights) -> FrozenPass:
    prompts = tables(TASK, 0).prompts
    return freeze(weights, read(weights, prompts, SHAPE), prompts, SHAPE, 5)


@pytest.fixture(scope="module")
def per_layer(frozen) -> list[Sae]:
    return [transcoder(layer, frozen.mlp_in[layer], layer) for layer in range(3)]
