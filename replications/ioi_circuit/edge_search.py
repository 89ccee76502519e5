"""Step: searches over single edges of the language model: exact edge patching, and ACDC (scale gpu; tiny at smoke).

    exact    change of the mean logit difference when one edge carries the ABC partner, all others the prompt
    acdc     Conmy et al. 2023, algorithm 1 (common/interp/acdc.py): from the logits down, an edge is taken out for
    good if
             the KL divergence of the answer then rises by less than `threshold`

Both see discovery prompts and are judged on verification prompts as attribution is (edge_attribution.py): by the curve
of f(C) over the share of edges kept, beside EAP-IG and random rankings; and the circuit that ACDC keeps at its own
size, against as many edges of the largest exact effect, of EAP-IG, and drawn at random. ACDC keeps a set and no
ranking; away from its own size its edges come first and then those with the largest exact effect.

The graph of the default model has some seventy thousand edges, each worth a partial forward pass; with `candidates`
only so many edges with the largest EAP-IG score are searched, the others count as effects of zero, and ACDC keeps them.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import null_distribution, without_interval
from common.core.step import run
from common.core.tables import write_table
from common.data.models import load_model
from common.interp.acdc import acdc, exact_edges
from common.interp.decoder import Decoder
from common.interp.edge_graph import Graph, run_circuits, strongest
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, Batch, balanced, passes
from replications.ioi_circuit.clustering import clustered
from replications.ioi_circuit.dataset import Prompt, read_prompts
from replications.ioi_circuit.edge_attribution import (
    Gain,
    answer,
    areas,
    curve_table,
    reader_of,
    run_rankings,
    score,
)

Mask = Bool[Tensor, "circuit writer reader"]


def edge_search(
    *,
    prompts: Path,
    manifest: Path,
    score_prompts: int,
    exact_prompts: int,
    curve_prompts: int,
    ig_steps: int,
    threshold: float,
    shares: list[float],
    random_circuits: int,
    circuits_per_pass: int,
    device: Literal["cpu", "cuda"],
    out: Path,
    curves: Path,
    edges: Path,
    candidates: int | None = None,
) -> None:
    """Writes `metrics.json` and two tables.

    Args:
        prompts: `prompts.json`.
        manifest: `manifest.json` of the model.
        score_prompts: discovery prompts of EAP-IG.
        exact_prompts: discovery prompts of exact patching and ACDC.
        curve_prompts: verification prompts of the curves.
        ig_steps: points between partner and prompt of EAP-IG.
        threshold: of ACDC, in nats.
        shares: shares of all edges on the curves; that of ACDC's circuit is added.
        random_circuits: random rankings of the edges.
        circuits_per_pass: circuits that are run at a time.
        device: where the model runs.
        out: `metrics.json`.
        curves: `curves.csv`: finder, draw, share of edges, f.
        edges: `edges.csv`: the edges that were searched: kept by ACDC or not, exact effect in logits, EAP-IG score.
        candidates: edges that are searched; all if None.
    """
    rows = read_prompts(prompts, "circuit_prompts")
    decoder = Decoder(load_model(manifest.parent, device=device), max(row.positions.end for row in rows) + 1)
    every = Graph.of(decoder).edges()
    with torch.no_grad():
        scores = {"eap_ig": score(decoder, balanced(rows, DISCOVERY, score_prompts), ig_steps)[0]["eap_ig"]}
        searched = every if candidates is None else strongest(scores["eap_ig"], every, candidates)
        effects, kept = search(
            decoder, balanced(rows, DISCOVERY, exact_prompts), searched, threshold, circuits_per_pass
        )
        scores["exact"] = effects.float()
        scores["acdc"] = kept + 0.5 * effects.abs().float() / effects.abs().max().clamp(min=1e-30)
        fresh = balanced(rows, VERIFICATION, curve_prompts)
        own = int(kept.sum()) / int(every.sum())
        shown = sorted({*shares, own} - {0.0, 1.0})
        gain, span = run_rankings(decoder, fresh, scores, shown, random_circuits, circuits_per_pass)
    names = [*scores, *(f"random {number}" for number in range(random_circuits))]
    metrics = areas(gain, span, shown, names, fresh) | measure(gain, span, own, int(every.sum()), fresh)
    metrics |= agreement(scores, searched)
    write_metrics(out, metrics)
    for path, content in ((curves, curve_table(gain, span)), (edges, edge_table(decoder, searched, kept, scores))):
        write_table(path, content)


def search(
    decoder: Decoder, prompts: list[Prompt], searched: Bool[Tensor, "writer reader"], threshold: float, at_once: int
) -> tuple[Float[Tensor, "writer reader"], Bool[Tensor, "writer reader"]]:
    """Exact effects of the edges `searched` (0 elsewhere), and the circuit of ACDC, which keeps all other edges."""
    device = decoder.W_O[0].device
    batch, graph = Batch(prompts, device.type), Graph.of(decoder)
    clean, partner = passes(decoder, batch)
    others = graph.edges() & ~searched
    own = answer(decoder, batch, clean.final)

    def final(held: Mask) -> Float[Tensor, "circuit batch pos d_model"]:
        return run_circuits(decoder, clean, partner, batch.mask, (held | others).to(device))

    def logit_difference(held: Mask) -> Float[Tensor, " circuit"]:
        return reader_of(decoder, batch, final(held)).mean(-1).double().cpu()

    def divergence(held: Mask) -> Float[Tensor, " circuit"]:
        return (own.exp() * (own - answer(decoder, batch, final(held)))).sum(-1).mean(-1).cpu()

    # what nobody reads any more is told from the edges searched, so it can be told only if these are all edges
    feeds = graph.feeds() if not others.any() else torch.zeros_like(graph.feeds())
    return exact_edges(logit_difference, searched, at_once), acdc(divergence, searched, feeds, threshold) | others


def measure(
    gain: Gain,
    span: Float[np.ndarray, " prompt"],
    own: float,
    n_edges: int,
    prompts: list[Prompt],
) -> dict[str, Metric]:
    """The circuit that ACDC keeps, against circuits of as many edges; nothing more if it keeps all edges or none."""
    metrics = {"acdc_share": without_interval(own, n_edges, "share", "edges that ACDC keeps / all edges")}
    if not 0 < own < 1:
        return metrics
    text = "f(C) of {} as many edges as ACDC keeps"
    names = {"acdc": "ACDC's circuit", "exact": "largest exact effects,", "eap_ig": "largest EAP-IG scores,"}
    for name, label in names.items():
        metrics[f"faithfulness_{name}"] = clustered(
            gain[name, own], prompts, unit="1", formula=text.format(label), denominators=span
        )
    luck = np.stack([values for (name, share), values in gain.items() if name.startswith("random ") and share == own])
    metrics["faithfulness_random"] = null_distribution(
        luck.sum(1) / span.sum(), unit="1", formula=text.format("random circuits,")
    )
    metrics["faithfulness_acdc_minus_random"] = clustered(
        gain["acdc", own] - luck.mean(0), prompts, unit="1", formula="ACDC minus mean of random", denominators=span
    )
    return metrics


def agreement(scores: dict[str, Tensor], searched: Bool[Tensor, "writer reader"]) -> dict[str, Metric]:
    """Rank correlation of exact and first-order effects over the edges searched."""
    one, other = (scores[name][searched].double().numpy() for name in ("exact", "eap_ig"))
    found = float(spearmanr(one, other).statistic) if len(set(one.tolist())) > 1 else 0.0
    text = "Spearman correlation over edges of exact effect and EAP-IG score"
    return {"eap_ig_agrees_with_exact": without_interval(found, len(one), "1", text)}


def edge_table(
    decoder: Decoder,
    searched: Bool[Tensor, "writer reader"],
    kept: Bool[Tensor, "writer reader"],
    scores: dict[str, Tensor],
) -> pd.DataFrame:
    """One row for each edge searched."""
    graph = Graph.of(decoder)
    writers, readers = graph.writer_names(), graph.reader_names()
    pairs = torch.nonzero(searched).tolist()
    return pd.DataFrame(
        {
            "writer": [writers[writer] for writer, _ in pairs],
            "reader": [readers[reader] for _, reader in pairs],
            "kept": kept[searched].int().numpy(),
            "exact": scores["exact"][searched].numpy(),
            "eap_ig": scores["eap_ig"][searched].numpy(),
        }
    )


if __name__ == "__main__":
    run(edge_search)
