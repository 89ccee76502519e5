"""Rankings of edges: discovery sets of their own for each template, and the signed order."""

import numpy as np
import pytest
import torch
from torch import Tensor

from common.core.errors import UserError
from common.interp.decoder import Decoder
from common.interp.edge_graph import Graph, run_circuits, strongest
from replications.ioi_circuit import edge_rankings
from replications.ioi_circuit.batches import DISCOVERY, Batch, balanced, disjoint, passes
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.edge_rankings import judge_by_template, logit_difference, signed
from replications.ioi_circuit.settings import EdgeCurves
from tests.fixtures.ioi_circuit_tiny import bridge as bridge
from tests.fixtures.ioi_circuit_tiny import decoder as decoder
from tests.fixtures.ioi_circuit_tiny import tiny_prompts

CURVES = EdgeCurves(
    score_prompts=3, curve_prompts=8, ig_steps=2, shares=[0.1, 0.5], random_circuits=20, circuits_per_pass=8
)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return tiny_prompts([0, 1, 2, 3])


def test_discovery_sets_share_no_prompt_and_the_first_is_the_balanced_choice(prompts: list[Prompt]) -> None:
    sets = disjoint(prompts, DISCOVERY, 7, 4)
    texts = [prompt.versions["original"].text for one in sets for prompt in one]
    assert len(set(texts)) == len(texts) == 28
    assert sets[0] == balanced(prompts, DISCOVERY, 7)
    assert all(len({prompt.template for prompt in one}) == 7 for one in sets)
    small = [{prompt.template for prompt in one} for one in disjoint(prompts, DISCOVERY, 4, 3)]
    assert len(set.union(*small)) == 12, "small sets differ in their templates, too"
    with pytest.raises(UserError, match="too few prompts for 26 sets of 7"):
        disjoint(prompts, DISCOVERY, 7, 26)


def test_each_template_is_judged_by_circuits_of_its_own_discovery_set(
    decoder: Decoder, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each set scores its number, and a circuit gains the score of its ranking."""
    seen: list[list[Prompt]] = []

    def scored(_: Decoder, rows: list[Prompt], steps: int) -> tuple[dict[str, Tensor], float]:
        seen.append(rows)
        return {"eap_ig": torch.full((2, 2), float(len(seen)))}, float(len(seen))

    def run(_: Decoder, rows: list[Prompt], scores: dict[str, Tensor], *rest: object) -> tuple[dict, np.ndarray]:
        assert set(scores) == {"eap_ig", "eap_ig_signed"}
        return {("eap_ig", 0.1): np.full(len(rows), float(scores["eap_ig"][0, 0]))}, np.ones(len(rows))

    monkeypatch.setattr(edge_rankings, "score", scored)
    monkeypatch.setattr(edge_rankings, "run_rankings", run)
    curves = CURVES.model_copy(update={"curve_prompts": 44})
    fresh, scores, clean, gain, span = judge_by_template(decoder, prompts, curves)
    assert len(seen) == 22
    assert [prompt.template for prompt in fresh] == sorted(prompt.template for prompt in fresh)
    assert {prompt.half for one in seen for prompt in one} == {DISCOVERY}
    numbers = {template: number for number, template in enumerate(sorted({row.template for row in fresh}), 1)}
    assert gain["eap_ig", 0.1].tolist() == [numbers[row.template] for row in fresh]
    assert len(span) == len(fresh) == 44
    assert float(scores["eap_ig"][0, 0]) == clean == 11.5


def test_the_signed_order_puts_helping_edges_first_and_opposing_ones_last(
    decoder: Decoder, prompts: list[Prompt]
) -> None:
    scores = torch.tensor([[-3.0, 2.0], [1.0, -1.0]])
    every = torch.ones(2, 2, dtype=torch.bool)
    order = signed({"eap_ig": scores})["eap_ig_signed"]
    assert strongest(order, every, 2).tolist() == [[True, False], [False, True]]
    assert strongest(order, every, 3).tolist() == [[True, False], [True, True]]
    assert strongest(scores, every, 2).tolist() == [[True, True], [False, False]]
    batch = Batch(balanced(prompts, DISCOVERY, 7), "cpu")  # a score is the change when the edge is lost
    with torch.no_grad():
        found, _ = edge_rankings.score(decoder, batch.prompts, 2)
        clean, partner = passes(decoder, batch)
        graph = Graph.of(decoder)
        held = torch.stack([graph.edges()] * 2)
        writer, reader = int(found["eap"][:, -1].abs().argmax()), graph.n_readers - 1
        held[1, writer, reader] = False
        kept = logit_difference(decoder, batch, run_circuits(decoder, clean, partner, batch.mask, held)).mean(1)
    assert float(kept[1] - kept[0]) * float(found["eap"][writer, reader]) > 0
