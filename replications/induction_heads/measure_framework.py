"""Step: measures of *A Mathematical Framework for Transformer Circuits* (Elhage et al. 2021) on small models.

Direct path: what a token's embedding says about the next token when no head is used; it should hold bigram statistics.
Copying heads: the share of one layer's heads with an OV eigenvalue score above one half. Skip trigrams: source token
... present token -> next token, read from a head's QK and OV circuits. Path orders: with all attention patterns (and
all LayerNorm scales) frozen the model is a sum over paths through its heads. The order of a path is the number of heads
on it. Order 0 is the direct path, order 1 single heads, order 2 heads that read heads (virtual heads).

Deviation: LayerNorm scales are frozen, where the paper folds LayerNorm away.
"""

from pathlib import Path

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.errors import UserError
from common.core.files import read_json
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from common.interp.head_scores import eigenvalue_score
from common.toys.settings import Architecture
from common.toys.transformer import EPSILON, Weights, forward, token_losses
from replications.induction_heads.arm import ArmResult, load_arm
from replications.induction_heads.data import JUDGING, segments_held_out
from replications.induction_heads.evaluation import embedding, head_weights

START, END = 0, -1  # snapshots
COPIES = 0.5  # eigenvalue score from which on a head counts as copying
LEAST = 50  # occurrences of a source token whose row of the bigram table is compared
KNOWN = 200  # the most frequent tokens, among which skip trigrams are looked for
SHOWN = 2  # skip trigrams of each head
READ = 64  # stretches, or synthetic sequences, on which losses by order are measured


class FrameworkFiles(Files):
    texts: list[Path]
    """arms trained on the corpus, the first with one layer"""
    synthetic: list[Path]
    tokens: Path
    vocabulary: Path
    metrics: Path
    orders: Path
    """loss by order"""
    heads: Path
    """OV eigenvalue score of every head"""
    trigrams: Path


def measure_framework(files: FrameworkFiles) -> None:
    """Writes the metrics and the three tables."""
    stored = load_file(files.tokens)
    judged = [(f"text_{path.stem}", load_arm(path), stored["held_out"][:READ].long()) for path in files.texts]
    for path in files.synthetic:
        arm = load_arm(path)
        judged.append((path.stem, arm, segments_held_out(arm.text, READ, JUDGING).tokens))
    found: dict[str, Metric] = {}
    order_rows: list[dict[str, object]] = []
    for name, arm, tokens in judged:
        losses = losses_by_order(arm.weights(END), tokens, arm.shape).double().numpy()
        found |= {f"{what}_{name}": metric for what, metric in _shares(losses).items()}
        order_rows += [
            {"model": name, "seed": seed, "order": order, "loss": losses[k, order]}
            for k, seed in enumerate(arm.seeds)
            for order in range(losses.shape[1])
        ]
    one = judged[0][1]
    counts = bigram_counts(stored["train"].numpy(), one.shape.d_vocab)
    scores = {index: _ov_eigenvalues(one, index) for index in (END, START)}
    copies = {index: (score > COPIES).double().mean(1).tolist() for index, score in scores.items()}
    found["copying_share"] = over_seeds(
        copies[END],
        unit="share",
        formula="share of the heads of one layer whose OV eigenvalue score is above one half",
        controls={"before_training": copies[START]},
    )
    write_metrics(files.metrics, found | {"direct_path": _direct(one, counts)})
    write_table(files.orders, order_rows)
    head_rows = [
        {"step": one.snapshots_at[index], "seed": seed, "head": head, "ov_eigenvalues": float(score[k, head])}
        for index, score in scores.items()
        for k, seed in enumerate(one.seeds)
        for head in range(one.shape.n_heads)
    ]
    write_table(files.heads, head_rows)
    write_table(files.trigrams, _trigrams(one, counts, read_json(files.vocabulary)))


def _shares(losses: Float[np.ndarray, "seed order"]) -> dict[str, Metric]:
    """What paths through one head, and through two, take of the loss that all heads take away."""
    taken = losses[:, 0] - losses[:, -1]
    return {
        label: over_seeds(
            ((losses[:, order - 1] - losses[:, order]) / taken).tolist(),
            unit="share",
            formula=f"share of the loss that heads take away which comes with paths through {order} of them",
        )
        for order, label in ((1, "single_heads"), (2, "virtual_heads"))
        if order < losses.shape[1]
    }


def _ov_eigenvalues(arm: ArmResult, index: int) -> Float[Tensor, "instance head"]:
    """OV eigenvalue scores of the first layer at one snapshot."""
    weights = arm.weights(index)
    one, table = head_weights(weights, arm.shape), embedding(weights)
    return eigenvalue_score(table @ one.W_V, one.W_O @ weights["unembed.W_U"][:, None, None])[:, 0]


def _direct(arm: ArmResult, counts: np.ndarray) -> Metric:
    """Direct path against bigrams; control: the rows of other source tokens."""
    rng = np.random.default_rng(0)
    logits = direct_path(arm.weights(END)).double().numpy()
    permuted = [row_correlation(one[rng.permutation(len(one))], counts, LEAST) for one in logits]
    return over_seeds(
        [row_correlation(one, counts, LEAST) for one in logits],
        unit="1",
        formula="correlation of the direct path's logits with log bigram frequencies, rows weighted by frequency",
        controls={"permuted_tokens": permuted},
    )


def _trigrams(arm: ArmResult, counts: np.ndarray, texts: list[str]) -> list[dict[str, object]]:
    """Source ... present -> next, the strongest of each head of the first seed."""
    frequent = torch.from_numpy(np.argsort(-counts.sum(1))[:KNOWN].copy())
    return [
        {"head": head, "source": texts[source], "present": texts[present], "next": texts[following], "score": score}
        for head in range(arm.shape.n_heads)
        for source, present, following, score in skip_trigrams(arm.weights(END), arm.shape, 0, head, SHOWN, frequent)
    ]


def direct_path(weights: Weights) -> Float[Tensor, "instance source next"]:
    """Logits of the next token after each source token along the direct path."""
    return embedding(weights)[:, 0, 0] @ weights["unembed.W_U"]


def bigram_counts(tokens: Int[np.ndarray, " pos"], d_vocab: int) -> Float[np.ndarray, "source next"]:
    """How often each token followed each token."""
    pairs = tokens[:-1].astype(np.int64) * d_vocab + tokens[1:]
    return np.bincount(pairs, minlength=d_vocab**2).reshape(d_vocab, d_vocab).astype(np.float64)


def row_correlation(
    logits: Float[np.ndarray, "source next"], counts: Float[np.ndarray, "source next"], least: int
) -> float:
    """Correlation of logits with log bigram frequencies, row by row, weighted by how often the source occurs.

    Rows with fewer than `least` occurrences are left out; half a count is added everywhere. 0 if no row is left.
    """
    total = counts.sum(1)
    rows = total >= least
    if not rows.any():
        return 0.0
    wanted = np.log(counts[rows] + 0.5)
    a, b = (x - x.mean(1, keepdims=True) for x in (logits[rows], wanted))
    each = (a * b).sum(1) / np.maximum(np.sqrt((a**2).sum(1) * (b**2).sum(1)), 1e-30)
    return float((each * total[rows]).sum() / total[rows].sum())


def skip_trigrams(
    weights: Weights, shape: Architecture, layer: int, head: int, count: int, known: Int[Tensor, " source"]
) -> list[tuple[int, int, int, float]]:
    """The strongest (source, present, next, score) of one head of the first instance, one per source token.

    The score is the product of two standard scores. One is how much the present token attends to the source rather than
    to others, the other how much the source raises the next token. `known` are the tokens that are asked about.
    """
    one = head_weights({name: value[:1] for name, value in weights.items()}, shape)
    table = embedding(weights)[0, 0, 0]
    W_Q, W_K, W_V, W_O = (W[0, layer, head] for W in one)
    attends = (table @ W_Q) @ (table @ W_K).T  # present, source
    raises = (table @ W_V) @ (W_O @ weights["unembed.W_U"][0])  # source, next
    attends, raises = attends[known][:, known], raises[known][:, known]
    attends = (attends - attends.mean(1, keepdim=True)) / attends.std().clamp(min=1e-9)
    raises = (raises - raises.mean(0)) / raises.std().clamp(min=1e-9)
    best_present, present = attends.max(0)
    best_next, following = raises.max(1)
    score = best_present.clamp(min=0) * best_next.clamp(min=0)
    order = score.argsort(descending=True)[:count]
    return [
        (int(known[source]), int(known[present[source]]), int(known[following[source]]), float(score[source]))
        for source in order.tolist()
    ]


def losses_by_order(
    weights: Weights, tokens: Int[Tensor, "batch pos"], shape: Architecture
) -> Float[Tensor, "instance order"]:
    """Mean loss when only paths of at most 0, 1, ... heads count. The last is the model's own loss (test).

    UserError for a model with MLPs, which are not sums over paths, and for added positions, which are values too.
    """
    if shape.mlp != "none" or shape.positions == "standard":
        raise UserError("path orders need an attention-only model whose positions are not in the residual stream")
    cache: Weights = {}
    every = tokens.expand(len(weights["embed.W_E"]), -1, -1)
    entering: list[Tensor] = []

    def visit(name: str, value: Tensor) -> Tensor:
        if name.endswith("hook_resid_pre"):
            entering.append(value)
        return value

    with torch.no_grad():
        forward(weights, every, shape, cache=cache, visit=visit)
        entering.append(cache[f"blocks.{shape.n_layers - 1}.hook_resid_post"])
        terms = [entering[0]]
        for layer in range(shape.n_layers):
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
            W_V, W_O = (weights[f"blocks.{layer}.attn.{name}"] for name in ("W_V", "W_O"))
            written = [_heads(_scaled(term, entering[layer]), pattern, W_V, W_O) for term in terms]
            nothing = torch.zeros_like(terms[0])
            terms = [old + new for old, new in zip([*terms, nothing], [nothing, *written], strict=True)]
        summed = torch.stack(terms).cpu().cumsum(0).to(every.device)  # a GPU sums along an axis in no fixed order
        logits = [_scaled(part, entering[-1]) @ weights["unembed.W_U"][:, None] for part in summed]
        return torch.stack([token_losses(one, every).mean((1, 2)) for one in logits], 1)


def _scaled(
    x: Float[Tensor, "instance batch pos d_model"], full: Float[Tensor, "instance batch pos d_model"]
) -> Float[Tensor, "instance batch pos d_model"]:
    """LayerNorm of `x` with the scale that the whole residual stream `full` has: linear in `x`."""
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(full.var(-1, keepdim=True, correction=0) + EPSILON)


def _heads(x: Tensor, pattern: Tensor, W_V: Tensor, W_O: Tensor) -> Float[Tensor, "instance batch pos d_model"]:
    """What all heads of a layer write when they read `x` with given patterns."""
    v = einsum(x, W_V, "instance batch key d, instance head d e -> instance batch head key e")
    z = rearrange(pattern @ v, "instance batch head pos e -> instance batch pos head e")
    return einsum(z, W_O, "instance batch pos head e, instance head e d -> instance batch pos d")


if __name__ == "__main__":
    run_step(measure_framework)
