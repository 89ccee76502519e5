"""Step: do the edge finders recover the edges of a circuit that is known?

Models of `planted.py`, one for each seed. Planted edges are those over which prompt and ABC partner differ in what the
hand-built heads read: a token or position that both share carries nothing that patching could show (the "resample"
ground truth of Conmy et al. 2023, section 4). Every finder ranks all edges and is judged by the area under the ROC
curve against the planted ones, and by how faithful its circuits are (`edge_attribution`):

    eap, eap_ig   first-order scores (common/interp/edge_graph.py), their size
    sizes_alone   norms of change and gradient without the angle between them: what a finder should beat
    exact         change of the logit difference without the edge, its size
    acdc          number of thresholds at which ACDC keeps the edge; its distance is the KL divergence of the answer
    random        a random number, as a check of the ruler

Null: the same scores against planted edges that are shuffled among all edges, mean of `SHUFFLES`. And the twin without
the circuit, where no finder may find anything: scores there are small beside those of planted edges (planted.py).
"""

from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import auroc, over_seeds
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.interp.acdc import acdc, exact_edges
from common.interp.decoder import Decoder
from common.interp.edge_graph import Graph, edge_scores, run_circuits
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, Batch, balanced, passes
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.edge_attribution import areas, curve_table
from replications.ioi_circuit.edge_rankings import answers, logit_difference, run_rankings
from replications.ioi_circuit.planted import load_planted, measure_sizes, relative_sizes
from replications.ioi_circuit.settings import EdgeGroundTruth

SHUFFLES = 200
FORMULAS = {
    "auroc": "area under the ROC curve against the planted edges",
    "cpr": "area below f(C) over the share of edges",
    "gain": "area under the ROC curve of EAP-IG minus that of EAP",
    "precision": "share of the edges kept at some threshold that are planted",
    "recall": "share of the planted edges that are kept at some threshold",
}
TRUTH = [
    ("embedding", "0.0 v"),
    ("embedding", "1.0 q"), ("0.0", "1.0 k"), ("0.0", "1.0 v"),
    ("embedding", "1.1 q"), ("embedding", "1.1 k"), ("embedding", "1.1 v"),
    ("1.0", "2.0 k"), ("1.0", "2.0 v"), ("1.1", "2.0 k"), ("1.1", "2.0 v"),
    ("2.0", "3.0 q"), ("embedding", "3.0 k"), ("embedding", "3.0 v"),
    ("2.0", "3.1 q"), ("embedding", "3.1 k"), ("embedding", "3.1 v"),
    ("1.0", "3.2 k"), ("1.1", "3.2 k"), ("embedding", "3.2 v"),
    ("3.0", "logits"), ("3.1", "logits"), ("3.2", "logits"),
]  # fmt: skip


class EdgeGroundTruthFiles(Files):
    metrics: Path
    edges: Path
    """scores of every finder, one row per seed and edge"""
    curves: Path
    """faithfulness for each seed, finder, draw and share of edges"""


def edge_ground_truth(files: EdgeGroundTruthFiles, settings: EdgeGroundTruth, run: RunInfo) -> None:
    """Writes `metrics.json`, one row per seed and edge, and the faithfulness curves."""
    tables, lines, records = [], [], []
    for seed in track(run.seeds[: settings.n_seeds], "planted models"):
        n_prompts = max(settings.score_prompts, settings.curve_prompts)
        decoder, prompts, _ = load_planted(seed, n_prompts)
        graph = Graph.of(decoder)
        edges, truth = graph.edges().numpy(), planted_edges(graph).numpy()
        with torch.no_grad():
            scores = find(decoder, prompts, settings)
            fresh = balanced(prompts, VERIFICATION, settings.curve_prompts)
            gain, span = run_rankings(decoder, fresh, scores, settings, settings.shares)
            below = areas(gain, span, settings.shares, fresh)
            twin, of_twin, _ = load_planted(seed, settings.score_prompts, "twin")
            in_twin = find(twin, of_twin, settings)
        generator = np.random.default_rng(seed)
        sizes = {name: values.abs().double().numpy()[edges] for name, values in scores.items()}
        sizes["random"] = generator.random(int(edges.sum()))
        shuffled = [generator.permutation(truth[edges]) for _ in range(SHUFFLES)]
        kept = scores["acdc"].numpy()[edges] > 0
        record = {f"cpr_{name}": below[f"cpr_{name}"].value for name in scores}
        record |= {f"cpr_{name}_random": below[f"cpr_{name}"].control("random_rankings").value for name in scores}
        for end, truths in (("", [truth[edges]]), ("_shuffled", shuffled)):
            record |= {
                f"auroc_{name}{end}": mean(float(auroc(size, one)) for one in truths) for name, size in sizes.items()
            }
            record["gain_eap_ig" + end] = record["auroc_eap_ig" + end] - record["auroc_eap" + end]
            record["precision_acdc" + end] = mean(float((kept & one).sum() / max(1, kept.sum())) for one in truths)
            record["recall_acdc" + end] = mean(float((kept & one).sum() / one.sum()) for one in truths)
        record |= compare_sizes(sizes, in_twin, truth[edges])
        records.append(record)
        names = pd.DataFrame([(w, r) for w in graph.writer_names() for r in graph.reader_names()])
        rows = names[edges.flatten()].set_axis(["writer", "reader"], axis=1)
        tables.append(rows.assign(seed=seed, planted=truth[edges].astype(int), **sizes))
        lines.append(curve_table(gain, span).assign(seed=seed))
    write_metrics(files.metrics, measure(pd.DataFrame(records)))
    for path, parts in ((files.edges, tables), (files.curves, lines)):
        write_table(path, pd.concat(parts))


def compare_sizes(
    planted: dict[str, Float[np.ndarray, " edge"]],
    twin: dict[str, Float[Tensor, "writer reader"]],
    truth: Bool[np.ndarray, " edge"],
) -> dict[str, float]:
    """`twin_size_*` and `planted_size_*` of each finder."""
    return relative_sizes(
        {name: float(planted[name].max()) for name in twin},
        {name: float(np.median(planted[name][truth])) for name in twin},
        {name: float(scores.abs().max()) for name, scores in twin.items()},
    )


def planted_edges(graph: Graph) -> Bool[Tensor, "writer reader"]:
    """`TRUTH` as a mask."""
    mask = torch.zeros(graph.n_writers, graph.n_readers, dtype=torch.bool)
    for writer, reader in TRUTH:
        mask[graph.writer_names().index(writer), graph.reader_names().index(reader)] = True
    return mask


def find(
    decoder: Decoder, prompts: list[Prompt], settings: EdgeGroundTruth
) -> dict[str, Float[Tensor, "writer reader"]]:
    """Scores of all edges by every finder."""
    batch = Batch(balanced(prompts, DISCOVERY, settings.score_prompts), "cpu")
    clean, partner = passes(decoder, batch)
    difference = partial(logit_difference, decoder, batch)
    scores = edge_scores(decoder, clean, partner, batch.mask, difference, settings.ig_steps)._asdict()
    few = Batch(balanced(prompts, DISCOVERY, settings.exact_prompts), "cpu")
    clean, partner = passes(decoder, few)
    edges, feeds = Graph.of(decoder).edges(), Graph.of(decoder).feeds()

    def mean_difference(held: Bool[Tensor, "circuit writer reader"]) -> Float[Tensor, " circuit"]:
        return logit_difference(decoder, few, run_circuits(decoder, clean, partner, few.mask, held)).mean(-1).double()

    def divergence(held: Bool[Tensor, "circuit writer reader"]) -> Float[Tensor, " circuit"]:
        final = run_circuits(decoder, clean, partner, few.mask, held)
        return (own.exp() * (own - answers(decoder, few, final))).sum(-1).mean(-1)

    own = answers(decoder, few, clean.final)
    scores["exact"] = exact_edges(mean_difference, edges, settings.circuits_per_pass)
    kept = [acdc(divergence, edges, feeds, value) for value in settings.thresholds]
    scores["acdc"] = torch.stack(kept).double().sum(0)
    return scores


def measure(records: pd.DataFrame) -> dict[str, Metric]:
    """Means over seeds against their nulls, and sizes in the twin against those of planted edges."""
    metrics = measure_sizes(records, {"planted_exact": "planted_size_exact"})
    nulls = {"shuffled": "shuffled_truth", "random": "random_rankings"}
    names = [str(name) for name in records if "_size_" not in str(name)]
    for name in names:
        if name.endswith(tuple(f"_{null}" for null in nulls)) and name.rpartition("_")[0] in names:
            continue
        metrics[name] = over_seeds(
            records[name].tolist(),
            unit="1",
            formula=FORMULAS[name.split("_")[0]],
            controls={
                control: records[f"{name}_{null}"].tolist()
                for null, control in nulls.items()
                if f"{name}_{null}" in names
            },
        )
    return metrics


if __name__ == "__main__":
    run_step(edge_ground_truth)
