"""Does greedy completeness find what is missing from a circuit, and nothing where nothing is missing?

On the planted model, the circuit of all seven heads is complete. Without its duplicate-token head it is not: the
induction head does the same job, but when it is taken out too, the circuit breaks and the model does not. So greedy
search (completeness.py) must find a large gap for it and a small one for the complete circuit.
"""

from common.interp.decoder import Decoder
from replications.ioi_circuit.completeness import EVERYTHING, Greedy, gaps, greedy_parts
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.means import template_means
from replications.ioi_circuit.nodes import Node
from replications.ioi_circuit.planted import TRUTH

LEFT_OUT = "duplicate"


def completeness_of_planted(
    decoder: Decoder, prompts: list[Prompt], fresh: list[Prompt], greedy: Greedy, seed: int
) -> dict[str, float]:
    """Largest greedy gap of the complete circuit and of the one without `LEFT_OUT`, and what both keep of F(M).

    Args:
        decoder: a planted model.
        prompts: those that means are made of.
        fresh: those that are measured.
        greedy: size of the search.
        seed: of the search.
    """
    where = KnockOut(decoder, fresh, template_means(decoder, prompts), decoder.W_O[0].device.type, 4096)
    nodes = {Node(layer, head, place): kind for (layer, head, place), kind in TRUTH.items()}  # type: ignore[arg-type]
    model = float(where.differences([EVERYTHING], remove=True).mean())
    found = {}
    for name, kinds in (("complete", {*nodes.values()}), ("incomplete", {*nodes.values()} - {LEFT_OUT})):
        circuit = frozenset(node for node, kind in nodes.items() if kind in kinds)
        found[f"faithfulness_{name}"] = float(where.differences([circuit]).mean()) / model
        found[f"greedy_gap_{name}"] = float(gaps(greedy_parts(where, circuit, greedy, seed), model).max())
    return found
