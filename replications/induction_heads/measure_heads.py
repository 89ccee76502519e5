"""Step: what the trained heads write and whom they read from, from their weights alone, and one readable example.

Per arm and head: copying (OV circuit on the vocabulary), and OV and QK eigenvalue scores. Also K-, Q- and V-composition
with the leading previous-token head, against heads with random entries. Last the prefix score on tokens with new random
embeddings, which no memory of tokens can serve. Elhage et al. 2021 (composition, eigenvalues), Olsson et al. 2022
(copying score). The leading previous-token head and induction head are chosen by their patterns on a set of one-shot
sequences that nothing else is measured on.

Deviation: the copying score takes all 48 tokens, where the paper samples 25. Heads of rank 16 cannot copy them all, so
its value says little here: an ideal copier of that rank scores about -0.6.
"""

import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from scipy.stats import rankdata
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import against_null, over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from common.interp.head_scores import (
    HeadWeights,
    composition,
    copying,
    copying_first,
    eigenvalue_score,
    random_heads,
)
from common.toys.transformer import Weights
from replications.induction_heads.arm import ArmResult, load_arm
from replications.induction_heads.data import CHOOSING, JUDGING, HeldOut, one_shot
from replications.induction_heads.evaluation import (
    embedding,
    head_weights,
    losses_on,
    patterns,
    roles,
    scores,
    written,
)
from replications.induction_heads.settings import HeldOutSize

START, END = 0, -1  # snapshots
DRAWS = 400
QUANTILE = 0.99
KINDS = ("K", "Q", "V")
FRESH_SEED = 7
LEADING = {
    "copying": "copying score",
    "ov_eigenvalues": "OV eigenvalue score",
    "qk_eigenvalues": "QK eigenvalue score, through the leading previous-token head,",
}
BEST = {
    "prefix_fresh": "prefix score of the best head on tokens that were never trained on",
    "previous": "previous-token score of the best head",
}
RANKED = {"qk_trace": "QK trace", "composition_K": "K-composition"}


class MeasureHeadsFiles(Files):
    arms: list[Path]
    example: Path
    """the arm whose heads are shown on one sequence"""
    metrics: Path
    heads: Path
    """one row per head"""
    attention: Path
    """attention of two heads of the example"""


def measure_heads(files: MeasureHeadsFiles, settings: HeldOutSize) -> None:
    """Writes the metrics, the scores of every head, and the example."""
    found: dict[str, Metric] = {}
    rows = []
    for path in files.arms:
        arm = load_arm(path)
        who = roles(arm.weights(END), arm.shape, one_shot(arm.text, settings.held_out, CHOOSING)).induction
        start, end = (_head_table(arm, index, settings.held_out, who) for index in (START, END))
        rows += [row for index, table in ((START, start), (END, end)) for row in _rows(path.stem, arm, index, table)]
        found |= {f"{what}_{path.stem}": metric for what, metric in _summary(arm, start, end).items()}
    write_metrics(files.metrics, found)
    write_table(files.heads, rows)
    write_table(files.attention, _example(load_arm(files.example), settings.held_out))


def _head_table(arm: ArmResult, index: int, held_out: int, who: Bool[Tensor, "instance layer head"]) -> Weights:
    """All scores [instance layer head] of one snapshot, and [instance] of the heads in `who` together."""
    weights, shape = arm.weights(index), arm.shape
    choosing = one_shot(arm.text, held_out, CHOOSING)
    cache: Weights = {}
    losses_on(weights, choosing.tokens, shape, cache=cache)
    found = scores(patterns(cache, shape), choosing)
    found["prefix_fresh"] = scores(_patterns_on_fresh_tokens(weights, arm, choosing), choosing)["prefix"]
    one = head_weights(weights, shape)
    table, unembed = embedding(weights), weights["unembed.W_U"][:, None, None]
    each = written(weights, shape)
    together = (each * who[..., None, None]).sum((1, 2))
    found["copying"], found["group_first"] = copying(each), copying_first(together)
    found["ov_eigenvalues"] = eigenvalue_score(table @ one.W_V, one.W_O @ unembed)
    leading = found["previous"][:, 0].argmax(1)  # previous-token head of the first layer
    source = HeadWeights(*(W[torch.arange(len(leading)), 0, leading][:, None, None] for W in one))
    for kind in KINDS:
        found[f"composition_{kind}"] = composition(kind, source, one)
    # query: present token; key: the token that the earlier head moved there
    moved = (source.W_O @ one.W_K).mT  # reads the moved token with the late head's key
    found["qk_eigenvalues"] = eigenvalue_score(table @ one.W_Q, moved @ (table @ source.W_V).mT)
    found["qk_trace"] = _qk_trace(one, table, found["previous"])
    return found


def _qk_trace(one: HeadWeights, table: Tensor, previous: Tensor) -> Tensor:
    """Trace of the QK circuit through all heads of earlier layers, each weighted by its previous-token score. It is how
    much more a query matches the key that the same token was moved to than a key on average. Zero in the first
    layer."""
    moved = (previous[..., None, None] * ((table @ one.W_V) @ one.W_O)).sum(2, keepdim=True)
    moved = moved.cpu()  # a GPU sums along an axis in no fixed order
    earlier = torch.cat([torch.zeros_like(moved[:, :1]), moved.cumsum(1)[:, :-1]], 1).to(table.device)
    return ((table @ one.W_Q) * (earlier @ one.W_K)).sum((-1, -2))


def _patterns_on_fresh_tokens(weights: Weights, arm: ArmResult, held: HeldOut) -> Tensor:
    """Attention when every token has a new random embedding: nothing about these tokens can have been learned."""
    generator = torch.Generator().manual_seed(FRESH_SEED)
    table = torch.randn(weights["embed.W_E"].shape, generator=generator)
    cache: Weights = {}
    losses_on({**weights, "embed.W_E": table}, held.tokens, arm.shape, cache=cache)
    return patterns(cache, arm.shape)


def _rows(name: str, arm: ArmResult, index: int, table: Weights) -> list[dict[str, object]]:
    return [
        {"arm": name, "step": arm.snapshots_at[index], "seed": seed, "layer": layer, "head": head}
        | {what: float(values[k, layer, head]) for what, values in table.items() if values.dim() == 3}
        for k, seed in enumerate(arm.seeds)
        for layer in range(arm.shape.n_layers)
        for head in range(arm.shape.n_heads)
    ]


def _of_leading(chosen: Weights, table: Weights, what: str) -> list[float]:
    """A score in `table` of the head with the highest prefix score in `chosen`."""
    best = chosen["prefix"].flatten(1).argmax(1, keepdim=True)
    return [float(value) for value in table[what].flatten(1).gather(1, best)[:, 0]]


def _summary(arm: ArmResult, start: Weights, end: Weights) -> dict[str, Metric]:
    """Metrics of the leading heads and of all induction heads together, against the same heads before training."""
    found: dict[str, Metric] = {}

    def add(what: str, formula: str, read: Callable[[Weights], list[float]], **controls: list[float]) -> None:
        listed = {"before_training": read(start), **controls}
        found[what] = over_seeds(read(end), unit="1", formula=formula, controls=listed)

    def leading(what: str, limit: float = 1.0) -> Callable[[Weights], list[float]]:
        return lambda table: [value / limit for value in _of_leading(end, table, what)]

    def best(what: str) -> Callable[[Weights], list[float]]:
        return lambda table: table[what].flatten(1).amax(1).tolist()

    for what, text in LEADING.items():
        if arm.shape.n_layers > 1 or what != "qk_eigenvalues":
            add(what, f"{text} of the head with the highest prefix score", leading(what))
    text = "share of tokens raised most by themselves, all induction heads summed"
    add("group_first", text, lambda table: table["group_first"].tolist())
    for what, text in BEST.items():
        add(what, text, best(what))
    if arm.shape.n_layers > 1:
        null, other = (random_heads(arm.shape.d_model, arm.shape.d_head, DRAWS, seed=seed) for seed in (0, 1))
        relative = {
            kind: leading(f"composition_{kind}", float(composition(kind, null, other).quantile(QUANTILE)))
            for kind in KINDS
        }
        others = {"q_composition": relative["Q"](end), "v_composition": relative["V"](end)}
        for kind, read in relative.items():
            text = f"{kind}-composition of the leading heads over the 99th percentile of random heads"
            add(f"{kind.lower()}_composition", text, read, **(others if kind == "K" else {}))
        found |= _ranks(end)
    return found


def _ranks(end: Weights) -> dict[str, Metric]:
    """Spearman correlations of weights and attention over the heads above the first layer, and with heads permuted."""
    prefix, found = _standard_ranks(end["prefix"]), {}
    rng = np.random.default_rng(0)
    orders = np.array(
        [rng.permuted(np.tile(np.arange(prefix.shape[1]), (len(prefix), 1)), axis=1) for _ in range(DRAWS)]
    )
    for what, label in RANKED.items():
        values = _standard_ranks(end[what])
        text = f"Spearman correlation of {label} and prefix score over the heads above the first layer"
        effect = over_seeds((prefix * values).sum(1).tolist(), unit="1", formula=text)
        draws = (prefix * np.take_along_axis(values[None], orders, 2)).sum(2).mean(1)
        found[f"rank_{what.lower()}"] = against_null(effect, draws, name="permuted_heads", formula="mean over seeds")
    return found


def _standard_ranks(score: Tensor) -> np.ndarray:
    """Ranks of the heads above the first layer, centred and of length one: products sum to Spearman's correlation."""
    ranks = rankdata(score[:, 1:].flatten(1).numpy(), axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    scaled: np.ndarray = ranks / np.maximum(np.linalg.norm(ranks, axis=1, keepdims=True), 1e-30)
    return scaled


def _example(arm: ArmResult, held_out: int) -> list[dict[str, object]]:
    """Attention of the leading previous-token head and the leading induction head of the first seed, on one sequence
    whose tokens are written as letters."""
    weights = {name: value[:1] for name, value in arm.weights(-1).items()}
    choosing, judging = (one_shot(arm.text, held_out, seed) for seed in (CHOOSING, JUDGING))
    cache: Weights = {}
    losses_on(weights, choosing.tokens, arm.shape, cache=cache)
    found = scores(patterns(cache, arm.shape), choosing)
    row = judging._replace(tokens=judging.tokens[:1], repeated=judging.repeated[:1], oracle=judging.oracle[:1])
    losses = losses_on(weights, row.tokens, arm.shape, cache=cache)[0, 0]
    shown = patterns(cache, arm.shape)[0, :, 0]
    letters = string.ascii_letters + string.digits
    names = [letters[int(token) % len(letters)] for token in row.tokens[0]]
    leading = {
        "previous-token head": (0, int(found["previous"][0, 0].argmax())),
        "induction head": divmod(int(found["prefix"][0].flatten().argmax()), arm.shape.n_heads),
    }
    rows: list[dict[str, object]] = []
    for role, (layer, head) in leading.items():
        for query, key in torch.tril(torch.ones(len(names), len(names))).nonzero().tolist():
            about = {"role": role, "layer": layer, "head": head, "query": query, "key": key}
            about |= {"query_token": names[query], "key_token": names[key]}
            loss = float(losses[query]) if query < len(losses) else 0.0
            rows.append(about | {"attention": float(shown[layer, head, query, key]), "loss_of_next": loss})
    return rows


if __name__ == "__main__":
    run_step(measure_heads)
