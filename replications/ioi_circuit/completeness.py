"""Completeness and minimality (Wang et al. 2022, section 4): does the circuit break as the model does?

F is the mean logit difference, M the model, C the circuit, M minus K the model without the nodes K.

    gap             |F(M minus K) - F(C minus K)| / F(M)
    minimality      |F(C minus (K and v)) - F(C minus K)| / F(M) for each node v, K the other nodes of its class
    additions       |F(C and v) - F(C)| / F(M) for random nodes v outside: what a stranger is worth
    answer          KL(M || C) of the next token, and share of prompts with the same likeliest token

A faithful circuit may still miss the heads that take over when others fail. So parts K are taken out of the circuit and
out of the whole model: by class, at random (each node with probability 1/2), and greedily, growing K by the candidate
that drives F(C minus K) and F(M minus K) furthest apart. That is the objective of the released code; the paper's
algorithm 3 maximises the change of F(C minus K) instead. In M minus K a head is removed at its circuit position only;
in C minus K it is gone everywhere.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from common.core.metrics import Metric
from common.core.statistics import BOOTSTRAP_DRAWS, from_draws, with_control
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.nodes import NAMED, PLACES, UNNAMED, Node, NodeSet, node_set, random_like
from replications.ioi_circuit.prompt_statistics import PerPrompt, clustered
from replications.ioi_circuit.settings import Greedy

EVERYTHING: NodeSet = frozenset()
"""Removing nothing: the whole model."""
RANDOM_ANSWERS = 20  # random circuits whose answers are compared
WORTH = 0.01
"""Smallest worth of a node that belongs to the circuit (Wang et al. 2022, figure 7)."""
Runs = dict[str, PerPrompt]
"""logit(IO) - logit(S) of every prompt, by what was kept or removed"""
Steps = list[tuple[NodeSet, Float[np.ndarray, " two"]]]
"""K after each step of each greedy run, with F(C minus K) and F(M minus K)"""


def classes_of(chosen: pd.DataFrame) -> dict[str, NodeSet]:
    """The nodes of each class that has any, backup name movers and heads without a class among them."""
    by_kind = {name: node_set(chosen[chosen["class"] == name]) for name in (*NAMED, *UNNAMED)}
    return {name: nodes for name, nodes in by_kind.items() if nodes}


def by_class(
    where: KnockOut, circuits: dict[str, NodeSet], classes: dict[str, NodeSet]
) -> tuple[Runs, dict[str, Runs]]:
    """F(M minus K) for each class, and F(C minus K) for each circuit and class; 'none' stands for K empty."""
    parts = {"none": EVERYTHING, **classes}
    removed = dict(zip(parts, where.differences(list(parts.values()), remove=True), strict=True))
    sets = [nodes - part for nodes in circuits.values() for part in parts.values()]
    kept = iter(where.differences(sets))
    return removed, {name: {part: next(kept) for part in parts} for name in circuits}


def random_parts(where: KnockOut, nodes: NodeSet, draws: int, seed: int) -> Float[np.ndarray, "draw two"]:
    """F(C minus K) and F(M minus K) for random K, each node with probability 1/2."""
    generator = np.random.default_rng(seed)
    ordered = sorted(nodes)
    parts = [frozenset(node for node in ordered if generator.random() < 0.5) for _ in range(draws)]
    return _both(where, nodes, parts)


def grown_parts(where: KnockOut, nodes: NodeSet, greedy: Greedy, seed: int = 0) -> Steps:
    """The parts K that greedy search takes out of the circuit `nodes`; `seed` draws the candidates."""
    generator = np.random.default_rng(seed)
    steps = []
    for _ in range(greedy.runs):
        taken: NodeSet = frozenset()
        for _ in range(min(greedy.iterations, len(nodes))):
            left = sorted(nodes - taken)
            picked = generator.choice(len(left), min(greedy.candidates, len(left)), replace=False)
            parts = [taken | {left[number]} for number in picked]
            values = _both(where, nodes, parts)
            best = int(np.abs(values[:, 0] - values[:, 1]).argmax())
            taken = parts[best]
            steps.append((taken, values[best]))
    return steps


def steps_table(steps: Steps) -> pd.DataFrame:
    """One row per node of each part K: number of the part, node, F(C minus K) and F(M minus K)."""
    return pd.DataFrame(
        {"part": number, **asdict(node), "f_circuit": values[0], "f_model": values[1]}
        for number, (part, values) in enumerate(steps)
        for node in sorted(part)
    )


def read_steps(path: Path) -> Steps:
    """The parts of a `steps_table`."""
    return [
        (node_set(part), part[["f_circuit", "f_model"]].to_numpy()[0]) for _, part in pd.read_csv(path).groupby("part")
    ]


def measure_greedy(
    fresh: KnockOut, nodes: NodeSet, steps: Steps, rivals: dict[str, tuple[NodeSet, Steps]], draws: int
) -> tuple[dict[str, Metric], NodeSet]:
    """The part K with the largest gap where it was searched: its gap on `fresh`, and K.

    `steps` are `grown_parts` of `nodes`, and each rival comes with its own.

    Controls of `greedy_gap`: nothing taken out (the circuit's own unfaithfulness), random parts of the same size, and
    the gaps of `rivals` after the same search. An unfaithful rival has a large gap before any search; so
    `greedy_opened` is the gap less that with nothing taken out, of each set its own.
    """
    part, sign = _widest(steps)
    ordered, generator = sorted(nodes), np.random.default_rng(0)
    random = [
        frozenset(ordered[number] for number in generator.choice(len(ordered), len(part), replace=False))
        for _ in range(draws)
    ]
    gap = sign * _gaps(fresh, nodes, [part, EVERYTHING, *random])
    controls, opened = {"nothing_removed": gap[1]}, {}
    for name, (rival, grown) in rivals.items():
        of_rival, its_sign = _widest(grown)
        controls[name], before = its_sign * _gaps(fresh, rival, [of_rival, EVERYTHING])
        opened[name] = controls[name] - before
    model, text = (
        fresh.differences([EVERYTHING], remove=True)[0],
        "F(M-K) - F(C-K) over F(M), K grown greedily on discovery prompts",
    )

    def over_model(values: PerPrompt, formula: str, controls: Runs, draws: Float[np.ndarray, "draw prompt"]) -> Metric:
        return clustered(
            values, fresh.prompts, unit="1", formula=formula, denominators=model, controls=controls,
            draws={"random_parts": draws},
        )  # fmt: skip

    return {
        "greedy_gap": over_model(gap[0], text, controls, gap[2:]),
        "greedy_opened": over_model(gap[0] - gap[1], f"{text}, less the same with K empty", opened, gap[2:] - gap[1]),
    }, part


def _widest(steps: Steps) -> tuple[NodeSet, float]:
    """The grown part with the largest gap, and the sign of F(M minus K) - F(C minus K) there."""
    part, values = max(steps, key=lambda step: abs(step[1][1] - step[1][0]))
    return part, float(np.sign(values[1] - values[0]))


def _gaps(where: KnockOut, nodes: NodeSet, parts: list[NodeSet]) -> Float[np.ndarray, "part prompt"]:
    """F(M minus K) - F(C minus K) of each prompt."""
    gap: np.ndarray = where.differences(parts, remove=True) - where.differences([nodes - one for one in parts])
    return gap


def _both(where: KnockOut, nodes: NodeSet, parts: list[NodeSet]) -> Float[np.ndarray, "part two"]:
    kept = where.differences([nodes - part for part in parts]).mean(1)
    return np.stack([kept, where.differences(parts, remove=True).mean(1)], 1)


def gaps(values: Float[np.ndarray, "part two"], model: float) -> Float[np.ndarray, " part"]:
    """|F(M minus K) - F(C minus K)| / F(M)."""
    relative: np.ndarray = np.abs(values[:, 1] - values[:, 0]) / model
    return relative


def minimality(where: KnockOut, chosen: pd.DataFrame) -> list[float]:
    """The score of each node; see the module's docstring. Nodes without a class are judged alone (K empty)."""
    nodes = node_set(chosen)
    without, without_also = [], []
    for index, row in chosen.iterrows():
        same = chosen[(chosen["class"] == row["class"]) & (chosen.index != index)]
        rest = node_set(same) if row["class"] in NAMED else EVERYTHING
        without.append(nodes - rest)
        without_also.append(nodes - rest - node_set(chosen.loc[[index]]))
    distinct = sorted(set(without) | set(without_also), key=sorted)
    value = dict(zip(distinct, where.differences(distinct).mean(1), strict=True))
    whole = where.differences([EVERYTHING], remove=True)[0].mean()
    pairs = zip(without, without_also, strict=True)
    return [float(abs(value[also] - value[rest]) / whole) for rest, also in pairs]


def additions(where: KnockOut, chosen: pd.DataFrame, draws: int, seed: int) -> Float[np.ndarray, " draw"]:
    """What random nodes outside the circuit add to it, each alone; see the module's docstring."""
    nodes, heads = node_set(chosen), where.decoder.n_heads
    every = np.ndindex(where.decoder.n_layers, heads, len(PLACES))
    outside = sorted({Node(layer, head, PLACES[place]) for layer, head, place in every} - nodes)
    picked = np.random.default_rng(seed).choice(len(outside), min(draws, len(outside)), replace=False)
    values = where.differences([nodes, *(nodes | {outside[number]} for number in picked)]).mean(1)
    whole = where.differences([EVERYTHING], remove=True)[0].mean()
    worth: np.ndarray = np.abs(values[1:] - values[0]) / whole
    return worth


def measure_classes(removed: Runs, kept: dict[str, Runs], prompts: list[Prompt]) -> dict[str, Metric]:
    """What each class is worth to the model, and the gap between model and circuit without it.

    `circuit_class_gap` is the largest gap over the classes that have a name, whose sign is turned so that its mean is
    positive; controls are the largest gaps of the other circuits.
    """
    model = removed["none"]

    def share(values: PerPrompt, formula: str, controls: Runs | None = None) -> Metric:
        return clustered(values, prompts, unit="1", formula=formula, denominators=model, controls=controls)

    metrics = {}
    for name, without in removed.items():
        if name != "none":
            metrics[f"drop_without_{name}"] = share(model - without, "(F(M) - F(M minus K)) / F(M)")
            gap = without - kept["circuit"][name]
            metrics[f"incompleteness_{name}"] = share(gap, "(F(M-K) - F(C-K)) / F(M)")
    widest: Runs = {}
    for circuit, runs in kept.items():
        gaps_of = {name: removed[name] - runs[name] for name in removed if name in NAMED}
        if gaps_of:
            largest = max(gaps_of.values(), key=lambda values: abs(float(values.mean())))
            widest[circuit] = np.sign(float(largest.mean())) * largest
    if widest:
        of_circuit = widest.pop("circuit")
        text = "largest |F(M-K) - F(C-K)| / F(M) over classes K"
        metrics["circuit_class_gap"] = share(of_circuit, text, widest)
    return metrics


def measure_minimality(
    of_nodes: Float[np.ndarray, " node"], of_others: Float[np.ndarray, " draw"]
) -> dict[str, Metric]:
    """How many nodes are worth at least one percent, against random heads that are added to the circuit."""
    nodes, others = of_nodes >= WORTH, of_others >= WORTH
    text = f"share of nodes worth at least {WORTH:g} F(M)"
    generator = np.random.default_rng(0)
    draws = [[generator.choice(kind, len(kind)).mean() for kind in (nodes, others)] for _ in range(BOOTSTRAP_DRAWS)]
    own, random = np.array(draws).T
    whole = len(nodes)
    effect = from_draws(float(nodes.mean()), own, n=whole, unit="share", formula=text)
    control = from_draws(
        float(others.mean()), random, n=len(others), unit="share", formula=f"{text}; random nodes added to the circuit"
    )
    gap = float(nodes.mean() - others.mean())
    difference = from_draws(gap, own - random, n=whole, unit="share", formula=text)
    return {"share_minimal": with_control(effect, "added_random_nodes", control, difference)}


def measure_answers(few: KnockOut, nodes: NodeSet) -> dict[str, Metric]:
    """The circuit's answer against the model's, and that of random node sets with its layers and positions."""
    model = few.answers()
    sets = [nodes, *random_like(nodes, few.decoder.n_heads, RANDOM_ANSWERS, seed=2)]
    answers = [few.answers(one) for one in sets]
    divergence = np.stack([(model.exp() * (model - one)).sum(-1).cpu().numpy() for one in answers])
    same = np.stack([(model.argmax(-1) == one.argmax(-1)).double().cpu().numpy() for one in answers])
    return {
        name: clustered(values[0], few.prompts, unit=unit, formula=text, draws={"random_heads": values[1:]})
        for name, values, unit, text in (
            ("answer_kl", divergence, "nats", "KL(M || C) of the next token at END"),
            ("answer_same", same, "share", "prompts on which circuit and model have the same likeliest token"),
        )
    }


def part_table(few: KnockOut, circuits: dict[str, NodeSet], grown: dict[str, Steps], draws: int) -> pd.DataFrame:
    """F(C minus K) and F(M minus K) on `few`, K random or a greedily grown part, for each searched circuit."""
    tables = []
    for name, steps in grown.items():
        found = {
            "random": random_parts(few, circuits[name], draws, 0),
            "greedy": _both(few, circuits[name], [part for part, _ in steps]),
        }
        for kind, values in found.items():
            part = pd.DataFrame(values, columns=["f_circuit", "f_model"])
            tables.append(part.assign(circuit=name, kind=kind, removed=kind))
    return pd.concat(tables)


def class_table(removed: Runs, kept: dict[str, Runs]) -> pd.DataFrame:
    """One row per circuit and class K: what is left of circuit and model without it, in logits."""
    records = [
        {"circuit": circuit, "kind": "class", "removed": name, "f_circuit": runs[name].mean(), "f_model": model.mean()}
        for circuit, runs in kept.items()
        for name, model in removed.items()
    ]
    return pd.DataFrame(records)
