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

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import without_interval
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.interp.acdc import acdc, exact_edges
from common.interp.decoder import Decoder
from common.interp.edge_graph import Graph, run_circuits, strongest
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, Batch, balanced, load_circuit_prompts, passes
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.edge_attribution import (
    Gain,
    answers,
    areas,
    curve_table,
    logit_difference,
    run_rankings,
    score,
)
from replications.ioi_circuit.prompt_statistics import PerPrompt, clustered
from replications.ioi_circuit.settings import EdgeSearch

Mask = Bool[Tensor, "circuit writer reader"]


class EdgeSearchFiles(Files):
    manifest: Path
    prompts: Path
    metrics: Path
    curves: Path
    """faithfulness for each finder, draw and share of edges"""
    edges: Path
    """the edges that were searched: kept by ACDC or not, exact effect in logits, EAP-IG score"""


def edge_search(files: EdgeSearchFiles, settings: EdgeSearch, run: RunInfo) -> None:
    """Writes `metrics.json` and two tables."""
    decoder, rows = load_circuit_prompts(files.manifest, files.prompts, run.device)
    every = Graph.of(decoder).edges()
    with torch.no_grad():
        first_order, _ = score(decoder, balanced(rows, DISCOVERY, settings.score_prompts), settings.ig_steps)
        scores = {"eap_ig": first_order["eap_ig"]}
        searched = every if settings.candidates is None else strongest(scores["eap_ig"], every, settings.candidates)
        effects, kept = search(
            decoder,
            balanced(rows, DISCOVERY, settings.exact_prompts),
            searched,
            settings.threshold,
            settings.circuits_per_pass,
        )
        scores["exact"] = effects.float()
        scores["acdc"] = kept + 0.5 * effects.abs().float() / effects.abs().max().clamp(min=1e-30)
        fresh = balanced(rows, VERIFICATION, settings.curve_prompts)
        own = int(kept.sum()) / int(every.sum())
        shares = sorted({*settings.shares, own} - {0.0, 1.0})
        gain, span = run_rankings(decoder, fresh, scores, settings, shares)
    metrics = areas(gain, span, shares, fresh) | measure(gain, span, own, int(every.sum()), fresh)
    write_metrics(files.metrics, metrics | agreement(scores, searched))
    tables = {files.curves: curve_table(gain, span), files.edges: edge_table(decoder, searched, kept, scores)}
    for path, content in tables.items():
        write_table(path, content)


def search(
    decoder: Decoder, prompts: list[Prompt], searched: Bool[Tensor, "writer reader"], threshold: float, at_once: int
) -> tuple[Float[Tensor, "writer reader"], Bool[Tensor, "writer reader"]]:
    """Exact effects of the edges `searched` (0 elsewhere), and the circuit of ACDC, which keeps all other edges."""
    device = decoder.W_O[0].device
    batch, graph = Batch(prompts, device.type), Graph.of(decoder)
    clean, partner = passes(decoder, batch)
    others = graph.edges() & ~searched
    own = answers(decoder, batch, clean.final)

    def final(held: Mask) -> Float[Tensor, "circuit batch pos d_model"]:
        return run_circuits(decoder, clean, partner, batch.mask, (held | others).to(device))

    def mean_difference(held: Mask) -> Float[Tensor, " circuit"]:
        return logit_difference(decoder, batch, final(held)).mean(-1).double().cpu()

    def divergence(held: Mask) -> Float[Tensor, " circuit"]:
        return (own.exp() * (own - answers(decoder, batch, final(held)))).sum(-1).mean(-1).cpu()

    # what nobody reads any more is told from the edges searched, so it can be told only if these are all edges
    feeds = graph.feeds() if not others.any() else torch.zeros_like(graph.feeds())
    return exact_edges(mean_difference, searched, at_once), acdc(divergence, searched, feeds, threshold) | others


def measure(gain: Gain, span: PerPrompt, own: float, n_edges: int, prompts: list[Prompt]) -> dict[str, Metric]:
    """The circuit that ACDC keeps, against circuits of as many edges; nothing more if it keeps all edges or none."""
    metrics = {"acdc_share": without_interval(own, n_edges, "share", "edges that ACDC keeps / all edges")}
    if 0 < own < 1:
        random = [values for (name, share), values in gain.items() if name.startswith("random ") and share == own]
        metrics["faithfulness_acdc"] = clustered(
            gain["acdc", own],
            prompts,
            unit="1",
            formula="f(C) of ACDC's circuit; controls: as many edges of largest exact effect, of EAP-IG, at random",
            denominators=span,
            controls={"exact": gain["exact", own], "eap_ig": gain["eap_ig", own]},
            draws={"random_edges": np.stack(random)},
        )
    return metrics


def agreement(scores: dict[str, Tensor], searched: Bool[Tensor, "writer reader"]) -> dict[str, Metric]:
    """Rank correlation of exact and first-order effects over the edges searched."""
    one, other = (scores[name][searched].double().numpy() for name in ("exact", "eap_ig"))
    correlation = float(spearmanr(one, other).statistic) if len(set(one.tolist())) > 1 else 0.0
    text = "Spearman correlation over edges of exact effect and EAP-IG score"
    return {"eap_ig_agrees_with_exact": without_interval(correlation, len(one), "1", text)}


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
    run_step(edge_search)
