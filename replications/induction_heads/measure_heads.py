"""Step: what the trained heads write and whom they read from, from their weights alone, and one readable example.

Per arm and head: copying (OV circuit on the vocabulary), OV and QK eigenvalue scores, K-, Q- and V-composition with the
leading previous-token head, against heads with random entries; and the prefix score on tokens with new random
embeddings, which no memory of tokens can serve. Elhage et al. 2021 (composition, eigenvalues), Olsson et al. 2022
(copying score). The leading previous-token head and induction head are chosen by their patterns on a set of one-shot
sequences that nothing else is measured on.
"""

import string
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from scipy.stats import rankdata
from torch import Tensor

from common.core.metrics import write_metrics
from common.core.statistics import null_distribution
from common.core.step import run
from common.core.tables import Seeded, write_table
from common.interp.head_scores import (
    HeadWeights,
    composition,
    copying,
    copying_first,
    eigenvalue_score,
    previous_token,
    random_heads,
)
from common.toys.transformer import Weights
from replications.induction_heads.arm import ArmResult, load_arm
from replications.induction_heads.circuits import roles
from replications.induction_heads.data import CHOOSING, JUDGING, HeldOut, one_shot
from replications.induction_heads.evaluation import embedding, head_weights, losses_on, patterns, scores, written

START, END = 0, -1  # snapshots
DRAWS = 400
QUANTILE = 0.99
KINDS = ("K", "Q", "V")
FRESH_SEED = 7


def measure_heads(
    *, arms: list[Path], example: Path, held_out: int, metrics: Path, heads: Path, attention: Path
) -> None:
    """Writes `metrics`, one row per head, and the attention of two heads of the arm file `example` on one sequence."""
    found, rows = Seeded(), []
    for path in arms:
        arm = load_arm(path)
        who = roles(arm.weights(END), arm.shape, one_shot(arm.text, held_out, CHOOSING)).induction
        start, end = (_head_table(arm, index, held_out, who) for index in (START, END))
        rows += [row for index, table in ((START, start), (END, end)) for row in _rows(path.stem, arm, index, table)]
        _summarise(found, path.stem, arm, start, end)
    write_metrics(metrics, found.found)
    write_table(heads, rows)
    write_table(attention, _example(load_arm(example), held_out))


def _head_table(arm: ArmResult, index: int, held_out: int, who: Bool[Tensor, "instance layer head"]) -> Weights:
    """All scores [instance layer head] of one snapshot, and [instance] of the heads in `who` together."""
    weights, shape = arm.weights(index), arm.shape
    choosing = one_shot(arm.text, held_out, CHOOSING)
    cache: Weights = {}
    losses_on(weights, choosing, shape, cache=cache)
    shown, early = patterns(cache, shape), arm.text.longest + 1
    found = scores(shown, choosing)
    found["previous_early"] = previous_token(shown[..., :early, :early])
    found["prefix_fresh"] = scores(_patterns_on_fresh_tokens(weights, arm, choosing), choosing)["prefix"]
    one = head_weights(weights, shape)
    table, unembed = embedding(weights), weights["unembed.W_U"][:, None, None]
    each = written(weights, shape)
    together = (each * who[..., None, None]).sum((1, 2))
    found["copying"], found["group_copying"], found["group_first"] = (
        copying(each),
        copying(together),
        copying_first(together),
    )
    found["ov_eigenvalues"] = eigenvalue_score(table @ one.W_V, one.W_O @ unembed)
    first = found["previous"][:, 0].argmax(1)
    pick = torch.arange(len(first))
    # the leading previous-token head of the first layer
    source = HeadWeights(*(W[pick, 0, first][:, None, None] for W in one))
    for kind in KINDS:
        found[f"composition_{kind}"] = composition(kind, source, one)
    # query: present token; key: the token that the earlier head moved there
    moved = (source.W_O @ one.W_K).mT  # reads the moved token with the late head's key
    found["qk_eigenvalues"] = eigenvalue_score(table @ one.W_Q, moved @ (table @ source.W_V).mT)
    found["qk_trace"] = _qk_trace(one, table, found["previous"])
    return found


def _qk_trace(one: HeadWeights, table: Tensor, previous: Tensor) -> Tensor:
    """Trace of the QK circuit through all heads of earlier layers, each weighted by its previous-token score: how much
    more a query matches the key that the same token was moved to than a key on average. Zero in the first layer."""
    moved = (previous[..., None, None] * ((table @ one.W_V) @ one.W_O)).sum(2, keepdim=True)
    earlier = torch.cat([torch.zeros_like(moved[:, :1]), moved.cumsum(1)[:, :-1]], 1)
    return ((table @ one.W_Q) * (earlier @ one.W_K)).sum((-1, -2))


def _patterns_on_fresh_tokens(weights: Weights, arm: ArmResult, held: HeldOut) -> Tensor:
    """Attention when every token has a new random embedding: nothing about these tokens can have been learned."""
    generator = torch.Generator().manual_seed(FRESH_SEED)
    table = torch.randn(weights["embed.W_E"].shape, generator=generator)
    cache: Weights = {}
    losses_on({**weights, "embed.W_E": table}, held, arm.shape, cache=cache)
    return patterns(cache, arm.shape)


def _rows(name: str, arm: ArmResult, index: int, table: Weights) -> list[dict[str, object]]:
    return [
        {"arm": name, "step": arm.snapshots_at[index], "seed": seed, "layer": layer, "head": head}
        | {what: float(values[k, layer, head]) for what, values in table.items() if values.dim() == 3}
        for k, seed in enumerate(arm.seeds)
        for layer in range(arm.shape.n_layers)
        for head in range(arm.shape.n_heads)
    ]


def _of_best(chosen: Weights, table: Weights, what: str) -> list[float]:
    """A score in `table` of the head with the highest prefix score in `chosen`."""
    best = chosen["prefix"].flatten(1).argmax(1, keepdim=True)
    return [float(value) for value in table[what].flatten(1).gather(1, best)[:, 0]]


def _ranks(found: Seeded, name: str, end: Weights) -> None:
    """Spearman correlations of weights and attention over the heads above the first layer, and with heads permuted."""
    prefix = _standard_ranks(end["prefix"])
    rng = np.random.default_rng(0)
    orders = np.array(
        [rng.permuted(np.tile(np.arange(prefix.shape[1]), (len(prefix), 1)), axis=1) for _ in range(DRAWS)]
    )
    for what, label in (("qk_trace", "QK trace"), ("composition_K", "K-composition")):
        values, short = _standard_ranks(end[what]), f"rank_{what.lower()}"
        text = f"Spearman correlation of {label} and prefix score over the heads above the first layer"
        found.add(f"{short}_{name}", (prefix * values).sum(1).tolist(), "1", text)
        draws = (prefix * np.take_along_axis(values[None], orders, 2)).sum(2).mean(1)
        null = f"{text}, mean over seeds, heads permuted"
        found.found[f"{short}_permuted_{name}"] = null_distribution(draws, unit="1", formula=null)
        gap = found.found[f"{short}_{name}"].value - draws
        found.found[f"{short}_minus_permuted_{name}"] = null_distribution(gap, unit="1", formula="minus permuted")


def _standard_ranks(score: Tensor) -> np.ndarray:
    """Ranks of the heads above the first layer, centred and of length one: products sum to Spearman's correlation."""
    ranks = rankdata(score[:, 1:].flatten(1).numpy(), axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    scaled: np.ndarray = ranks / np.maximum(np.linalg.norm(ranks, axis=1, keepdims=True), 1e-30)
    return scaled


def _summarise(found: Seeded, name: str, arm: ArmResult, start: Weights, end: Weights) -> None:
    """Metrics of the leading heads and of all induction heads together, at the end and, same heads, at the start."""
    null, other = (random_heads(arm.shape.d_model, arm.shape.d_head, DRAWS, seed=seed) for seed in (0, 1))

    def both(what: str, values: tuple[list[float], list[float]], formula: str) -> None:
        found.add(f"{what}_{name}", values[0], "1", formula)
        found.add(f"{what}_start_{name}", values[1], "1", f"{formula}; the same before training")
        found.minus(f"{what}_minus_start_{name}", f"{what}_{name}", f"{what}_start_{name}")

    def leading(what: str, scale: float = 1.0) -> tuple[list[float], list[float]]:
        at_end, at_start = ([value / scale for value in _of_best(end, table, what)] for table in (end, start))
        return at_end, at_start

    for what, text in (("copying", "copying score"), ("ov_eigenvalues", "OV eigenvalue score")):
        both(what, leading(what), f"{text} of the head with the highest prefix score")
    for what, text in (
        ("group_copying", "copying score"),
        ("group_first", "share of tokens raised most by themselves"),
    ):
        both(what, (end[what].tolist(), start[what].tolist()), f"{text}, all induction heads summed")
    fresh = [table["prefix_fresh"].flatten(1).amax(1).tolist() for table in (end, start)]
    both("prefix_fresh", (fresh[0], fresh[1]), "prefix score of the best head on tokens that were never trained on")
    early = [table["previous_early"].flatten(1).amax(1).tolist() for table in (end, start)]
    both(
        "previous_early",
        (early[0], early[1]),
        "previous-token score of the best head, positions up to the longest period",
    )
    if arm.shape.n_layers < 2:
        return
    both(
        "qk_eigenvalues",
        leading("qk_eigenvalues"),
        "QK eigenvalue score, leading previous-token to leading induction head",
    )
    for kind in KINDS:
        limit = float(composition(kind, null, other).quantile(QUANTILE))
        text = f"{kind}-composition of the same two heads over the 99th percentile of random heads"
        both(f"{kind.lower()}_composition", leading(f"composition_{kind}", limit), text)
    _ranks(found, name, end)
    for kind in ("q", "v"):
        found.minus(f"k_minus_{kind}_composition_{name}", f"k_composition_{name}", f"{kind}_composition_{name}")


def _example(arm: ArmResult, held_out: int) -> list[dict[str, object]]:
    """Attention of the leading previous-token head and the leading induction head of the first seed, on one sequence
    whose tokens are written as letters."""
    weights = {name: value[:1] for name, value in arm.weights(-1).items()}
    choosing, judging = (one_shot(arm.text, held_out, seed) for seed in (CHOOSING, JUDGING))
    cache: Weights = {}
    losses_on(weights, choosing, arm.shape, cache=cache)
    found = scores(patterns(cache, arm.shape), choosing)
    row = judging._replace(tokens=judging.tokens[:1], repeated=judging.repeated[:1], oracle=judging.oracle[:1])
    losses = losses_on(weights, row, arm.shape, cache=cache)[0, 0]
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
            rows.append(
                {
                    "role": role,
                    "layer": layer,
                    "head": head,
                    "query": query,
                    "key": key,
                    "query_token": names[query],
                    "key_token": names[key],
                    "attention": float(shown[layer, head, query, key]),
                    "loss_of_next": float(losses[query]) if query < len(losses) else 0.0,
                }
            )
    return rows


if __name__ == "__main__":
    run(measure_heads)
