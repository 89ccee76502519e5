"""Step: do the edge finders recover the edges of a circuit that is known?

Models of `planted.py`, one for each seed. Planted edges are those over which prompt and ABC partner differ in what the
hand-built heads read: a token or position that both share carries nothing that patching could show (the "resample"
ground truth of Conmy et al. 2023, section 4). Every finder ranks all edges and is judged by the area under the ROC
curve against the planted ones, and by how faithful its circuits are (`edge_attribution`):

    eap, eap_ig   first-order scores (common/interp/edge_graph.py), their size
    exact         change of the logit difference without the edge, its size
    acdc          number of thresholds at which ACDC keeps the edge; its distance is the KL divergence of the answer
    random        a random number, as a check of the ruler

Null: the same scores against planted edges that are shuffled among all edges, mean of `SHUFFLES`. And the twin without
the circuit, where no finder may find anything: scores there are small beside those of planted edges (twin_sizes.py).
"""

import tempfile
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
from common.core.step import run, track
from common.core.tables import write_table
from common.data.models import load_model, load_tokenizer
from common.interp.acdc import acdc, exact_edges
from common.interp.decoder import Decoder
from common.interp.edge_graph import Graph, edge_scores, run_circuits
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, Batch, balanced, passes
from replications.ioi_circuit.dataset import Prompt, draw_prompts, vocabulary
from replications.ioi_circuit.edge_attribution import answer, faithfulness, reader_of
from replications.ioi_circuit.planted import LENGTH, N_NAMES, save_planted_model
from replications.ioi_circuit.twin_sizes import measure_sizes, relative_sizes

AT_ONCE, SHUFFLES = 8, 200
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


def edge_ground_truth(
    *,
    score_prompts: int,
    exact_prompts: int,
    curve_prompts: int,
    ig_steps: int,
    thresholds: list[float],
    shares: list[float],
    random_circuits: int,
    n_seeds: int,
    seeds: list[int],
    out: Path,
    scores: Path,
    curves: Path,
) -> None:
    """Writes `metrics.json`, one row per seed, finder and edge, and the faithfulness curves.

    Args:
        score_prompts: discovery prompts of EAP and EAP-IG.
        exact_prompts: discovery prompts of exact patching and ACDC.
        curve_prompts: verification prompts of the faithfulness curves.
        ig_steps: points between partner and prompt of EAP-IG.
        thresholds: of ACDC, in nats.
        shares: shares of all edges on the curves.
        random_circuits: random rankings of the edges.
        n_seeds: the first so many seeds.
        seeds: one planted model for each.
        out: `metrics.json`.
        scores: `edges.csv`.
        curves: `curves.csv`.
    """
    tables, lines, records = [], [], []
    for seed in track(seeds[:n_seeds], "planted models"):
        decoder, prompts = make(seed, max(score_prompts, curve_prompts))
        graph = Graph.of(decoder)
        edges, truth = graph.edges().numpy(), planted_edges(graph).numpy()
        with torch.no_grad():
            found = find(decoder, prompts, score_prompts, exact_prompts, ig_steps, thresholds)
            fresh = balanced(prompts, VERIFICATION, curve_prompts)
            table, areas = faithfulness(decoder, fresh, found, shares, random_circuits, AT_ONCE)
            in_twin = find(*make(seed, score_prompts, twin=True), score_prompts, exact_prompts, ig_steps, thresholds)
        generator = np.random.default_rng(seed)
        sizes = {name: values.abs().double().numpy()[edges] for name, values in found.items()}
        sizes["random"] = generator.random(int(edges.sum()))
        shuffled = [generator.permutation(truth[edges]) for _ in range(SHUFFLES)]
        kept = found["acdc"].numpy()[edges] > 0
        record = {"cpr_" + name: areas["cpr_" + name].value for name in found}
        record |= {f"cpr_{name}_random": areas["cpr_random"].value for name in found}
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
        lines.append(table.assign(seed=seed))
    write_metrics(out, measure(pd.DataFrame(records)))
    for path, parts in ((scores, tables), (curves, lines)):
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
        {name: float(found.abs().max()) for name, found in twin.items()},
    )


def make(seed: int, n_prompts: int, *, twin: bool = False) -> tuple[Decoder, list[Prompt]]:
    """A model with the circuit, or its twin without, and enough prompts for `n_prompts` of each half."""
    with tempfile.TemporaryDirectory() as folder:
        save_planted_model(Path(folder), seed, twin=twin)
        decoder = Decoder(load_model(Path(folder)), LENGTH)
        words = vocabulary(load_tokenizer(Path(folder)), N_NAMES)
    return decoder, draw_prompts(words, [seed], max(1, n_prompts // 14))


def planted_edges(graph: Graph) -> Bool[Tensor, "writer reader"]:
    """`TRUTH` as a mask."""
    found = torch.zeros(graph.n_writers, graph.n_readers, dtype=torch.bool)
    for writer, reader in TRUTH:
        found[graph.writer_names().index(writer), graph.reader_names().index(reader)] = True
    return found


def find(
    decoder: Decoder,
    prompts: list[Prompt],
    score_prompts: int,
    exact_prompts: int,
    ig_steps: int,
    thresholds: list[float],
) -> dict[str, Float[Tensor, "writer reader"]]:
    """Scores of all edges by every finder."""
    batch = Batch(balanced(prompts, DISCOVERY, score_prompts), "cpu")
    clean, partner = passes(decoder, batch)
    score = partial(edge_scores, decoder, clean, partner, batch.mask, partial(reader_of, decoder, batch))
    found = {"eap": score(1), "eap_ig": score(ig_steps)}
    few = Batch(balanced(prompts, DISCOVERY, exact_prompts), "cpu")
    clean, partner = passes(decoder, few)
    edges, feeds = Graph.of(decoder).edges(), Graph.of(decoder).feeds()

    def logit_difference(held: Bool[Tensor, "circuit writer reader"]) -> Float[Tensor, " circuit"]:
        return reader_of(decoder, few, run_circuits(decoder, clean, partner, few.mask, held)).mean(-1).double()

    def divergence(held: Bool[Tensor, "circuit writer reader"]) -> Float[Tensor, " circuit"]:
        final = run_circuits(decoder, clean, partner, few.mask, held)
        return (own.exp() * (own - answer(decoder, few, final))).sum(-1).mean(-1)

    own = answer(decoder, few, clean.final)
    found["exact"] = exact_edges(logit_difference, edges, AT_ONCE)
    found["acdc"] = torch.stack([acdc(divergence, edges, feeds, value) for value in thresholds]).double().sum(0)
    return found


def measure(records: pd.DataFrame) -> dict[str, Metric]:
    """Means over seeds; each area with its null and the difference, sizes in the twin with those of planted edges."""
    metrics = measure_sizes(records)
    names = [str(name) for name in records if "_size_" not in str(name)]
    for name in names:
        text = FORMULAS[name.split("_")[0]]
        metrics[name] = over_seeds(records[name].tolist(), unit="1", formula=text)
        for null in ("shuffled", "random"):
            if f"{name}_{null}" in names:
                gap = (records[name] - records[f"{name}_{null}"]).tolist()
                metrics[f"{name}_minus_{null}"] = over_seeds(gap, unit="1", formula=f"{text}, minus {null}")
    gap = (records["twin_size_any"] - records["planted_size_exact"]).tolist()
    metrics["twin_size_any_minus_exact"] = over_seeds(
        gap, unit="1", formula="worst finder in the twin, minus median planted edge by exact patching"
    )
    return metrics


if __name__ == "__main__":
    run(edge_ground_truth)
