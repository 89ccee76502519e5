"""Step: trains transcoders on the planted models and says which share of the planted edges their graphs find.

Judged are prompts whose string the model recognises. Every control is scored on the same prompts and edges:

    untrained           random encoders with fitted decoders
    shuffled_edges      the weights into each target permuted among all nodes that could reach it
    shuffled_in_place   sources permuted among the features of one layer and position
    co_activation       correlation over prompts in place of edges; for the answer with that of the voice that is asked,
                        which the model does not see, so a true edge there is rated lower than it could be
    write_norm          size of what a source writes
    *_in_place          the same among sources one layer below, at the same position or the one before

The hand-written features give the ceiling.
"""

from dataclasses import replace
from pathlib import Path

import torch

from common.core.errors import UserError
from common.core.metrics import write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.saes.metrics import fvu
from common.saes.sae import Sae
from replications.circuit_tracing.dictionaries import fitted, untrained
from replications.circuit_tracing.graph import attribute
from replications.circuit_tracing.influence import Layout, prune
from replications.circuit_tracing.interventions import shuffled
from replications.circuit_tracing.planted import (
    LAYERS,
    Circuit,
    Run,
    circuit,
    co_activation,
    edge_strength,
    freeze_circuit,
    keys,
    matches,
    near,
    planted_edges,
    recovered,
    run_circuit,
    sequences,
    shuffled_edges,
    strongest_edges,
    write_sizes,
)
from replications.circuit_tracing.settings import Planted

JUDGED = 5000  # added to a seed for prompts that no transcoder has seen
EDGELESS = (
    "shuffled_edges", "shuffled_in_place", "co_activation", "co_activation_in_place", "write_norm",
    "write_norm_in_place",
)  # fmt: skip
"""Controls that are scored on the graph of the trained transcoders."""
OTHERS = (*EDGELESS, "precision", "recall")
RECOVERED = "share of planted edges among as many strongest edges: precision and recall"


class PlantedFiles(Files):
    metrics: Path
    table: Path
    """per seed and prompt, the shares"""


def measure_planted(files: PlantedFiles, settings: Planted, run: RunInfo) -> None:
    """Trains, draws graphs, compares."""
    made = [circuit(settings, seed) for seed in run.seeds]
    seen = [sequences(one, settings, settings.sequences, seed) for one, seed in zip(made, run.seeds, strict=True)]
    runs = [run_circuit(one, tokens) for one, (tokens, _) in zip(made, seen, strict=True)]
    x, y = (torch.cat([getattr(one, part)[:, :, 1:].flatten(1, 2) for one in runs]) for part in ("mlp_in", "mlp_out"))
    saes = fitted(x, y, settings.dictionaries, run.seeds, LAYERS, run, files.metrics)["trained"]
    rows = []
    for at, seed in enumerate(run.seeds):
        own = slice(LAYERS * at, LAYERS * (at + 1))
        trained = saes[own]
        k = settings.dictionaries.k
        blank = [
            untrained(sae, inputs, targets, k, LAYERS * seed + layer)
            for layer, (sae, inputs, targets) in enumerate(zip(trained, x[own], y[own], strict=True))
        ]
        kinds = {"hand_written": made[at].mlps, "trained": trained, "untrained": blank}
        found = judged(made[at], kinds, runs[at], seen[at][1], settings, seed)
        fit = sum(fvu(b, sae.reconstruct(a)) for sae, a, b in zip(trained, x[own], y[own], strict=True)) / LAYERS
        rows += [{"seed": seed, "fvu": fit, **one} for one in found]
    write_table(files.table, rows)
    each = {
        name: [_mean([row[name] for row in rows if row["seed"] == seed]) for seed in run.seeds]
        for name in rows[0]
        if name not in ("seed", "prompt")
    }
    controls = {name: each[name] for name in ("untrained", *EDGELESS)}
    metrics = {
        "recovered": over_seeds(each["trained"], unit="share", formula=RECOVERED, controls=controls),
        "recovered_hand_written": over_seeds(each["hand_written"], unit="share", formula=RECOVERED),
        "pruned_precision": over_seeds(
            each["precision"], unit="share", formula="planted edges among those kept by pruning at 0.8 and 0.98"
        ),
        "pruned_recall": over_seeds(each["recall"], unit="share", formula="planted edges kept by the same pruning"),
        "fvu": over_seeds(each["fvu"], unit="share", formula="FVU of the trained transcoders, mean over layers"),
    }
    write_metrics(files.metrics, metrics)


def judged(
    made: Circuit, kinds: dict[str, list[Sae]], seen: Run, seen_answers: torch.Tensor, settings: Planted, seed: int
) -> list[dict[str, float]]:
    """One row per judged prompt of one seed."""
    tokens, answers = sequences(made, settings, settings.prompts, seed + JUDGED)
    run = run_circuit(made, tokens)
    known = {kind: matches(saes, seen) for kind, saes in kinds.items()}
    rows = []
    for at in range(len(tokens)):
        answer = int(answers[at])
        if float(run.active[2][at, -1, answer]) == 0:
            continue
        frozen, truth = freeze_circuit(made, run, tokens, at), planted_edges(made, run, at, answer)
        row: dict[str, float] = {"prompt": at, "planted": len(truth)}
        for kind, saes in kinds.items():
            stands_for, acts = known[kind]
            try:
                graph = attribute(frozen, saes, tokens=[answer])
            except UserError:  # no feature of a layer fires, so no edge is found
                row |= {kind: 0.0} | (dict.fromkeys(OTHERS, 0.0) if kind == "trained" else {})
                continue
            names = keys(graph, stands_for, answer)
            row[kind] = recovered(edge_strength(graph), names, truth)
            if kind == "trained":
                together, sizes = co_activation(graph, acts, seen_answers, answer), write_sizes(graph)
                tables = (
                    shuffled_edges(graph, seed + at),
                    edge_strength(replace(graph, adjacency=shuffled(graph, seed + at))),
                    together,
                    together * near(graph),
                    sizes,
                    sizes * near(graph),
                )
                row |= {name: recovered(one, names, truth) for name, one in zip(EDGELESS, tables, strict=True)}
                layout = Layout(graph.n_features, graph.first_embedding, graph.first_logit)
                kept = prune(graph.adjacency, graph.logit_weights(), layout).edges
                edges = set(strongest_edges(kept.float(), names, int(kept.sum())))
                row["precision"] = len(edges & truth) / max(1, len(edges))
                row["recall"] = len(edges & truth) / len(truth)
        rows.append(row)
    if not rows:
        raise UserError(f"the planted model of seed {seed} recognises none of its strings; raise planted.prompts")
    return rows


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    run_step(measure_planted)
