"""Step: in-context learning of a language model on real text, and what its induction heads do for it there.

`in_context` compares, document by document, the mean loss of a late window with that of an early one (Olsson et al.
2022, in-context score). Control: the same late tokens with only as much context as the early ones had.

`repeats`: induction heads are removed (full ablation), and the rise of loss on tokens that complete a repeated pair
(the present and the next token occurred in this order before) is set against three times the rise on all other tokens.
Control: random heads of the same layers, as many, at least 20 draws. Every interval resamples whole documents.
"""

import random
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.cli import run, track
from common.corpora import read_corpus
from common.errors import UserError
from common.files import read_json
from common.models import encode, load_model, load_tokenizer
from common.records import Metric, write_metrics
from common.statistics import null_distribution, over_clusters
from replications.induction_heads.language_model import Head, run_pass
from replications.induction_heads.tables import write_table

FACTOR = 3.0
EARLY, LATE = slice(32, 64), slice(192, 256)  # windows of tokens, counted from the first of the document


def text_model(
    *,
    manifest: Path,
    corpus: Path,
    roles: Path,
    documents: int,
    ablated_documents: int,
    ablated_length: int,
    draws: int,
    batch: int,
    device: Literal["cpu", "cuda"],
    metrics: Path,
    table: Path,
    nulls: Path,
) -> None:
    """Writes `metrics`, one row per document and context index, and one row per ablation."""
    tokens = long_documents(corpus.parent, manifest.parent, documents).to(device)
    bridge = load_model(manifest.parent, device=device)

    def losses(rows: Tensor, removed: list[Head] | None = None) -> Float[np.ndarray, "batch next"]:
        parts = [run_pass(bridge, part, removed=removed).losses.double().cpu() for part in torch.split(rows, batch)]
        return torch.cat(parts).numpy()

    intact = losses(tokens)
    first = tokens[:, :1]
    short = losses(torch.cat([first, tokens[:, 1 + LATE.start - EARLY.start : 1 + LATE.stop]], 1))
    names = np.arange(documents)
    windows = {
        "late_minus_early": intact[:, LATE].mean(1) - intact[:, EARLY].mean(1),
        "late_minus_early_short_context": short[:, EARLY].mean(1) - intact[:, EARLY].mean(1),
        "long_minus_short_context": intact[:, LATE][:, : EARLY.stop - EARLY.start].mean(1) - short[:, EARLY].mean(1),
    }
    found = {
        name: over_clusters(
            values, names, unit="nats", formula=f"{name}, mean loss of token windows, paired by document"
        )
        for name, values in windows.items()
    }
    found["in_context_minus_control"] = over_clusters(
        windows["late_minus_early"] - windows["late_minus_early_short_context"], names, unit="nats",
        formula="late_minus_early - late_minus_early_short_context, paired by document",
    )  # fmt: skip

    part = tokens[:ablated_documents, : ablated_length + 1]
    completing = completes_pair(part.cpu()).numpy()
    heads = {name: [(layer, head) for layer, head in one] for name, one in read_json(roles).items()}["induction"]
    base = intact[:ablated_documents, :ablated_length]
    ours = losses(part, heads) - base
    drawn = []
    for draw in track(range(draws), "draws of random heads"):
        others = same_layers(heads, bridge.cfg.n_heads, draw)
        drawn.append(losses(part, others) - base)
    group = np.arange(ablated_documents)
    found["rise_completing"] = _mean_rise(ours, completing, group, "tokens that complete a repeated pair")
    found["rise_other"] = _mean_rise(ours, ~completing, group, "all other tokens")
    excess = [excess_of(rise, completing) for rise in (ours, *drawn)]
    text = f"rise of loss on pair-completing tokens minus {FACTOR:g} times the rise on others"
    weight = completing.sum(1).astype(np.float64)
    found["excess"] = over_clusters(excess[0], group, unit="nats", formula=text, denominators=weight)
    null = np.array([one.sum() / weight.sum() for one in excess[1:]])
    found["excess_random_heads"] = null_distribution(
        null, unit="nats", formula=f"{text}; random heads of the same layers"
    )
    found["excess_minus_random_heads"] = over_clusters(
        excess[0] - np.mean(excess[1:], axis=0), group, unit="nats", formula=f"{text}; minus mean over random heads",
        denominators=weight,
    )  # fmt: skip
    write_metrics(metrics, found)
    write_table(
        table,
        [
            {"document": k, "index": index, "loss": intact[k, index]}
            for k in range(documents)
            for index in range(intact.shape[1])
        ],
    )
    write_table(
        nulls,
        [
            {"heads": "induction" if k == 0 else "random", "draw": k, "completing": rise[completing].mean()}
            | {"other": rise[~completing].mean()}
            for k, rise in enumerate((ours, *drawn))
        ],
    )


def long_documents(folder: Path, model: Path, count: int) -> Int[Tensor, "batch pos"]:
    """The first tokens of held-out source files, after the document token. UserError if there are too few long ones."""
    tokenizer = load_tokenizer(model)
    rows = []
    for document in read_corpus(folder, "held_out"):
        ids = encode(tokenizer, document.text) if document.kind == "source" else []
        if len(ids) >= LATE.stop:
            rows.append([0, *ids[: LATE.stop]])
        if len(rows) == count:
            return torch.tensor(rows)
    raise UserError(f"only {len(rows)} of {count} held-out documents have {LATE.stop} tokens; lower 'documents'")


def completes_pair(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch next"]:
    """Whether the pair (present token, next token) occurred earlier in the sequence."""
    pairs = torch.stack([tokens[:, :-1], tokens[:, 1:]], -1)
    same = (pairs[:, :, None] == pairs[:, None, :]).all(-1)
    return same.tril(-1).any(-1)


def same_layers(heads: list[Head], n_heads: int, seed: int) -> list[Head]:
    """As many heads of the same layers, drawn at random among the others."""
    generator = random.Random(seed)
    found: list[Head] = []
    for layer in sorted({layer for layer, _ in heads}):
        own = [head for one, head in heads if one == layer]
        free = [head for head in range(n_heads) if head not in own]
        found += [(layer, head) for head in generator.sample(free, len(own))]
    return found


def excess_of(
    rise: Float[np.ndarray, "batch next"], completing: Bool[np.ndarray, "batch next"]
) -> Float[np.ndarray, " batch"]:
    """Per document: summed rise on completing tokens minus FACTOR times the mean rise on others, for as many tokens."""
    other = np.where(completing, 0.0, rise).sum(1) / (~completing).sum(1)
    return np.asarray(np.where(completing, rise, 0.0).sum(1) - FACTOR * other * completing.sum(1))


def _mean_rise(rise: np.ndarray, where: np.ndarray, group: np.ndarray, text: str) -> Metric:
    weight = where.sum(1).astype(np.float64)
    return over_clusters(
        np.where(where, rise, 0.0).sum(1), group, unit="nats", formula=f"rise of loss without induction heads, {text}",
        denominators=weight,
    )  # fmt: skip


if __name__ == "__main__":
    run(text_model)
