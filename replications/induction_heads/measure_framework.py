"""Step: what weights of small models say by themselves: bigrams, copying, skip trigrams, and the order of their paths.

Elhage et al. 2021. On models of natural text: the direct path of one layer against the bigram frequencies of the
training text; the share of one layer's heads whose OV circuit copies (eigenvalue score above one half); its strongest
skip trigrams. On one and two layers, of natural text and of the synthetic task: how much of the loss each order of
paths takes away. Out: `metrics`, `orders` (loss by order), `heads` (eigenvalue score of every head) and `trigrams`.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from common.core.metrics import write_metrics
from common.core.step import run
from common.core.tables import Seeded, write_table
from common.interp.head_scores import eigenvalue_score
from replications.induction_heads.arm import ArmResult, load_arm
from replications.induction_heads.data import JUDGING, periodic_held_out
from replications.induction_heads.evaluation import embedding, head_weights
from replications.induction_heads.framework import (
    bigram_counts,
    direct_path,
    losses_by_order,
    row_correlation,
    skip_trigrams,
)

START, END = 0, -1  # snapshots
COPIES = 0.5  # eigenvalue score from which on a head counts as copying
LEAST = 50  # occurrences of a source token whose row of the bigram table is compared
KNOWN = 200  # the most frequent tokens, among which skip trigrams are looked for
SHOWN = 2  # skip trigrams of each head
SYNTHETIC = 64  # periodic sequences on which the synthetic arms are judged


def measure_framework(
    *,
    texts: list[Path],
    synthetic: list[Path],
    corpus: Path,
    vocabulary: Path,
    metrics: Path,
    orders: Path,
    heads: Path,
    trigrams: Path,
) -> None:
    """Writes the four files. `texts` are arms trained on `corpus`, the first with one layer."""
    stored = load_file(corpus)
    found = Seeded()
    order_rows: list[dict[str, object]] = []
    for path in texts:
        order_rows += _orders(found, f"text_{path.stem}", load_arm(path), stored["held_out"].long())
    for path in synthetic:
        arm = load_arm(path)
        judged = periodic_held_out(arm.text, SYNTHETIC, JUDGING).tokens
        order_rows += _orders(found, path.stem, arm, judged)
    one = load_arm(texts[0])
    counts = bigram_counts(stored["train"].numpy(), one.shape.d_vocab)
    _direct(found, one, counts)
    head_rows = _copying(found, one)
    write_metrics(metrics, found.found)
    write_table(orders, order_rows)
    write_table(heads, head_rows)
    write_table(trigrams, _trigrams(one, counts, json.loads(vocabulary.read_text("utf-8"))))


def _orders(found: Seeded, name: str, arm: ArmResult, tokens: torch.Tensor) -> list[dict[str, object]]:
    """Losses when only paths of at most so many heads count, and the share of what single heads and pairs of heads
    take."""
    losses = losses_by_order(arm.weights(END), tokens, arm.shape).double().numpy()
    taken = losses[:, 0] - losses[:, -1]
    for order, label in ((1, "single_heads"), (2, "virtual_heads")):
        if order < losses.shape[1]:
            part = (losses[:, order - 1] - losses[:, order]) / taken
            text = f"share of the loss that heads take away which comes with paths through {order} of them"
            found.add(f"{label}_{name}", part.tolist(), "share", text)
    if losses.shape[1] > 2:
        found.minus(f"virtual_minus_single_heads_{name}", f"virtual_heads_{name}", f"single_heads_{name}")
    return [
        {"model": name, "seed": seed, "order": order, "loss": losses[k, order]}
        for k, seed in enumerate(arm.seeds)
        for order in range(losses.shape[1])
    ]


def _direct(found: Seeded, arm: ArmResult, counts: np.ndarray) -> None:
    """Direct path against bigrams; control: the rows of other source tokens."""
    rng = np.random.default_rng(0)
    logits = direct_path(arm.weights(END)).double().numpy()
    text = "correlation of the direct path's logits with log bigram frequencies, rows weighted by frequency"
    found.add("direct_path", [row_correlation(one, counts, LEAST) for one in logits], "1", text)
    others = [row_correlation(one[rng.permutation(len(one))], counts, LEAST) for one in logits]
    found.add("direct_path_permuted", others, "1", f"{text}; source tokens permuted")
    found.minus("direct_path_minus_permuted", "direct_path", "direct_path_permuted")


def _copying(found: Seeded, arm: ArmResult) -> list[dict[str, object]]:
    """OV eigenvalue scores of one layer, before and after training, and the share of copying heads."""
    rows: list[dict[str, object]] = []
    for name, index in (("copying_share", END), ("copying_share_start", START)):
        weights = arm.weights(index)
        one, table = head_weights(weights, arm.shape), embedding(weights)
        score = eigenvalue_score(table @ one.W_V, one.W_O @ weights["unembed.W_U"][:, None, None])[:, 0]
        text = "share of the heads of one layer whose OV eigenvalue score is above one half"
        found.add(name, (score > COPIES).double().mean(1).tolist(), "share", text)
        rows += [
            {"step": arm.snapshots_at[index], "seed": seed, "head": head, "ov_eigenvalues": float(score[k, head])}
            for k, seed in enumerate(arm.seeds)
            for head in range(arm.shape.n_heads)
        ]
    found.minus("copying_share_minus_start", "copying_share", "copying_share_start")
    return rows


def _trigrams(arm: ArmResult, counts: np.ndarray, texts: list[str]) -> list[dict[str, object]]:
    """Source ... present -> next, the strongest of each head of the first seed."""
    frequent = torch.from_numpy(np.argsort(-counts.sum(1))[:KNOWN].copy())
    return [
        {"head": head, "source": texts[source], "present": texts[present], "next": texts[following], "score": score}
        for head in range(arm.shape.n_heads)
        for source, present, following, score in skip_trigrams(arm.weights(END), arm.shape, 0, head, SHOWN, frequent)
    ]


if __name__ == "__main__":
    run(measure_framework)
