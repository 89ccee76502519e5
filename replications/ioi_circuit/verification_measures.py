"""The numbers of the verification: from logit differences of knock-out runs to metrics and the table of parts."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from common.core.metrics import Metric
from common.core.statistics import BOOTSTRAP_DRAWS, from_draws, null_distribution, without_interval
from replications.ioi_circuit.clustering import clustered
from replications.ioi_circuit.completeness import EVERYTHING, Greedy, gaps, greedy_parts, random_parts
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.labels import NAMED
from replications.ioi_circuit.nodes import NodeSet, random_like

ANSWERS = 20  # random circuits whose answers are compared
WORTH = 0.01
"""Smallest worth of a node that belongs to the circuit (Wang et al. 2022, figure 7)."""
Runs = dict[str, Float[np.ndarray, " prompt"]]


def measure(
    runs: Runs, random: dict[str, Float[np.ndarray, "draw prompt"]], prompts: list[Prompt], few: list[Prompt]
) -> dict[str, Metric]:
    """Faithfulness and its controls; random node sets are compared on the same prompts as the circuit."""
    model, few_model = runs["model"], random["model"][0]
    metrics = {"model": clustered(model, prompts, unit="logits", formula="F(M)")}
    for name in ("circuit", "complement", "nothing"):
        text = {"circuit": "F(C)", "complement": "F(M minus C)", "nothing": "F(nothing)"}[name]
        metrics[f"{name}_faithfulness"] = clustered(
            runs[name], prompts, unit="1", formula=f"{text} / F(M)", denominators=model
        )
    for name, drawn in (("circuit", "kept"), ("complement", "removed")):
        null = random[drawn]
        text = f"{len(null)} random node sets with the circuit's layers and positions, {drawn}; F / F(M)"
        metrics[f"{name}_faithfulness_random"] = null_distribution(
            null.sum(1) / few_model.sum(), unit="1", formula=text
        )
        metrics[f"{name}_faithfulness_minus_random"] = clustered(
            random[name][0] - null.mean(0), few, unit="1", formula=f"minus mean of: {text}", denominators=few_model
        )
    metrics["average_of_ratios"] = clustered(
        runs["circuit"] / model, prompts, unit="1", formula="mean over prompts of F(C) / F(M)"
    )
    return metrics


def measure_classes(removed: Runs, kept: dict[str, Runs], prompts: list[Prompt]) -> dict[str, Metric]:
    """What each class is worth to the model, and the gap between model and circuit without it."""
    model = removed["none"]
    metrics = {}
    for name, without in removed.items():
        if name != "none":
            metrics[f"drop_without_{name}"] = clustered(
                model - without, prompts, unit="1", formula="(F(M) - F(M minus K)) / F(M)", denominators=model
            )
            metrics[f"incompleteness_{name}"] = clustered(
                without - kept["circuit"][name],
                prompts,
                unit="1",
                formula="(F(M-K) - F(C-K)) / F(M)",
                denominators=model,
            )
    widest: dict[str, Float[np.ndarray, " prompt"]] = {}
    for circuit, found in kept.items():
        gap = {name: float((removed[name] - found[name]).mean()) for name in removed if name in NAMED}
        if not gap:
            continue
        worst = max(gap, key=lambda name: abs(gap[name]))
        widest[circuit] = np.sign(gap[worst]) * (removed[worst] - found[worst])
        metrics[f"{circuit}_class_gap"] = clustered(
            widest[circuit],
            prompts,
            unit="1",
            formula="largest |F(M-K) - F(C-K)| / F(M) over classes K",
            denominators=model,
        )
        metrics[f"{circuit}_alone"] = clustered(
            found["none"], prompts, unit="1", formula="F(C) / F(M)", denominators=model
        )
    if not widest:
        return metrics
    metrics["circuit_class_gap_minus_naive"] = clustered(
        widest["circuit"] - widest["naive"],
        prompts,
        unit="1",
        formula="circuit minus naive circuit",
        denominators=model,
    )
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
    return {
        "share_minimal": from_draws(float(nodes.mean()), own, n=whole, unit="share", formula=text),
        "share_minimal_random": from_draws(
            float(others.mean()),
            random,
            n=len(others),
            unit="share",
            formula=f"{text}; random nodes added to the circuit",
        ),
        "share_minimal_minus_random": from_draws(
            float(nodes.mean() - others.mean()), own - random, n=whole, unit="share", formula=f"{text}; difference"
        ),
    }


def measure_answers(few: KnockOut, nodes: NodeSet) -> dict[str, Metric]:
    """The circuit's answer against the model's, and that of random node sets with its layers and positions."""
    model = few.answers()
    sets = [nodes, *random_like(nodes, few.decoder.n_heads, ANSWERS, seed=2)]
    found = [few.answers(one) for one in sets]
    divergence = [(model.exp() * (model - one)).sum(-1).cpu().numpy() for one in found]
    same = [(model.argmax(-1) == one.argmax(-1)).double().cpu().numpy() for one in found]
    metrics = {}
    for name, values, unit, text in (
        ("answer_kl", divergence, "nats", "KL(M || C) of the next token at END"),
        ("answer_same", same, "share", "prompts on which circuit and model have the same likeliest token"),
    ):
        metrics[name] = clustered(values[0], few.prompts, unit=unit, formula=text)
        null = np.array([one.mean() for one in values[1:]])
        metrics[f"{name}_random"] = null_distribution(null, unit=unit, formula=f"{text}; random heads in place of C")
    return metrics


def measure_parts(
    few: KnockOut, circuits: dict[str, NodeSet], draws: int, greedy: Greedy
) -> tuple[pd.DataFrame, dict[str, Metric]]:
    """Random and greedily grown parts taken out of circuit and model, for the circuit and the naive circuit."""
    model = float(few.differences([EVERYTHING], remove=True)[0].mean())
    metrics, tables = {}, []
    for name in ("circuit", "naive"):
        if not circuits[name]:
            continue
        random, grown = random_parts(few, circuits[name], draws, 0), greedy_parts(few, circuits[name], greedy, 0)
        for kind, values in (("random", random), ("greedy", grown)):
            part = pd.DataFrame(values, columns=["f_circuit", "f_model"])
            tables.append(part.assign(circuit=name, kind=kind, removed=kind))
        by_luck, worst = gaps(random, model), float(gaps(grown, model).max())
        text = "|F(M-K) - F(C-K)| / F(M)"
        metrics[f"{name}_random_gap"] = null_distribution(by_luck, unit="1", formula=f"{text}, random K")
        metrics[f"{name}_greedy_gap"] = without_interval(worst, len(grown), "1", f"largest {text}, K grown greedily")
        metrics[f"{name}_greedy_minus_random"] = null_distribution(
            worst - by_luck, unit="1", formula="greedy minus random"
        )
    return pd.concat(tables), metrics


def role_blind(blind: KnockOut, seen: KnockOut, circuits: dict[str, NodeSet]) -> dict[str, Metric]:
    """What is left of F when nobody is named twice: the name in the slot of IO minus the subject's, on ABC prompts."""
    sets = {"model": None, "circuit": circuits["circuit"], "two_nodes": circuits["two_nodes"]}
    found: dict[str, tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, " prompt"]]] = {}
    for name, nodes in sets.items():
        found[name] = tuple(
            (where.differences([EVERYTHING], remove=True) if nodes is None else where.differences([nodes]))[0]
            for where in (blind, seen)
        )
    text = "logit difference on ABC prompts, IO slot minus subject / logit difference on the prompts themselves"
    metrics = {
        f"role_blind_{name}": clustered(above, seen.prompts, unit="1", formula=text, denominators=below)
        for name, (above, below) in found.items()
    }
    (two, two_all), (model, model_all) = found["two_nodes"], found["model"]
    metrics["role_blind_two_nodes_minus_model"] = clustered(
        two - two_all * model.sum() / model_all.sum(),
        seen.prompts,
        unit="1",
        formula="two nodes minus model",
        denominators=two_all,
    )
    return metrics


def class_table(removed: Runs, kept: dict[str, Runs]) -> pd.DataFrame:
    """One row per circuit and class K: what is left of circuit and model without it, in logits."""
    records = [
        {"circuit": circuit, "kind": "class", "removed": name, "f_circuit": found[name].mean(), "f_model": model.mean()}
        for circuit, found in kept.items()
        for name, model in removed.items()
    ]
    return pd.DataFrame(records)
