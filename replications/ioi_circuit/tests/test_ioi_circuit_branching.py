"""Node sets that share a run as far as they agree: the same values as each alone, with fewer layers computed."""

import numpy as np
import pytest

from replications.ioi_circuit import branching
from replications.ioi_circuit.branching import parted
from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.nodes import PLACES, Node, NodeSet

pytestmark = pytest.mark.usefixtures("no_gradients")


def drawn_sets(knockout: KnockOut, count: int) -> list[NodeSet]:
    """Parts of ten nodes of all layers and places, one of them twice, and none."""
    generator = np.random.default_rng(0)
    every = list(np.ndindex(knockout.decoder.n_layers, knockout.decoder.n_heads, len(PLACES)))
    drawn = generator.choice(every, 10, replace=False).tolist()
    nodes = [Node(layer, head, PLACES[place]) for layer, head, place in drawn]
    parts: list[NodeSet] = [frozenset(node for node in nodes if generator.random() < 0.8) for _ in range(count)]
    return [*parts, parts[0], frozenset()]


@pytest.mark.parametrize("remove", [False, True])
@pytest.mark.parametrize("batch_size", [1, 40, 10_000])
def test_every_set_has_the_value_it_has_alone(
    knockout: KnockOut, monkeypatch: pytest.MonkeyPatch, batch_size: int, remove: bool
) -> None:
    sets = drawn_sets(knockout, 12)
    monkeypatch.setattr(knockout, "batch_size", batch_size)
    together = knockout.differences(sets, remove=remove)
    alone = np.concatenate([knockout.differences([one], remove=remove) for one in sets])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.ptp(alone, axis=0).min() > 1e-3


def test_sets_that_agree_below_a_layer_are_one_run_there(knockout: KnockOut, monkeypatch: pytest.MonkeyPatch) -> None:
    n_layers, computed = knockout.decoder.n_layers, np.zeros(knockout.decoder.n_layers, dtype=int)
    rerun = branching.rerun

    def counted(decoder, base, layer, at, end, x, *, edit, until):
        computed[layer : until or n_layers] += len(x)
        return rerun(decoder, base, layer, at, end, x, edit=edit, until=until)

    monkeypatch.setattr(branching, "rerun", counted)
    last = [Node(n_layers - 1, head, "end") for head in range(3)]
    shared = frozenset({Node(0, 0, "s2"), Node(1, 1, "s1_next")})
    knockout.differences([shared | {one} for one in last])
    assert computed.tolist() == [1] * (n_layers - 1) + [3]
    assert [*map(len, parted([shared, shared | {last[0]}, shared], [0, 1, 2], n_layers - 1))] == [2, 1]
