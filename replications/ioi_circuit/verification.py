"""Step: chooses the circuit on the discovery half and tests it on the verification half (Wang et al. 2022, section 4).

F is the mean logit difference. M is the model, C the circuit. Everything outside is replaced (knockout.py), so F of no
node is near 0. Measured here: faithfulness against trivial circuits (trivial_circuits.py), classes and greedily
grown parts taken out (completeness.py), self-repair (name_movers.py). robustness.py goes on from the circuit.

Size: nodes are ranked by their largest path-patching effect; of the sizes that hold every head with a class and at most
`largest_share` of all heads, the one with the largest F on discovery prompts is the circuit. Nothing of the
verification half enters the choice. If no size qualifies, or the chosen one keeps less than `smallest_faithfulness` of
F on discovery prompts, the verdict is *no small circuit* (`small_circuit` is 0) and the best set of at most that many
heads is measured in its place.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common.core.metrics import write_metrics
from common.core.statistics import without_interval
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, balanced, load_circuit_prompts
from replications.ioi_circuit.completeness import (
    EVERYTHING,
    by_class,
    class_table,
    classes_of,
    grown_parts,
    measure_classes,
    measure_greedy,
    steps_table,
)
from replications.ioi_circuit.dataset import Version
from replications.ioi_circuit.knockout import Baseline, KnockOut, read_means
from replications.ioi_circuit.name_movers import measure_repair
from replications.ioi_circuit.nodes import CLASSES, PLACE_OF_RECEIVER, UNNAMED, node_set
from replications.ioi_circuit.settings import Verification
from replications.ioi_circuit.trivial_circuits import circuits_of, measure_faithfulness, measure_roles, trivial_circuits


class VerificationFiles(Files):
    manifest: Path
    prompts: Path
    activations: Path
    """for the template means"""
    heads: Path
    """of path patching"""
    metrics: Path
    circuit: Path
    """its nodes with class and effect, strongest first, and whether greedy search took them out"""
    curve: Path
    """faithfulness by size, on both halves"""
    classes: Path
    """what is left of each circuit and of the model without each class"""
    grown: Path
    """the parts that greedy search takes out of the circuit"""


def verification(files: VerificationFiles, settings: Verification, run: RunInfo) -> None:
    """Writes `metrics.json` and four tables."""
    decoder, rows = load_circuit_prompts(files.manifest, files.prompts, run.device)
    heads = pd.read_csv(files.heads)
    ranked = rank_nodes(heads)
    means = read_means(files.activations, run.device)

    def on(half: int, count: int, version: Version = "original", baseline: Baseline = "abc") -> KnockOut:
        chosen = balanced(rows, half, count)
        return KnockOut(decoder, chosen, means, run.device, settings.batch_size, version=version, baseline=baseline)

    with torch.no_grad():
        fresh, seen = on(VERIFICATION, settings.verify_prompts), on(DISCOVERY, settings.curve_prompts)
        points = size_curve(seen, fresh, ranked, settings.sizes, len(heads))
        size, small = choose(points, ranked, len(heads), settings.largest_share, settings.smallest_faithfulness)
        chosen = ranked.iloc[:size].reset_index(drop=True)
        label_backups(chosen, heads)
        circuits, classes = circuits_of(chosen) | trivial_circuits(ranked, heads, size), classes_of(chosen)
        nodes = circuits["circuit"]
        count = settings.verify_prompts
        metrics = measure_roles(fresh, on(VERIFICATION, count, "roles_flipped"), circuits)
        blind, neutral = on(VERIFICATION, count, "abc"), on(VERIFICATION, count, baseline="neutral")
        metrics |= measure_faithfulness(fresh, blind, neutral, circuits, settings.random_sets, settings.blind_sets)
        compared = {name: circuits[name] for name in ("circuit", "naive", "two_heads")}
        removed, kept = by_class(fresh, compared, classes)
        metrics |= measure_classes(removed, kept, fresh.prompts)
        searched = on(DISCOVERY, settings.greedy_prompts)
        grown = {
            name: grown_parts(searched, circuits[name], settings.greedy) for name in ("circuit", "favouring_writers")
        }
        rivals = {"favouring_writers": (circuits["favouring_writers"], grown["favouring_writers"])}
        greedy, part = measure_greedy(fresh, nodes, grown["circuit"], rivals, settings.blind_sets)
        metrics |= greedy
        if movers := classes.get("name_mover"):
            backups, strongest = np.flatnonzero(heads["backup"]).tolist(), int(heads["backup_growth"].argmax())
            metrics |= measure_repair(fresh, movers, backups, strongest, removed)
    chosen["greedy"] = [node_set(chosen.iloc[[row]]) <= part for row in range(len(chosen))]
    share = len({(node.layer, node.head) for node in nodes}) / len(heads)
    metrics["circuit_heads_share"] = without_interval(
        share, len(heads), "share", "heads of the circuit / heads of the model"
    )
    metrics["small_circuit"] = without_interval(
        float(small), len(heads), "1", "1: a small circuit was found; 0: no small circuit"
    )
    print(f"{size} nodes; verdict: {'a small circuit' if small else 'no small circuit'}")
    write_metrics(files.metrics, metrics)
    tables = {files.circuit: chosen, files.curve: points, files.classes: class_table(removed, kept)}
    tables[files.grown] = steps_table(grown["circuit"])
    for path, content in tables.items():
        write_table(path, content)


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
                "class": heads[f"{receiver}_class"].astype(object).fillna("").replace("", "uncounted"),
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


def choose(
    points: pd.DataFrame, ranked: pd.DataFrame, total: int, largest_share: float, smallest_faithfulness: float
) -> tuple[int, bool]:
    """Number of nodes of the circuit by the rule of the module's docstring, and whether it is a small circuit."""
    named = ranked.index[ranked["class"].isin(CLASSES)]
    least = int(named.max()) + 1 if len(named) else len(ranked) + 1
    small = points[points["heads"] <= largest_share * total]
    allowed = small[small["nodes"] >= least]
    pool = next(table for table in (allowed, small, points.iloc[:1]) if not table.empty)
    best = pool.sort_values("discovery", ascending=False, kind="stable").iloc[0]
    return int(best["nodes"]), not allowed.empty and bool(best["discovery"] >= smallest_faithfulness)


def label_backups(chosen: pd.DataFrame, heads: pd.DataFrame) -> None:
    """Nodes at END without a class that are backup name movers get that class; the choice of size came before."""
    backups = {(row["layer"], row["head"]) for _, row in heads[heads["backup"] > 0].iterrows()}
    pairs = pd.Series(list(zip(chosen["layer"], chosen["head"], strict=True)), index=chosen.index)
    free = chosen["class"].isin([*UNNAMED, "uncounted"]) & (chosen["place"] == "end")
    chosen.loc[free & pairs.isin(backups), "class"] = "backup"


if __name__ == "__main__":
    run_step(verification)
