"""Faithfulness of a circuit against trivial circuits (Wang et al. 2022, section 4).

F is the mean logit difference, M the model, C the circuit.

    faithfulness    F(C) / F(M)
    repetition      F(C) on the prompts minus F(C) on ABC prompts (name in the slot of IO minus the subject's), over the
                    same for M: what needs a name to occur twice. The same of no node is taken off both, prompt by
                    prompt: 0 is no node, 1 the model
    roles           F(C) on the prompts minus F(C) on their flips S2 <- IO, names read alike, over the same for M. Both
                    names stay in the first clause, which they do not on ABC prompts
    complement      F(M minus C) / F(M)

Faithfulness alone proves little: under mean ablation a head that lowers whatever name stands as the subject keeps much
of F. So a circuit faces trivial ones:

    two_heads         the two heads with the strongest direct effect in favour of IO, at END
    top_four_nodes    the four nodes with the largest effects by path patching, as `ranked`
    favouring_writers as many heads at END as the circuit has nodes, those with the largest direct effects in favour of
                      IO, and nothing upstream of them
    writers_only      the circuit's nodes that act on the logits, and nothing upstream of them
    suppressors       its S-suppressing heads with what it has at S2 and S1+1, and no other head at END
    random_upstream   these writers, with all else drawn anew in the circuit's layers and positions
    naive             the circuit's helpful classes alone (in greedy search)

Smaller sets, as metrics: `one_head` is the strongest direct head in favour of IO, `end_writers` the S-suppressing heads
with the heads that read END itself.

`*_against_random_heads` compares with node sets that are random throughout, on fewer prompts.
"""

import numpy as np
import pandas as pd

from common.core.metrics import Metric
from replications.ioi_circuit.completeness import EVERYTHING, Runs
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.nodes import NodeSet, node_set, random_like
from replications.ioi_circuit.prompt_statistics import Draws, PerPrompt, clustered

TRIVIAL = ("two_heads", "top_four_nodes", "favouring_writers", "writers_only", "suppressors")
COMPARED = ("circuit", *TRIVIAL, "no_node")
FAITHFULNESS = "F(C) / F(M)"
REPETITION = "F(C) minus F(C) on ABC prompts, minus the same of no node, over the same for M"
HELPFUL = ("name_mover", "s_suppressing", "s_inhibition", "induction", "duplicate", "previous")


def circuits_of(chosen: pd.DataFrame) -> dict[str, NodeSet]:
    """The circuit and what is part of it, see the module's docstring."""
    return {
        "circuit": node_set(chosen),
        "writers_only": node_set(chosen[chosen["receiver"] == "logits"]),
        "suppressors": node_set(chosen[(chosen["class"] == "s_suppressing") | (chosen["place"] != "end")]),
        "naive": node_set(chosen[chosen["class"].isin(HELPFUL)]),
    }


def trivial_circuits(ranked: pd.DataFrame, heads: pd.DataFrame, size: int) -> dict[str, NodeSet]:
    """Circuits by strength alone, see the module's docstring.

    Args:
        ranked: every head at each position with its largest effect, largest first.
        heads: of path patching; `logits` is the direct effect in percent, negative in favour of IO.
        size: nodes of the circuit.
    """
    direct = ranked[(ranked["receiver"] == "logits") & (ranked["effect"] < 0)]
    favouring = heads[heads["logits"] < 0].nsmallest(size, "logits").assign(place="end")
    return {
        "two_heads": node_set(direct.iloc[:2]),
        "top_four_nodes": node_set(ranked.iloc[:4]),
        "favouring_writers": node_set(favouring),
    }


def small_sets(chosen: pd.DataFrame) -> dict[str, NodeSet]:
    """The smaller sets of the module's docstring that have a node; `chosen` are the circuit's, strongest first."""
    direct = chosen[(chosen["receiver"] == "logits") & (chosen["effect"] < 0)]
    sets = {
        "one_head": direct.iloc[:1],
        "end_writers": chosen[chosen["class"].isin(["s_suppressing", "end_reader"])],
    }
    return {name: node_set(table) for name, table in sets.items() if len(table)}


def measure_small_sets(fresh: KnockOut, blind: KnockOut, nodes: NodeSet, sets: dict[str, NodeSet]) -> dict[str, Metric]:
    """The circuit beside smaller sets: `small_faithfulness`, and `small_repetition`, the part that repeats.

    Args:
        fresh: verification prompts.
        blind: their ABC partners, scored on their own names.
        nodes: the circuit.
        sets: see `small_sets`.
    """
    every = {"circuit": nodes, **sets, "no_node": EVERYTHING}
    kept, abc = (dict(zip(every, one.differences(list(every.values())), strict=True)) for one in (fresh, blind))
    [model], [abc_model] = (one.differences([EVERYTHING], remove=True) for one in (fresh, blind))
    repeated, whole, _ = what_repeats(kept, abc, model - abc_model)
    del kept["no_node"]
    return {
        "small_faithfulness": _share(kept, model, fresh.prompts, FAITHFULNESS),
        "small_repetition": _share(repeated, whole, fresh.prompts, REPETITION),
    }


def what_repeats(kept: Runs, abc: Runs, model: PerPrompt) -> tuple[Runs, PerPrompt, PerPrompt]:
    """What needs a repeated name, in each set and in the model; see `repetition` in the module's docstring.

    Args:
        kept: F of each set, `no_node` among them, on the prompts.
        abc: the same on ABC prompts.
        model: F of the model on the prompts minus that on ABC prompts.

    Returns:
        Of each set but `no_node`, of the model, and of `no_node`, which is taken off both.
    """
    nothing = kept["no_node"] - abc["no_node"]
    sets = {name: kept[name] - one - nothing for name, one in abc.items() if name != "no_node"}
    return sets, model - nothing, nothing


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
        circuits: see `circuits_of` and `trivial_circuits`.
        draws: of `random_upstream`.
        blind_draws: of these, on `blind` too.
    """
    sets = _compared(circuits)
    random = random_upstream(circuits, fresh.decoder.n_heads, draws)
    [model], kept = fresh.differences([EVERYTHING], remove=True), fresh.differences([*sets, *random])
    of, drawn_kept = dict(zip(COMPARED, kept, strict=False)), kept[len(sets) :]
    orders = np.array([row.order for row in fresh.prompts])

    def share(
        values: Runs, whole: PerPrompt, text: str, drawn: np.ndarray | None = None, rows: np.ndarray | None = None
    ) -> Metric:
        rows = np.arange(len(whole)) if rows is None else rows
        draws = {} if drawn is None else {"random_upstream": drawn[:, rows]}
        prompts = [fresh.prompts[row] for row in rows]
        return _share({name: one[rows] for name, one in values.items()}, whole[rows], prompts, text, draws)

    metrics = {
        "model": clustered(model, fresh.prompts, unit="logits", formula="F(M)"),
        "circuit_faithfulness": share(of, model, "F(C) / F(M), means over ABC prompts", drawn_kept),
    }
    for order in ("ABBA", "BABA"):
        metrics[f"faithfulness_{order.lower()}"] = share(
            of, model, f"F(C) / F(M), {order}", rows=np.flatnonzero(orders == order)
        )
    [abc_model], abc = blind.differences([EVERYTHING], remove=True), blind.differences([*sets, *random[:blind_draws]])
    text = "F on ABC prompts, IO slot minus subject / F on the prompts themselves"
    metrics["role_blind_model"] = clustered(abc_model, fresh.prompts, unit="1", formula=text, denominators=model)
    repeated, whole, nothing = what_repeats(of, dict(zip(of, abc, strict=False)), model - abc_model)
    drawn = drawn_kept[:blind_draws] - abc[len(sets) :] - nothing
    metrics["repetition_kept"] = share(repeated, whole, REPETITION, drawn)
    plain = dict(zip(COMPARED, neutral.differences(sets), strict=True))
    text = "F(C) / F(M), heads replaced by their mean over the prompt and its flip"
    metrics["faithfulness_neutral"] = share(plain, model, text)
    [complement] = fresh.differences([circuits["circuit"]], remove=True)
    text = "F(M minus C) / F(M)"
    metrics["complement_faithfulness"] = clustered(
        complement, fresh.prompts, unit="1", formula=text, denominators=model
    )
    return metrics


def measure_roles(fresh: KnockOut, flipped: KnockOut, circuits: dict[str, NodeSet]) -> dict[str, Metric]:
    """`roles_kept`: what the circuit keeps of the part that turns round with the roles.

    Args:
        fresh: verification prompts.
        flipped: their flips S2 <- IO, read on the same names.
        circuits: see `circuits_of` and `trivial_circuits`.
    """
    sets = _compared(circuits)
    kept = dict(zip(COMPARED, fresh.differences(sets) - flipped.differences(sets), strict=True))
    whole = [one.differences([EVERYTHING], remove=True)[0] for one in (fresh, flipped)]
    text = "F(C) minus F(C) on flipped prompts, names read alike, over the same for M"
    return {"roles_kept": _share(kept, whole[0] - whole[1], fresh.prompts, text)}


def _compared(circuits: dict[str, NodeSet]) -> list[NodeSet]:
    """The node sets of `COMPARED`."""
    return [EVERYTHING if name == "no_node" else circuits[name] for name in COMPARED]


def _share(
    values: Runs, whole: PerPrompt, prompts: list[Prompt], text: str, draws: dict[str, Draws] | None = None
) -> Metric:
    """The circuit's share of the model's value, with the other sets as controls."""
    controls = {name: one for name, one in values.items() if name != "circuit"}
    return clustered(
        values["circuit"], prompts, unit="1", formula=text, denominators=whole, controls=controls, draws=draws
    )


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
