"""Faithfulness of a circuit against trivial circuits (Wang et al. 2022, section 4).

F is the mean logit difference, M the model, C the circuit.

    faithfulness    F(C) / F(M)
    repetition      F(C) on the prompts minus F(C) on ABC prompts (name in the slot of IO minus the subject's), over the
                    same for M: what needs a name to occur twice
    complement      F(M minus C) / F(M)

Faithfulness alone proves little: under mean ablation a head that lowers whatever name stands as the subject keeps much
of F. So a circuit faces trivial ones:

    two_heads         the two heads with the strongest direct effect in favour of IO, at END
    writers_only      the circuit's nodes that act on the logits, and nothing upstream of them
    random_upstream   these writers, with all else drawn anew in the circuit's layers and positions
    naive             the circuit's helpful classes alone (in greedy search)

`*_against_random_heads` compares with node sets that are random throughout, on fewer prompts.
"""

import numpy as np
import pandas as pd

from common.core.metrics import Metric
from replications.ioi_circuit.completeness import EVERYTHING, Runs
from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.nodes import NodeSet, node_set, random_like
from replications.ioi_circuit.prompt_statistics import PerPrompt, clustered

HELPFUL = ("name_mover", "s_suppressing", "s_inhibition", "induction", "duplicate", "previous")


def circuits_of(chosen: pd.DataFrame, ranked: pd.DataFrame) -> dict[str, NodeSet]:
    """The circuit and its trivial alternatives, see the module's docstring."""
    direct = ranked[(ranked["receiver"] == "logits") & (ranked["effect"] < 0)]
    return {
        "circuit": node_set(chosen),
        "two_heads": node_set(direct.iloc[:2]),
        "writers_only": node_set(chosen[chosen["receiver"] == "logits"]),
        "naive": node_set(chosen[chosen["class"].isin(HELPFUL)]),
    }


def random_upstream(circuits: dict[str, NodeSet], n_heads: int, draws: int) -> list[NodeSet]:
    """The circuit's writers, and everything else of it drawn anew in the same layers at the same positions.

    No other head of a layer has the direct effect of a writer, so sets matched on it hold the writers themselves.
    """
    writers = circuits["writers_only"]
    return [writers | upstream for upstream in random_like(circuits["circuit"] - writers, n_heads, draws, seed=0)]


def measure_faithfulness(
    fresh: KnockOut, blind: KnockOut, neutral: KnockOut, circuits: dict[str, NodeSet], draws: int, blind_draws: int
) -> dict[str, Metric]:
    """The circuit against trivial circuits: faithfulness under both baselines, by order, and the part that repeats.

    Args:
        fresh: verification prompts, template means.
        blind: their ABC partners, scored on their own names.
        neutral: verification prompts, heads replaced by what they are without roles.
        circuits: see `circuits_of`.
        draws: of `random_upstream`.
        blind_draws: of these, on `blind` too.
    """
    names = ("circuit", "two_heads", "writers_only")
    sets = [*(circuits[name] for name in names), EVERYTHING]
    random = random_upstream(circuits, fresh.decoder.n_heads, draws)
    [model], kept = fresh.differences([EVERYTHING], remove=True), fresh.differences([*sets, *random])
    of = dict(zip((*names, "no_node"), kept, strict=False))
    orders = np.array([row.order for row in fresh.prompts])

    def share(
        values: Runs, whole: PerPrompt, text: str, drawn: np.ndarray | None = None, rows: np.ndarray | None = None
    ) -> Metric:
        rows = np.arange(len(whole)) if rows is None else rows
        return clustered(
            values["circuit"][rows],
            [fresh.prompts[row] for row in rows],
            unit="1",
            formula=text,
            cluster="prompts",
            denominators=whole[rows],
            controls={name: one[rows] for name, one in values.items() if name != "circuit"},
            draws={} if drawn is None else {"random_upstream": drawn[:, rows]},
        )

    metrics = {
        "model": clustered(model, fresh.prompts, unit="logits", formula="F(M)"),
        "circuit_faithfulness": share(of, model, "F(C) / F(M), means over ABC prompts", kept[4:]),
    }
    for order in ("ABBA", "BABA"):
        metrics[f"faithfulness_{order.lower()}"] = share(
            of, model, f"F(C) / F(M), {order}", rows=np.flatnonzero(orders == order)
        )
    [abc_model], abc = blind.differences([EVERYTHING], remove=True), blind.differences([*sets, *random[:blind_draws]])
    text = "F on ABC prompts, IO slot minus subject / F on the prompts themselves"
    metrics["role_blind_model"] = clustered(abc_model, fresh.prompts, unit="1", formula=text, denominators=model)
    repeated = {name: of[name] - one for name, one in zip(of, abc, strict=False)}
    metrics["repetition_kept"] = share(
        repeated,
        model - abc_model,
        "F(C) minus F(C) on ABC prompts, over the same for M",
        kept[4 : 4 + blind_draws] - abc[4:],
    )
    plain = dict(zip((*names, "no_node"), neutral.differences(sets), strict=True))
    text = "F(C) / F(M), heads replaced by their mean over the prompt and its flip"
    metrics["faithfulness_neutral"] = share(plain, model, text)
    [complement] = fresh.differences([circuits["circuit"]], remove=True)
    text = "F(M minus C) / F(M)"
    metrics["complement_faithfulness"] = clustered(
        complement, fresh.prompts, unit="1", formula=text, denominators=model
    )
    return metrics


def measure_against_random(few: KnockOut, nodes: NodeSet, draws: int) -> dict[str, Metric]:
    """The circuit kept alone and taken out, against random node sets with its layers and positions."""
    sets = random_like(nodes, few.decoder.n_heads, draws, seed=0)
    [model] = few.differences([EVERYTHING], remove=True)
    metrics = {}
    for name, remove, text in (("circuit", False, "F(C) / F(M)"), ("complement", True, "F(M minus C) / F(M)")):
        metrics[f"{name}_against_random_heads"] = clustered(
            few.differences([nodes], remove=remove)[0],
            few.prompts,
            unit="1",
            formula=f"{text}; random: {draws} node sets with the circuit's layers and positions",
            denominators=model,
            draws={"random_heads": few.differences(sets, remove=remove)},
        )
    return metrics
