"""Exact edges and ACDC as the step runs them: against their definition, and over some of the edges only."""

import numpy as np
import pytest
import torch

from common.interp.decoder import Decoder
from common.interp.edge_graph import Graph, run_circuits
from replications.ioi_circuit.batches import Batch, passes
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.edge_attribution import curve_table, logit_difference
from replications.ioi_circuit.edge_search import agreement, measure, search
from tests.fixtures.ioi_circuit_tiny import tiny_prompts

pytestmark = pytest.mark.usefixtures("no_gradients")
NEVER, ALWAYS = 1e-12, 1e9


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return [tiny_prompts([0])[index] for index in (0, 7)]


def test_searched_edges_have_their_exact_effect_and_all_others_stay(decoder: Decoder, prompts: list[Prompt]) -> None:
    graph, batch = Graph.of(decoder), Batch(prompts, "cpu")
    every = graph.edges()
    pairs = [(0, graph.reader(1, "q", 1)), (graph.head(0, 1), graph.reader(2, "v")), (graph.head(2, 0), -1)]
    searched = torch.zeros_like(every)
    for pair in pairs:
        searched[pair] = True
    clean, partner = passes(decoder, batch)
    effects, kept = search(decoder, prompts, searched, ALWAYS, at_once=2)
    whole = logit_difference(decoder, batch, clean.final).mean()
    for pair in pairs:
        held = every.clone()
        held[pair] = False
        literal = logit_difference(decoder, batch, run_circuits(decoder, clean, partner, batch.mask, held[None]))[
            0
        ].mean()
        assert float(effects[pair]) == pytest.approx(float(literal - whole), abs=1e-4)
    assert effects[searched].abs().min() > 1e-4
    assert not effects[~searched].any()
    assert torch.equal(kept, every & ~searched)  # any rise is allowed: all that were searched go, no other does


def test_acdc_over_all_edges_keeps_none_or_what_changes_the_answer(decoder: Decoder, prompts: list[Prompt]) -> None:
    every = Graph.of(decoder).edges()
    assert not search(decoder, prompts, every, ALWAYS, at_once=16)[1].any()
    effects, kept = search(decoder, prompts, every, NEVER, at_once=16)
    assert 0 < kept.sum() < every.sum()
    assert kept[-1, -1]  # the edge swept first, from the last MLP into the logits, carries some of the answer
    assert effects[-1, -1] != 0


def test_the_circuit_of_acdc_is_measured_at_its_own_size(prompts: list[Prompt]) -> None:
    span, names = np.array([4.0, 6.0]), ("acdc", "exact", "eap_ig")
    gain = {(name, 0.1): span * part for name, part in zip(names, (0.9, 0.8, 0.7), strict=True)}
    gain |= {(f"random {number}", 0.1): span * 0.01 * number for number in range(20)}
    gain |= {(name, 0.5): span for name, _ in gain}
    found = measure(gain, span, 0.1, 1000, prompts)
    assert found["acdc_share"].value == 0.1
    assert found["faithfulness_acdc"].value == pytest.approx(0.9)
    controls = {control.name: control.value for control in found["faithfulness_acdc"].controls}
    assert controls == pytest.approx({"exact": 0.8, "eap_ig": 0.7, "random_edges": 0.095})
    assert set(measure(gain, span, 1.0, 1000, prompts)) == {"acdc_share"}
    assert list(curve_table({}, span)) == list(curve_table(gain, span))


def test_agreement_is_over_the_edges_that_were_searched() -> None:
    searched = torch.tensor([[True, True], [True, False]])
    exact, first = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[-3.0, -2.0], [-1.0, 9.0]])
    assert agreement({"exact": exact, "eap_ig": first}, searched)["eap_ig_agrees_with_exact"].value == pytest.approx(1)
