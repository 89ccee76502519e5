"""Step: chooses the circuit on the discovery half and tests it on the verification half (Wang et al. 2022, section 4).

F is the mean logit difference. M is the model, C the circuit, M minus K the model without the nodes K. Everything
outside is mean-ablated per template (see knockout.py), so F(nothing) is near 0.

    faithfulness    F(C) / F(M), ratio of averages; for other ablations also the average of ratios
    complement      F(M minus C) / F(M)
    completeness    F(C minus K) against F(M minus K) for each class K
    minimality      |F(C minus (K and v)) - F(C minus K)| / F(M) for each node v, K the other nodes of its class
    self-repair     1 - (drop without the name movers) / (drop of their direct effect alone)

Size: nodes are ranked by their largest path-patching effect; of the sizes that hold every head with a class and at most
`largest_share` of all heads, the one with the largest F on discovery prompts is the circuit. Nothing of the
verification half enters the choice.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from common.cli import run, track
from common.decoder import Decoder
from common.errors import UserError
from common.files import atomic
from common.models import load_model
from common.records import Metric, write_metrics
from common.statistics import null_distribution
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, balanced
from replications.ioi_circuit.classes import CLASSES, PLACE_OF_RECEIVER
from replications.ioi_circuit.clustering import clustered, exact
from replications.ioi_circuit.dataset import Prompt, read_prompts
from replications.ioi_circuit.knockout import Ablation, KnockOut, Node, NodeSet, node_set, random_like, template_means
from replications.ioi_circuit.self_repair import measure_repair, repair_runs

ABLATIONS: tuple[Ablation, ...] = ("mean", "zero", "resample")
EVERYTHING: NodeSet = frozenset()
"""Removing nothing: the whole model."""


def verification(
    *,
    prompts: Path,
    manifest: Path,
    heads: Path,
    curve_prompts: int,
    verify_prompts: int,
    random_prompts: int,
    random_sets: int,
    sizes: list[int],
    largest_share: float,
    small_group: int,
    batch_size: int,
    device: Literal["cpu", "cuda"],
    out: Path,
    circuit: Path,
    curve: Path,
    knockouts: Path,
    grid: Path,
) -> None:
    """Writes `metrics.json` and four tables.

    Args:
        prompts: `prompts.json`.
        manifest: `manifest.json` of the model.
        heads: `heads.csv` of path patching.
        curve_prompts: discovery prompts on which the size is chosen.
        verify_prompts: verification prompts of the circuit, its complement, its classes and the grid.
        random_prompts: verification prompts of random node sets and of minimality, a part of the former.
        random_sets: random node sets with the circuit's layers and positions.
        sizes: numbers of nodes to try.
        largest_share: largest share of the model's heads that a circuit may have.
        small_group: prompts per template mean in the row that repeats the paper's regime.
        batch_size: sequences in one forward pass.
        device: where the model runs.
        out: `metrics.json`.
        circuit: `circuit.csv`: nodes of the circuit with class, rank, effect and minimality.
        curve: `curve.csv`: size, heads, F / F(M) on both halves, ranked and random nodes.
        knockouts: `knockouts.csv`: class, F(C minus K), F(M minus K) in logits.
        grid: `grid.csv`: faithfulness for each choice of what is ablated and how.
    """
    rows = read_prompts(prompts)
    bridge = load_model(manifest.parent, device=device)
    decoder = Decoder(bridge, max(row.positions.end for row in rows) + 1)
    ranked = rank_nodes(pd.read_csv(heads))
    total = decoder.n_layers * decoder.n_heads
    with torch.no_grad():
        means = template_means(decoder, rows, device)
        seen = KnockOut(decoder, balanced(rows, DISCOVERY, curve_prompts), means, device, batch_size)
        fresh = KnockOut(decoder, balanced(rows, VERIFICATION, verify_prompts), means, device, batch_size)
        few = KnockOut(decoder, balanced(rows, VERIFICATION, random_prompts), means, device, batch_size)
        points = size_curve(seen, fresh, ranked, sizes, total)
        named = int(ranked.index[ranked["class"].isin(CLASSES[:-1])].max()) + 1
        allowed = points[(points["heads"] <= largest_share * total) & (points["nodes"] >= named)]
        if allowed.empty:
            raise UserError(
                f"no circuit size holds all {named} nodes down to the last named head in few enough heads; add `sizes` "
                "to replications/ioi_circuit/config.yaml or raise largest_share"
            )
        chosen = ranked.iloc[: int(allowed.loc[allowed["discovery"].idxmax(), "nodes"])].reset_index(drop=True)
        nodes = node_set(chosen)
        runs = main_runs(fresh, chosen)
        random = random_runs(few, nodes, decoder.n_heads, random_sets)
        chosen["minimality"] = minimality(few, chosen)
        repair = repair_runs(fresh, chosen)
        table = ablation_grid(decoder, rows, fresh, nodes, small_group, device, batch_size)
    metrics = measure(runs, random, fresh.prompts, few.prompts, random_sets)
    metrics |= measure_repair(repair, runs, fresh.prompts)
    share = len({(node.layer, node.head) for node in nodes}) / total
    metrics["circuit_heads_share"] = exact(share, "share", "heads of the circuit / heads of the model", total)
    write_metrics(out, metrics)
    for path, content in ((circuit, chosen), (curve, points), (knockouts, class_table(runs)), (grid, table)):
        with atomic(path) as temporary:
            content.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def rank_nodes(heads: pd.DataFrame) -> pd.DataFrame:
    """Every head at each of the three positions with its largest effect there, largest first.

    Columns layer, head, place, receiver (of the largest effect), effect in percent, class.
    """
    parts = [
        pd.DataFrame(
            {
                "layer": heads["layer"],
                "head": heads["head"],
                "place": place,
                "receiver": receiver,
                "effect": heads[receiver],
                "class": heads[f"{receiver}_class"].fillna("").replace("", "uncounted"),
            }
        )
        for receiver, place in PLACE_OF_RECEIVER.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    table = table.reindex(table["effect"].abs().sort_values(ascending=False, kind="stable").index)
    return table.drop_duplicates(["layer", "head", "place"]).reset_index(drop=True)


def size_curve(seen: KnockOut, fresh: KnockOut, ranked: pd.DataFrame, sizes: list[int], total: int) -> pd.DataFrame:
    """Faithfulness of the first n ranked nodes, on both halves."""
    sets = [node_set(ranked.iloc[:size]) for size in sizes]
    columns: dict[str, object] = {
        "nodes": sizes,
        "heads": [len({(node.layer, node.head) for node in nodes}) for nodes in sets],
        "of_heads": total,
    }
    for name, where in (("discovery", seen), ("verification", fresh)):
        whole = where.differences([EVERYTHING], remove=True)[0].mean()
        columns[name] = where.differences(sets).mean(1) / whole
    return pd.DataFrame(columns)


def main_runs(fresh: KnockOut, chosen: pd.DataFrame) -> dict[str, Float[np.ndarray, " prompt"]]:
    """Logit difference of every verification prompt: model, circuit, complement, and each class taken out of both."""
    nodes = node_set(chosen)
    classes = {name: node_set(chosen[chosen["class"] == name]) for name in CLASSES}
    classes = {name: part for name, part in classes.items() if part}
    kept = fresh.differences([nodes, EVERYTHING, *(nodes - part for part in classes.values())])
    removed = fresh.differences([EVERYTHING, nodes, *classes.values()], remove=True)
    found = {"circuit": kept[0], "nothing": kept[1], "model": removed[0], "complement": removed[1]}
    for row, name in enumerate(classes, start=2):
        found[f"circuit_without_{name}"], found[f"model_without_{name}"] = kept[row], removed[row]
    return found


def random_runs(few: KnockOut, nodes: NodeSet, n_heads: int, draws: int) -> dict[str, Float[np.ndarray, "draw prompt"]]:
    """Random node sets with the layers and positions of the circuit, kept alone and removed."""
    sets = random_like(nodes, n_heads, draws, seed=0)
    parts = [sets[start : start + 10] for start in range(0, draws, 10)]
    found: dict[str, Float[np.ndarray, "draw prompt"]] = {
        "model": few.differences([EVERYTHING], remove=True),
        "circuit": few.differences([nodes]),
        "complement": few.differences([nodes], remove=True),
    }
    for name, remove in (("kept", False), ("removed", True)):
        runs = [few.differences(part, remove=remove) for part in track(parts, f"random sets {name}")]
        found[name] = np.concatenate(runs)
    return found


def minimality(few: KnockOut, chosen: pd.DataFrame) -> list[float]:
    """|F(C minus (K and v)) - F(C minus K)| / F(M) for each node v, K being the rest of its class."""
    nodes = node_set(chosen)
    without, without_also = [], []
    for index, row in chosen.iterrows():
        same = chosen[(chosen["class"] == row["class"]) & (chosen.index != index)]
        rest = node_set(same) if row["class"] in CLASSES[:-1] else EVERYTHING
        without.append(nodes - rest)
        without_also.append(nodes - rest - node_set(chosen.loc[[index]]))
    whole = few.differences([EVERYTHING], remove=True)[0].mean()
    change = few.differences(without_also).mean(1) - few.differences(without).mean(1)
    return [float(value) for value in np.abs(change) / whole]


def ablation_grid(
    decoder: Decoder,
    rows: list[Prompt],
    fresh: KnockOut,
    nodes: NodeSet,
    small_group: int,
    device: str,
    batch_size: int,
) -> pd.DataFrame:
    """Faithfulness of the same circuit for each ablation value and for nodes at one position or at all positions."""
    everywhere = frozenset(Node(node.layer, node.head, None) for node in nodes)
    model = fresh.differences([EVERYTHING], remove=True)[0]
    few = KnockOut(decoder, fresh.prompts, template_means(decoder, rows, device, small_group), device, batch_size)
    cells: list[tuple[KnockOut, Ablation, str]] = [(fresh, ablation, "all") for ablation in ABLATIONS]
    cells.append((few, "mean", str(small_group)))
    records = []
    for where, ablation, group in cells:
        for positions, part in (("specific", nodes), ("all", everywhere)):
            circuit = where.differences([part], ablation=ablation)[0]
            records.append(
                {
                    "ablation": ablation,
                    "positions": positions,
                    "prompts_per_mean": group if ablation == "mean" else "",
                    "ratio_of_averages": circuit.mean() / model.mean(),
                    "average_of_ratios": (circuit / model).mean(),
                    "median_of_ratios": np.median(circuit / model),
                    "share_below_0": (circuit < 0).mean(),
                }
            )
    return pd.DataFrame(records)


def measure(
    runs: dict[str, Float[np.ndarray, " prompt"]],
    random: dict[str, Float[np.ndarray, "draw prompt"]],
    prompts: list[Prompt],
    few: list[Prompt],
    draws: int,
) -> dict[str, Metric]:
    """All metrics of this part; random node sets are compared on the same prompts as the circuit."""
    model, few_model = runs["model"], random["model"][0]
    metrics = {"model": clustered(model, prompts, unit="logits", formula="F(M)")}
    for name in ("circuit", "complement", "nothing"):
        text = {"circuit": "F(C)", "complement": "F(M minus C)", "nothing": "F(nothing)"}[name]
        metrics[f"{name}_faithfulness"] = clustered(
            runs[name], prompts, unit="1", formula=f"{text} / F(M)", denominators=model
        )
    for name, drawn in (("circuit", "kept"), ("complement", "removed")):
        null = random[drawn]
        text = f"{draws} random node sets with the circuit's layers and positions, {drawn}; F / F(M)"
        metrics[f"{name}_faithfulness_random"] = null_distribution(
            null.sum(1) / few_model.sum(), unit="1", formula=text
        )
        metrics[f"{name}_faithfulness_minus_random"] = clustered(
            random[name][0] - null.mean(0), few, unit="1", formula=f"minus mean of: {text}", denominators=few_model
        )
    metrics["average_of_ratios"] = clustered(
        runs["circuit"] / model, prompts, unit="1", formula="mean over prompts of F(C) / F(M)"
    )
    for name in CLASSES:
        if f"model_without_{name}" in runs:
            without_m, without_c = runs[f"model_without_{name}"], runs[f"circuit_without_{name}"]
            metrics[f"drop_without_{name}"] = clustered(
                model - without_m, prompts, unit="1", formula="(F(M) - F(M minus K)) / F(M)", denominators=model
            )
            metrics[f"incompleteness_{name}"] = clustered(
                without_m - without_c, prompts, unit="1", formula="(F(M-K) - F(C-K)) / F(M)", denominators=model
            )
    return metrics


def class_table(runs: dict[str, Float[np.ndarray, " prompt"]]) -> pd.DataFrame:
    """One row per class K: what is left of circuit and model without it, in logits."""
    names = [name for name in CLASSES if f"model_without_{name}" in runs]
    records = [{"class": "none", "circuit": runs["circuit"].mean(), "model": runs["model"].mean()}]
    records += [
        {
            "class": name,
            "circuit": runs[f"circuit_without_{name}"].mean(),
            "model": runs[f"model_without_{name}"].mean(),
        }
        for name in names
    ]
    return pd.DataFrame(records)


if __name__ == "__main__":
    run(verification)
