"""Step: automated discovery on the language model: attribution patching, EAP, EAP-IG, and how good their circuits are.

Scores (common/interp/edge_graph.py) come from the discovery half, faithfulness curves from the verification half. A
circuit is the share of all edges with the largest |score|; every other edge carries the ABC partner. With m the logit
difference, 0 the partner and 1 the prompt itself,

    f(C)   (m(C) - m(0)) / (m(1) - m(0))
    CPR    area below f over the share of edges, higher is better (Mueller et al. 2025)
    CMD    area below |1 - f|, 0 is best

from 0 edges (f = 0) to all (f = 1). Large circuits decide the areas, and these tell no finder from `sizes_alone`; so
`small_*` is f(C) at one small share. Controls: EAP for EAP-IG; `sizes_alone`, edges ranked by the norms of change and
gradient without the angle between them; edges ranked at random. `eap_ig_signed` puts edges first that help, and last
those that oppose the answer. The circuits depend on the prompts that are scored. So each verification template is
judged by circuits of a discovery set of its own, and the interval over templates includes the draw of these sets. Two
checks hold the scores against exact measurements:
edges from heads into the logits against the exact direct path of each head, and attribution patching of whole heads
(the sum of a head's edge scores) against the heads that path patching named.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import auroc
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.interp.edge_graph import Graph
from replications.ioi_circuit.batches import load_circuit_prompts
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.edge_rankings import Gain, judge_by_template
from replications.ioi_circuit.nodes import CLASSES, PLACE_OF_RECEIVER
from replications.ioi_circuit.prompt_statistics import PerPrompt, beside_null, clustered
from replications.ioi_circuit.settings import EdgeAttribution

FINDERS = ("eap", "eap_ig")
PLAINER = {
    "eap_ig": ("eap", "sizes_alone"),
    "eap": ("sizes_alone",),
    "eap_ig_signed": ("eap_ig", "eap", "sizes_alone"),
}
"""Rankings by less than a finder uses: its controls"""


class EdgeAttributionFiles(Files):
    manifest: Path
    prompts: Path
    heads: Path
    """of path patching, for the named heads"""
    direct: Path
    """`heads.csv` of the direct path"""
    metrics: Path
    curves: Path
    """faithfulness for each finder, draw and share of edges"""
    edges: Path
    """the strongest edges"""
    nodes: Path
    """for each head: attribution, first-order and exact direct effect, named or not"""


def edge_attribution(files: EdgeAttributionFiles, settings: EdgeAttribution, run: RunInfo) -> None:
    """Writes `metrics.json` and three tables."""
    decoder, rows = load_circuit_prompts(files.manifest, files.prompts, run.device)
    graph = Graph.of(decoder)
    with torch.no_grad():
        fresh, scores, clean, gain, span = judge_by_template(decoder, rows, settings)
    metrics = areas(gain, span, settings.shares, fresh) | small_circuits(gain, span, settings.small, fresh)
    compared = head_table(graph, scores, clean, pd.read_csv(files.heads), pd.read_csv(files.direct))
    write_metrics(files.metrics, metrics | measure_heads(compared, settings.draws))
    strongest_edges, curves = edge_table(graph, scores["eap_ig"]), curve_table(gain, span)
    for path, content in ((files.curves, curves), (files.edges, strongest_edges), (files.nodes, compared)):
        write_table(path, content)


def curve_table(gain: Gain, span: PerPrompt) -> pd.DataFrame:
    """One row per finder, draw and share."""
    records = [
        {"finder": name.split()[0], "draw": name, "share": share, "f": gained.sum() / span.sum()}
        for (name, share), gained in gain.items()
    ]
    return pd.DataFrame(records, columns=["finder", "draw", "share", "f"])


def areas(gain: Gain, span: PerPrompt, shares: list[float], prompts: list[Prompt]) -> dict[str, Metric]:
    """CPR and CMD of each finder, against random rankings, which are called `random` and a number.

    The CPR of EAP-IG stands beside that of EAP, too, and each finder's beside that of sizes alone, if these are given.
    """
    x = np.array([0.0, *sorted(shares), 1.0])
    names, random = _names(gain)

    def curve(name: str) -> Float[np.ndarray, "share prompt"]:
        return np.stack([np.zeros_like(span), *(gain[name, share] for share in sorted(shares)), span])

    cpr = {name: np.trapezoid(curve(name), x, axis=0) for name in (*names, *random)}
    cmd = {name: float(np.trapezoid(np.abs(1 - curve(name).sum(1) / span.sum()), x)) for name in (*names, *random)}
    metrics = _beside_plainer(cpr, span, prompts, "cpr_{}", "area below f(C) over the share of edges")
    for name in names:
        metrics[f"cmd_{name}"] = beside_null(
            cmd[name],
            len(prompts),
            np.array([cmd[other] for other in random]),
            unit="1",
            formula="area below |1 - f(C)|",
            name="random_rankings",
        )
    return metrics


def small_circuits(gain: Gain, span: PerPrompt, share: float, prompts: list[Prompt]) -> dict[str, Metric]:
    """f(C) of each finder's circuit of this share of the edges, with the controls of `areas`."""
    kept = {name: gained for (name, at), gained in gain.items() if at == share}
    return _beside_plainer(kept, span, prompts, "small_{}", f"f(C) of {100 * share:g} % of the edges")


def _names(gain: Iterable[tuple[str, float]]) -> tuple[list[str], list[str]]:
    """Rankings: those of finders, and random ones."""
    every = list(dict.fromkeys(name for name, _ in gain))
    random = [name for name in every if name.startswith("random ")]
    return [name for name in every if name not in random], random


def _beside_plainer(
    values: dict[str, PerPrompt], span: PerPrompt, prompts: list[Prompt], called: str, formula: str
) -> dict[str, Metric]:
    """A ratio to `span` for each finder, with the finders that use less and random rankings as controls."""
    names, random = _names((name, 0) for name in values)
    return {
        called.format(name): clustered(
            values[name],
            prompts,
            unit="1",
            formula=formula,
            denominators=span,
            controls={other: values[other] for other in PLAINER.get(name, ()) if other in names},
            draws={"random_rankings": np.stack([values[other] for other in random])},
        )
        for name in names
    }


def head_table(
    graph: Graph, scores: dict[str, Tensor], clean: float, heads: pd.DataFrame, direct: pd.DataFrame
) -> pd.DataFrame:
    """One row per head: attribution patching and the edge into the logits, in percent, beside the exact direct path."""
    exact_path = direct[(direct["partner"] == "abc") & (direct["quantity"] == "difference")]
    named = [heads[f"{receiver}_class"].isin(CLASSES) for receiver in PLACE_OF_RECEIVER]
    table = heads[["layer", "head"]].copy()
    writers = [graph.head(int(layer), int(head)) for layer, head in zip(table["layer"], table["head"], strict=True)]
    for name in FINDERS:
        table[f"{name}_node"] = 100 * scores[name].sum(1)[writers].double().numpy() / clean
        table[f"{name}_direct"] = 100 * scores[name][writers, -1].double().numpy() / clean
    table["named"] = np.any(named, axis=0).astype(int)
    merged: pd.DataFrame = table.merge(exact_path[["layer", "head", "percent"]], on=["layer", "head"], how="left")
    return merged.rename(columns={"percent": "exact_direct"})


def measure_heads(table: pd.DataFrame, draws: int) -> dict[str, Metric]:
    """Agreement of first-order with exact direct effects, and how well attribution ranks the named heads."""
    generator = np.random.default_rng(0)
    first, second = table["eap_direct"].to_numpy(), table["exact_direct"].to_numpy()
    agreement = float(np.corrcoef(first, second)[0, 1])
    null = np.array([np.corrcoef(generator.permutation(first), second)[0, 1] for _ in range(draws)])
    text = "correlation over heads of the EAP edge into the logits and the exact direct path"
    metrics = {
        "direct_edges_agree": beside_null(agreement, len(table), null, unit="1", formula=text, name="shuffled_heads")
    }
    named = table["named"].to_numpy() > 0
    for name in FINDERS:
        size = np.abs(table[f"{name}_node"].to_numpy())
        null = np.array([float(auroc(size, generator.permutation(named))) for _ in range(draws)])
        text = f"area under the ROC curve of |attribution| ({name}) against the heads named by path patching"
        metrics[f"auroc_named_{name}"] = beside_null(
            float(auroc(size, named)), len(table), null, unit="share", formula=text, name="shuffled_heads"
        )
    return metrics


def edge_table(graph: Graph, scores: Tensor, count: int = 200) -> pd.DataFrame:
    """The strongest edges with their names."""
    order = scores.abs().flatten().argsort(descending=True)[:count].tolist()
    writers, readers = graph.writer_names(), graph.reader_names()
    pairs = [divmod(index, graph.n_readers) for index in order]
    return pd.DataFrame(
        {
            "writer": [writers[writer] for writer, _ in pairs],
            "reader": [readers[reader] for _, reader in pairs],
            "score": [float(scores[pair]) for pair in pairs],
        }
    )


if __name__ == "__main__":
    run_step(edge_attribution)
