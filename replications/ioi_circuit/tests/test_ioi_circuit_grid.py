"""The grid of ablation choices: edges against nodes and the edge graph, noise, restored runs, every cell once."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from common.interp.decoder import Cache
from common.interp.edge_graph import Graph, run_circuits
from replications.ioi_circuit.ablation_grid import (
    CELLS,
    Sender,
    ablation_grid,
    edge_differences,
    everywhere,
    measure_edges,
    measure_grid,
    path_edges,
)
from replications.ioi_circuit.knockout import NOISE, KnockOut, template_means
from replications.ioi_circuit.nodes import Node, NodeSet
from replications.ioi_circuit.planted import N_HEADS, N_LAYERS, TRUTH
from tests.fixtures.ioi_circuit_tiny import NODES, tiny_prompts

pytestmark = pytest.mark.usefixtures("no_gradients")
EVERYTHING: NodeSet = frozenset()


def circuit() -> pd.DataFrame:
    """`NODES` with classes, so that there are receivers at every position."""
    kinds = {"s1_next": "previous", "s2": "induction", "end": "name_mover"}
    rows = [(node.layer, node.head, node.place, kinds[str(node.place)]) for node in sorted(NODES)]
    return pd.DataFrame(rows, columns=["layer", "head", "place", "class"])


@pytest.mark.parametrize(("direction", "ablation"), CELLS)
def test_edges_from_every_node_to_every_reader_are_the_nodes(knockout: KnockOut, direction: str, ablation: str) -> None:
    change = knockout.differences if direction == "destroy" else knockout.restored
    every = torch.ones(Graph.of(knockout.decoder).n_readers, dtype=torch.bool)
    own = [Sender(node, every) for node in sorted(NODES)]
    alls = frozenset(Node(node.layer, node.head, None) for node in NODES)
    found = []
    for senders, nodes in ((own, NODES), (everywhere(own), alls)):
        for replaced in (False, True):
            remove = replaced == (direction == "destroy")
            by_node = change([nodes], remove=remove, ablation=ablation)[0]  # type: ignore[arg-type]
            by_edge = edge_differences(knockout, senders, direction, ablation, replaced=replaced)  # type: ignore[arg-type]
            np.testing.assert_allclose(by_edge, by_node, atol=1e-4, rtol=1e-4)
            found.append(by_node)
    for one, other in itertools.combinations(found, 2):
        assert np.abs(one - other).max() > 1e-3


def test_kept_edges_at_all_positions_are_the_circuit_of_the_edge_graph(knockout: KnockOut) -> None:
    """With the ABC partner in place of the other edges: the same as `run_circuits` with these and all edges that start
    at the embedding and the MLPs."""
    graph = Graph.of(knockout.decoder)
    senders = everywhere(path_edges(graph, circuit()))
    held = graph.edges().clone()
    heads = [graph.head(layer, head) for layer, head in np.ndindex(graph.n_layers, graph.n_heads)]
    held[heads] = False
    for sender in senders:
        held[graph.head(sender.node.layer, sender.node.head)] = (
            sender.readers & graph.edges()[graph.head(sender.node.layer, sender.node.head)]
        )
    final = run_circuits(knockout.decoder, knockout.clean(), knockout.partner(), knockout.batch.mask, held[None])
    found = edge_differences(knockout, senders, "destroy", "resample", replaced=False)
    np.testing.assert_allclose(found, knockout.read(final)[0], atol=1e-4)
    assert np.abs(found - knockout.differences([frozenset(s.node for s in senders)], ablation="resample")).max() > 1e-3


def test_edges_run_where_path_patching_looked() -> None:
    """On the planted circuit, by name."""
    graph = Graph(N_LAYERS, N_HEADS, N_HEADS)
    rows = [(layer, head, place, kind) for (layer, head, place), kind in TRUTH.items()]
    table = pd.DataFrame(rows, columns=["layer", "head", "place", "class"])
    names, edges = graph.reader_names(), graph.edges()
    found = {
        (f"{s.node.layer}.{s.node.head}", names[reader])
        for s in path_edges(graph, table)
        for reader in torch.nonzero(s.readers & edges[graph.head(s.node.layer, s.node.head)])[:, 0].tolist()
        if not names[reader].startswith("mlp")
    }
    at_end = {(head, "logits") for head in ("2.0", "3.0", "3.1", "3.2")}
    steering = {("2.0", "3.0 q"), ("2.0", "3.2 q")}
    to_s2 = {(head, f"{reader} {kind}") for head in ("1.0", "1.1") for reader in ("2.0", "3.2") for kind in "kv"}
    assert found == at_end | steering | to_s2 | {("0.0", "1.0 k")}


def test_noise_is_added_to_the_names_alone(knockout: KnockOut) -> None:
    def embedded(cache: Cache) -> Tensor:
        return cache.resid_pre[0]

    moved = (embedded(knockout.corrupted("noise")) - embedded(knockout.clean()))[knockout.batch.mask]
    rows = [
        at in (prompt.positions.io, prompt.positions.s1, prompt.positions.s2)
        for prompt in knockout.prompts
        for at in range(prompt.positions.end + 1)
    ]
    touched = torch.tensor(rows)
    assert not moved[~touched].any()
    expected = NOISE * embedded(knockout.clean())[knockout.batch.mask].std()
    assert moved[touched].std() == pytest.approx(float(expected), rel=0.15)


def test_putting_nothing_back_is_the_corrupted_run_and_everything_but_nothing_is_all_of_it(knockout: KnockOut) -> None:
    for ablation in ("resample", "noise"):
        run = knockout.read(knockout.corrupted(ablation).final[None])[0]  # type: ignore[arg-type]
        nothing = knockout.restored([EVERYTHING], ablation=ablation)[0]  # type: ignore[arg-type]
        np.testing.assert_allclose(nothing, run, atol=1e-5)
        every = frozenset(Node(*at, None) for at in np.ndindex(knockout.decoder.n_layers, knockout.decoder.n_heads))
        everything = knockout.restored([EVERYTHING], remove=True, ablation=ablation)[0]  # type: ignore[arg-type]
        np.testing.assert_allclose(everything, knockout.restored([every], ablation=ablation)[0], atol=1e-4)  # type: ignore[arg-type]
        assert np.abs(everything - run).max() > 1e-2


def test_the_grid_has_every_choice_and_its_first_row_is_faithfulness(knockout: KnockOut) -> None:
    table = ablation_grid(knockout, knockout, circuit(), 7)
    assert len(table) == len(CELLS) * 2 * 2 * 2 + 1
    choices = ["component", "ablation", "positions", "set", "direction", "prompts"]
    assert not table.duplicated(choices).any()
    kept, model = knockout.differences([NODES])[0], knockout.differences([EVERYTHING], remove=True)[0]
    assert table.loc[0, "ratio_of_averages"] == pytest.approx(kept.mean() / model.mean())
    assert table.loc[0, "average_of_ratios"] == pytest.approx((kept / model).mean())
    out = knockout.restored([NODES], remove=True, ablation="noise")[0]
    row = table[(table["direction"] == "restore") & (table["set"] == "complement") & (table["ablation"] == "noise")]
    assert row.iloc[0]["ratio_of_averages"] == pytest.approx(out.mean() / model.mean())
    metrics = measure_grid(table)
    with_circuit = table[(table["set"] == "complement") == (table["direction"] == "destroy")]["ratio_of_averages"]
    assert metrics["grid_smallest_ratio_of_averages"].value == with_circuit.min()
    assert metrics["grid_largest_ratio_of_averages"].value == with_circuit.max()


def test_the_edges_that_are_drawn_stand_beside_the_nodes(knockout: KnockOut) -> None:
    means = template_means(knockout.decoder, tiny_prompts([0, 1]))
    blind = KnockOut(knockout.decoder, knockout.prompts, means, "cpu", 50, version="abc")
    metrics = measure_edges(knockout, blind, circuit())
    senders = path_edges(Graph.of(knockout.decoder), circuit())
    of_edges, of_nodes, nothing, model = (
        np.array([values(where).mean() for where in (knockout, blind)])
        for values in (
            lambda where: edge_differences(where, senders, "destroy", "mean", replaced=False),
            lambda where: where.differences([NODES])[0],
            lambda where: where.differences([EVERYTHING])[0],
            lambda where: where.differences([EVERYTHING], remove=True)[0],
        )
    )
    assert metrics["edges_faithfulness"].value == pytest.approx(of_edges[0] / model[0], abs=1e-5)
    assert metrics["edges_faithfulness"].control("nodes").value == pytest.approx(of_nodes[0] / model[0], abs=1e-5)
    part, whole = (of_edges - nothing), (model - nothing)
    assert metrics["edges_repetition"].value == pytest.approx((part[0] - part[1]) / (whole[0] - whole[1]), abs=1e-4)
    assert metrics["edges_repetition"].value != pytest.approx(
        metrics["edges_repetition"].control("nodes").value, abs=1e-3
    )
