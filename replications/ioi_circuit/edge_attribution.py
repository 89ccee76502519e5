"""Step: automated discovery on the language model: attribution patching, EAP, EAP-IG, and how good their circuits are.

Scores (common/interp/edge_graph.py) come from the discovery half, faithfulness curves from the verification half. A
circuit is the
share of all edges with the largest |score|; every other edge carries the ABC partner. With m the logit difference, 0
the partner and 1 the prompt itself,

    f(C)   (m(C) - m(0)) / (m(1) - m(0))
    CPR    area below f over the share of edges, higher is better (Mueller et al. 2025)
    CMD    area below |1 - f|, 0 is best

from 0 edges (f = 0) to all (f = 1). Random circuits are the same shares of all edges ranked at random. Two checks hold
the scores against exact measurements: edges from heads into the logits against the exact direct path of each head, and
attribution patching of whole heads (the sum of a head's edge scores) against the heads that path patching named.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import auroc, null_distribution, without_interval
from common.core.step import run, track
from common.core.tables import write_table
from common.data.models import load_model
from common.interp.decoder import Decoder
from common.interp.edge_graph import Graph, edge_scores, run_circuits, strongest
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, Batch, balanced, in_chunks, passes
from replications.ioi_circuit.clustering import beside_null, clustered
from replications.ioi_circuit.dataset import Prompt, read_prompts
from replications.ioi_circuit.labels import CLASSES, PLACE_OF_RECEIVER
from replications.ioi_circuit.residual import read_answer, read_difference

FINDERS = ("eap", "eap_ig")
CHUNK = 8

Gain = dict[tuple[str, float], Float[np.ndarray, " prompt"]]
"""For each finder and share of edges, the gain of each prompt."""


def edge_attribution(
    *,
    prompts: Path,
    manifest: Path,
    heads: Path,
    direct: Path,
    score_prompts: int,
    curve_prompts: int,
    ig_steps: int,
    shares: list[float],
    random_circuits: int,
    circuits_per_pass: int,
    draws: int,
    device: Literal["cpu", "cuda"],
    out: Path,
    curves: Path,
    edges: Path,
    nodes: Path,
) -> None:
    """Writes `metrics.json` and three tables.

    Args:
        prompts: `prompts.json`.
        manifest: `manifest.json` of the model.
        heads: `heads.csv` of path patching, for the named heads.
        direct: `heads.csv` of the direct path.
        score_prompts: discovery prompts of the scores.
        curve_prompts: verification prompts of the curves.
        ig_steps: points between partner and prompt of EAP-IG.
        shares: shares of all edges on the curves.
        random_circuits: random rankings of the edges.
        circuits_per_pass: circuits that are run at a time.
        draws: draws of shuffled labels.
        device: where the model runs.
        out: `metrics.json`.
        curves: `curves.csv`: finder, draw, share of edges, f.
        edges: `edges.csv`: the strongest edges.
        nodes: `nodes.csv`: for each head, attribution, first-order and exact direct effect, named or not.
    """
    rows = read_prompts(prompts, "circuit_prompts")
    decoder = Decoder(load_model(manifest.parent, device=device), max(row.positions.end for row in rows) + 1)
    graph = Graph.of(decoder)
    chosen = balanced(rows, DISCOVERY, score_prompts)
    with torch.no_grad():
        scores, clean = score(decoder, chosen, ig_steps)
        fresh = balanced(rows, VERIFICATION, curve_prompts)
        table, metrics = faithfulness(decoder, fresh, scores, shares, random_circuits, circuits_per_pass)
    compared = head_table(graph, scores, clean, pd.read_csv(heads), pd.read_csv(direct))
    write_metrics(out, metrics | measure_heads(compared, draws))
    for path, content in ((curves, table), (edges, edge_table(graph, scores["eap_ig"])), (nodes, compared)):
        write_table(path, content)


def reader_of(
    decoder: Decoder, batch: Batch, final: Float[Tensor, "*n batch pos d_model"]
) -> Float[Tensor, "*n batch"]:
    """logit(IO) - logit(S) at END."""
    last = final[..., torch.arange(len(batch.prompts), device=final.device), batch.at("end"), :]
    return read_difference(decoder.bridge, last, batch.names)


def answer(
    decoder: Decoder, batch: Batch, final: Float[Tensor, "*n batch pos d_model"]
) -> Float[Tensor, "*n batch d_vocab"]:
    """Log probabilities of the next token at END."""
    last = final[..., torch.arange(len(batch.prompts), device=final.device), batch.at("end"), :]
    return read_answer(decoder.bridge, last)


def score(decoder: Decoder, prompts: list[Prompt], ig_steps: int) -> tuple[dict[str, Tensor], float]:
    """Mean scores of both finders over prompts, and the mean clean logit difference."""
    device = decoder.W_O[0].device.type
    totals: dict[str, Tensor] = {}
    clean_total = 0.0
    for group in track(in_chunks(prompts, CHUNK), "scores"):
        batch = Batch(group, device)
        clean, partner = passes(decoder, batch)
        clean_total += float(reader_of(decoder, batch, clean.final).sum())
        for name, steps in (("eap", 1), ("eap_ig", ig_steps)):
            found = edge_scores(decoder, clean, partner, batch.mask, partial(reader_of, decoder, batch), steps)
            totals[name] = totals.get(name, 0) + found.cpu() * len(group) / len(prompts)
    return totals, clean_total / len(prompts)


def faithfulness(
    decoder: Decoder,
    prompts: list[Prompt],
    scores: dict[str, Tensor],
    shares: list[float],
    random_circuits: int,
    per_pass: int,
) -> tuple[pd.DataFrame, dict[str, Metric]]:
    """The curves of all finders and of random rankings, and their areas."""
    gain, span = run_rankings(decoder, prompts, scores, shares, random_circuits, per_pass)
    names = list(dict.fromkeys(name for name, _ in gain))
    return curve_table(gain, span), areas(gain, span, shares, names, prompts)


def run_rankings(
    decoder: Decoder,
    prompts: list[Prompt],
    scores: dict[str, Tensor],
    shares: list[float],
    random_circuits: int,
    per_pass: int,
) -> tuple[Gain, Float[np.ndarray, " prompt"]]:
    """What circuits of each finder, and of random rankings, gain at each share over no circuit; what all edges gain.

    Random rankings are called `random` and a number.
    """
    every = Graph.of(decoder).edges()
    generator = torch.Generator().manual_seed(0)
    rankings = dict(scores)
    rankings |= {f"random {i}": torch.rand(every.shape, generator=generator) for i in range(random_circuits)}
    counts = [max(1, round(share * int(every.sum()))) for share in shares]
    keys = [(name, share) for name in rankings for share in shares]
    masks = [strongest(values, every, count) for values in rankings.values() for count in counts]
    device = decoder.W_O[0].device.type
    parts = []
    for group in track(in_chunks(prompts, CHUNK), "curves"):
        batch = Batch(group, device)
        clean, partner = passes(decoder, batch)
        ends = [reader_of(decoder, batch, cache.final)[None] for cache in (partner, clean)]
        for start in range(0, len(masks), per_pass):
            held = torch.stack(masks[start : start + per_pass]).to(device)
            ends.append(reader_of(decoder, batch, run_circuits(decoder, clean, partner, batch.mask, held)))
        parts.append(torch.cat(ends).double().cpu().numpy())
    values = np.concatenate(parts, 1)
    return dict(zip(keys, values[2:] - values[0], strict=True)), values[1] - values[0]


def curve_table(gain: Gain, span: Float[np.ndarray, " prompt"]) -> pd.DataFrame:
    """One row per finder, draw and share."""
    records = [
        {"finder": name.split()[0], "draw": name, "share": share, "f": found.sum() / span.sum()}
        for (name, share), found in gain.items()
    ]
    return pd.DataFrame(records, columns=["finder", "draw", "share", "f"])


def areas(
    gain: Gain,
    span: Float[np.ndarray, " prompt"],
    shares: list[float],
    names: list[str],
    prompts: list[Prompt],
) -> dict[str, Metric]:
    """CPR and CMD of each finder and of random rankings, which are called `random` and a number."""
    x = np.array([0.0, *sorted(shares), 1.0])

    def curve(name: str) -> Float[np.ndarray, "share prompt"]:
        return np.stack([np.zeros_like(span), *(gain[name, share] for share in sorted(shares)), span])

    area = {name: np.trapezoid(curve(name), x, axis=0) for name in names}
    missing = {name: np.trapezoid(np.abs(1 - curve(name).sum(1) / span.sum()), x) for name in names}
    luck = [name for name in names if name.startswith("random ")]
    random = np.array([area[name].sum() / span.sum() for name in luck])
    random_cmd = np.array([missing[name] for name in luck])
    text = "area below f(C) over the share of edges"
    metrics = {
        "cpr_random": null_distribution(random, unit="1", formula=f"{text}, random rankings"),
        "cmd_random": null_distribution(random_cmd, unit="1", formula="area below |1 - f(C)|, random rankings"),
    }
    for name in (name for name in names if name not in luck):
        metrics[f"cpr_{name}"] = clustered(area[name], prompts, unit="1", formula=text, denominators=span)
        metrics[f"cpr_{name}_minus_random"] = clustered(
            area[name] - np.mean([area[other] for other in luck], axis=0),
            prompts,
            unit="1",
            formula=f"{text}, minus mean of random rankings",
            denominators=span,
        )
        metrics[f"cmd_{name}"] = without_interval(float(missing[name]), len(prompts), "1", "area below |1 - f(C)|")
    return metrics


def head_table(
    graph: Graph, scores: dict[str, Tensor], clean: float, heads: pd.DataFrame, direct: pd.DataFrame
) -> pd.DataFrame:
    """One row per head: attribution patching and the edge into the logits, in percent, beside the exact direct path."""
    exact_path = direct[(direct["partner"] == "abc") & (direct["quantity"] == "difference")]
    named = [heads[f"{receiver}_class"].isin(CLASSES[:-1]) for receiver in PLACE_OF_RECEIVER]
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
    luck = np.array([np.corrcoef(generator.permutation(first), second)[0, 1] for _ in range(draws)])
    text = "correlation over heads of the EAP edge into the logits and the exact direct path"
    metrics = beside_null(
        "direct_edges_agree", agreement, len(table), luck, unit="1", formula=text, how="heads shuffled"
    )
    named = table["named"].to_numpy() > 0
    for name in FINDERS:
        size = np.abs(table[f"{name}_node"].to_numpy())
        found = float(auroc(size, named))
        luck = np.array([float(auroc(size, generator.permutation(named))) for _ in range(draws)])
        text = f"area under the ROC curve of |attribution| ({name}) against the heads named by path patching"
        metrics |= beside_null(
            f"auroc_named_{name}", found, len(table), luck, unit="share", formula=text, how="shuffled"
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
    run(edge_attribution)
