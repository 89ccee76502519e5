"""Step: chooses the circuit on the discovery half and tests it on the verification half (Wang et al. 2022, section 4).

F is the mean logit difference. M is the model, C the circuit, M minus K the model without the nodes K. Everything
outside is mean-ablated per template (see knockout.py), so F(nothing) is near 0.

    faithfulness    F(C) / F(M), ratio of averages; ablation_grid.py repeats it for other ablations and averages
    complement      F(M minus C) / F(M)
    completeness    F(C minus K) against F(M minus K), K by class, at random, greedily; and minimality (completeness.py)
    answer          KL(M || C) of the next token, and share of prompts with the same likeliest token
    self-repair     1 - (drop without the name movers) / (drop of their direct effect alone); backups (self_repair.py)
    role-blind      F on ABC prompts (name in the slot of IO minus the subject's) / F on the prompts themselves

Size: nodes are ranked by their largest path-patching effect; of the sizes that hold every head with a class and at most
`largest_share` of all heads, the one with the largest F on discovery prompts is the circuit. Nothing of the
verification half enters the choice. If no size qualifies, or the chosen one keeps less than `smallest_faithfulness` of
F on discovery prompts, the verdict is *no small circuit* (`small_circuit` is 0) and the best set of at most that many
heads is measured in its place.

The role-blind share tells why faithfulness alone proves little. Under mean ablation a head that lowers whatever name
stands as the subject keeps much of F, though nothing in that set of heads knows which name came twice.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from common.core.metrics import write_metrics
from common.core.statistics import without_interval
from common.core.step import run
from common.core.tables import write_table
from common.data.models import load_model
from common.interp.decoder import Decoder
from replications.ioi_circuit import published
from replications.ioi_circuit.ablation_grid import ablation_grid, measure_grid
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, balanced
from replications.ioi_circuit.completeness import (
    EVERYTHING,
    Greedy,
    additions,
    by_class,
    circuits_of,
    classes_of,
    minimality,
)
from replications.ioi_circuit.dataset import read_prompts
from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.labels import CLASSES, PLACE_OF_RECEIVER
from replications.ioi_circuit.means import read_means
from replications.ioi_circuit.nodes import NodeSet, node_set, random_like
from replications.ioi_circuit.self_repair import measure_repair
from replications.ioi_circuit.verification_measures import (
    class_table,
    measure,
    measure_answers,
    measure_classes,
    measure_minimality,
    measure_parts,
    role_blind,
)


def verification(
    *,
    prompts: Path,
    manifest: Path,
    activations: Path,
    heads: Path,
    curve_prompts: int,
    verify_prompts: int,
    random_prompts: int,
    grid_prompts: int,
    random_sets: int,
    random_parts: int,
    greedy: Greedy,
    sizes: list[int],
    largest_share: float,
    smallest_faithfulness: float,
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
        activations: `activations.safetensors`, for the template means.
        heads: `heads.csv` of path patching.
        curve_prompts: discovery prompts on which the size is chosen.
        verify_prompts: verification prompts of the circuit, its complement and its classes.
        random_prompts: verification prompts of random node sets, random and greedy parts, and minimality.
        grid_prompts: verification prompts of the ablation grid.
        random_sets: random node sets with the circuit's layers and positions.
        random_parts: random parts of the circuit that are taken out.
        greedy: size of the greedy search for such a part.
        sizes: numbers of nodes to try.
        largest_share: largest share of the model's heads that a circuit may have.
        smallest_faithfulness: what it must keep of F on discovery prompts to count as one.
        small_group: prompts in the smaller template means (as collected).
        batch_size: token positions computed in one pass.
        device: where the model runs.
        out: `metrics.json`.
        circuit: `circuit.csv`: nodes of the circuit with class, rank, effect and minimality.
        curve: `curve.csv`: size, heads, F / F(M) on both halves.
        knockouts: `knockouts.csv`: for each circuit and part K, F(C minus K) and F(M minus K) in logits.
        grid: `grid.csv`: faithfulness for each choice of what is ablated and how.
    """
    rows = read_prompts(prompts, "circuit_prompts")
    decoder = Decoder(load_model(manifest.parent, device=device), max(row.positions.end for row in rows) + 1)
    table = pd.read_csv(heads)
    ranked = rank_nodes(table)
    means = read_means(activations, device)

    def on(half: int, count: int, means: dict[int, torch.Tensor] = means, *, roles: bool = True) -> KnockOut:
        return KnockOut(decoder, balanced(rows, half, count), means, device, batch_size, roles=roles)

    with torch.no_grad():
        fresh, few = on(VERIFICATION, verify_prompts), on(VERIFICATION, random_prompts)
        points = size_curve(on(DISCOVERY, curve_prompts), fresh, ranked, sizes, len(table))
        size, small = choose(points, ranked, len(table), largest_share, smallest_faithfulness)
        chosen = ranked.iloc[:size].reset_index(drop=True)
        label_backups(chosen, table)
        circuits, classes = circuits_of(chosen, ranked), classes_of(chosen)
        removed, kept = by_class(fresh, circuits, classes)
        complement, nothing = (
            fresh.differences([circuits["circuit"]], remove=True)[0],
            fresh.differences([EVERYTHING])[0],
        )
        runs = {
            "model": removed["none"],
            "circuit": kept["circuit"]["none"],
            "complement": complement,
            "nothing": nothing,
        }
        runs |= {f"model_without_{name}": removed[name] for name in classes}
        metrics = measure(runs, random_runs(few, circuits["circuit"], random_sets), fresh.prompts, few.prompts)
        metrics |= measure_classes(removed, kept, fresh.prompts)
        parts, found = measure_parts(few, circuits, random_parts, greedy)
        metrics |= found | role_blind(on(VERIFICATION, verify_prompts, roles=False), fresh, circuits)
        chosen["minimality"] = minimality(few, chosen)
        metrics |= measure_minimality(chosen["minimality"].to_numpy(), additions(few, chosen, random_sets, seed=0))
        metrics |= measure_answers(few, circuits["circuit"])
        movers = classes.get("name_mover", EVERYTHING)
        backups = np.flatnonzero(table["backup"]).tolist()
        strongest = int(table["backup_growth"].argmax())
        metrics |= measure_repair(fresh, movers, backups, strongest, runs, fresh.prompts)
        where = on(VERIFICATION, grid_prompts)
        choices = ablation_grid(where, on(VERIFICATION, grid_prompts, read_means(activations, device, few=True)),
                                chosen, small_group)  # fmt: skip
        metrics |= measure_grid(choices)
        if manifest.parent.name == published.MODEL:
            metrics |= published.measure_published(fresh, few, random_sets)
    share = len({(node.layer, node.head) for node in circuits["circuit"]}) / len(table)
    metrics["circuit_heads_share"] = without_interval(
        share, len(table), "share", "heads of the circuit / heads of the model"
    )
    metrics["small_circuit"] = without_interval(
        float(small), len(table), "1", "1: a small circuit was found; 0: no small circuit"
    )
    print(f"{size} nodes; verdict: {'a small circuit' if small else 'no small circuit'}")
    write_metrics(out, metrics)
    tables = {circuit: chosen, curve: points, knockouts: pd.concat([class_table(removed, kept), parts]), grid: choices}
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


def choose(
    points: pd.DataFrame, ranked: pd.DataFrame, total: int, largest_share: float, smallest_faithfulness: float
) -> tuple[int, bool]:
    """Number of nodes of the circuit by the rule of the module's docstring, and whether it is a small circuit."""
    named = ranked.index[ranked["class"].isin(CLASSES[:-1])]
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
    free = chosen["class"].isin(["unclassified", "uncounted"]) & (chosen["place"] == "end")
    chosen.loc[free & pairs.isin(backups), "class"] = "backup"


def random_runs(few: KnockOut, nodes: NodeSet, draws: int) -> dict[str, Float[np.ndarray, "draw prompt"]]:
    """Random node sets with the layers and positions of the circuit, kept alone and removed."""
    sets = random_like(nodes, few.decoder.n_heads, draws, seed=0)
    return {
        "model": few.differences([EVERYTHING], remove=True),
        "circuit": few.differences([nodes]),
        "complement": few.differences([nodes], remove=True),
        "kept": few.differences(sets),
        "removed": few.differences(sets, remove=True),
    }


if __name__ == "__main__":
    run(verification)
