"""Candidates for the refusal direction, their scores, and the choice among them (Arditi et al. 2024, section 2.3).

candidate  mean activation on harmful minus mean on harmless requests, residual stream before block l, at one of the
           template tokens behind the instruction; means in float64
bypass     mean refusal metric on harmful requests with the candidate ablated
induce     mean refusal metric on harmless requests with the candidate added before block l
kl         mean KL(tuned || ablated) of the first token on harmless requests

Chosen is the lowest bypass among candidates with kl <= 0.1, induce >= 0 and l < 0.8 L. All candidates are scored on a
few prompts; the best go on to all prompts that are set aside for choosing. Many candidates share one pass (`rows`), and
within a candidate what prompts begin with runs once (`prefixes`).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from replications.refusal_direction.chat import (
    Batch,
    ablating,
    final_states,
    first_token_kl,
    refusal_metric,
    residuals,
)
from replications.refusal_direction.prefixes import Tree, trees
from replications.refusal_direction.settings import SearchSettings

MAXIMUM_KL, MINIMUM_INDUCE, DEPTH = 0.1, 0.0, 0.8
RELAXED_KL = 1.0  # where no candidate passes the limit of the paper
TREE = 8  # prompts of one tree: attention grows with the square of its tokens


class Candidates(NamedTuple):
    """Directions, or the orthonormal rows of subspaces, which are only ablated, and a row of the table for each:
    position, layer, norm."""

    table: pd.DataFrame
    vectors: Float[Tensor, "candidate d_model"] | Float[Tensor, "candidate k d_model"]

    def take(self, rows: list[int]) -> "Candidates":
        """Some of them, under their index."""
        return Candidates(self.table.loc[rows], self.vectors[rows])


def difference(
    positive: Float[Tensor, "prompt *rest"], negative: Float[Tensor, "other *rest"]
) -> Float[Tensor, "*rest"]:
    """Difference of means in float64."""
    return positive.double().mean(0) - negative.double().mean(0)


def balanced(
    on: Float[Tensor, "prompt *rest"], off: Float[Tensor, "other *rest"], draws: torch.Generator
) -> Float[Tensor, "*rest"]:
    """Difference of the means of two random halves, each with as many requests of either class."""
    halves: list[list[Tensor]] = [[], []]
    for x in (on, off):
        order = torch.randperm(len(x), generator=draws).to(x.device)
        half = len(x) // 2
        halves[0].append(x[order[:half]])
        halves[1].append(x[order[half : 2 * half]])
    return difference(torch.cat(halves[0]), torch.cat(halves[1]))


class Scores(NamedTuple):
    """Of every candidate on every prompt: refusal metric ablated, KL ablated, refusal metric added."""

    bypass: Float[Tensor, "candidate harmful"]
    kl: Float[Tensor, "candidate harmless"]
    induce: Float[Tensor, "candidate harmless"]


Pass = tuple[tuple[Tensor, Tensor], Tensor, Tensor]
"""Rows and columns of a table, candidate by prompt, and the last logits with each of these candidates, and without"""


def scores(
    model: Any,
    harmful: Batch,
    harmless: Batch,
    vectors: Float[Tensor, "candidate d_model"] | Float[Tensor, "candidate k d_model"],
    at: Int[Tensor, " candidate"],
    tokens: Int[Tensor, " token"],
    rows: int,
    *,
    everywhere: bool = False,
) -> Scores:
    """Each vector or subspace ablated, and each vector added before its own block (a subspace is not, and its `induce`
    is 0). `rows`: copies of prompts that share a pass, at most; `everywhere`: ablated at the first position too."""
    end, keep = (ablated(model, batch, vectors, rows, everywhere) for batch in (harmful, harmless))
    start = added(model, harmless, vectors, at, rows) if vectors.ndim == 2 else iter(())
    bypass, kl, induce = (vectors.new_zeros(len(vectors), len(batch), dtype=torch.float64)
                          for batch in (harmful, harmless, harmless))  # fmt: skip
    return Scores(refusals(end, bypass, tokens), divergences(keep, kl), refusals(start, induce, tokens))


class Pushed(NamedTuple):
    """Of every vector on every prompt, added before its block: refusal metric, and KL."""

    bypass: Float[Tensor, "candidate harmful"]
    kl: Float[Tensor, "candidate harmless"]


def pushes(
    model: Any,
    harmful: Batch,
    harmless: Batch,
    vectors: Float[Tensor, "candidate d_model"],
    at: Int[Tensor, " candidate"],
    tokens: Int[Tensor, " token"],
    rows: int,
) -> Pushed:
    """Each vector added before its own block, to end refusal; as `scores` otherwise."""
    end, keep = (added(model, batch, vectors, at, rows) for batch in (harmful, harmless))
    bypass, kl = (vectors.new_zeros(len(vectors), len(batch), dtype=torch.float64) for batch in (harmful, harmless))
    return Pushed(refusals(end, bypass, tokens), divergences(keep, kl))


def refusals(passes: Iterator[Pass], table: Tensor, tokens: Int[Tensor, " token"]) -> Float[Tensor, "candidate prompt"]:
    """The table filled with refusal metrics."""
    for at, logits, _ in passes:
        table[at] = refusal_metric(logits, tokens)
    return table


def divergences(passes: Iterator[Pass], table: Tensor) -> Float[Tensor, "candidate prompt"]:
    """The table filled with KL."""
    for at, logits, base in passes:
        table[at] = first_token_kl(base.expand_as(logits), logits).double()
    return table


def ablated(
    model: Any,
    batch: Batch,
    vectors: Float[Tensor, "candidate d_model"] | Float[Tensor, "candidate k d_model"],
    rows: int,
    everywhere: bool,
) -> Iterator[Pass]:
    """Each vector or subspace ablated in every layer."""
    every = torch.arange(len(vectors), device=vectors.device)
    for tree in trees(model, batch.prompts, TREE):
        base = untouched(model, tree, residuals(model, tree))
        for some in together(every, tree, rows):
            with ablating(model, vectors[some], everywhere=everywhere):
                logits = end_logits(model, tree.repeat(len(some)))
            yield (some[:, None], tree.prompts), logits, base


def added(
    model: Any,
    batch: Batch,
    vectors: Float[Tensor, "candidate d_model"],
    at: Int[Tensor, " candidate"],
    rows: int,
) -> Iterator[Pass]:
    """Each vector added before its block, behind the first position; the blocks below run once for all."""
    every = torch.arange(len(vectors), device=vectors.device)
    for tree in trees(model, batch.prompts, TREE):
        before = residuals(model, tree)
        base, behind_first = untouched(model, tree, before), (tree.places > 0)[..., None]
        for layer in sorted(set(at.tolist())):
            for some in together(every[at.to(every.device) == layer], tree, rows):
                x = before[:, :, layer] + behind_first * vectors[some].to(before.dtype)[:, None]
                logits = end_logits(model, tree.repeat(len(some)), resume=(layer, x))
                yield (some[:, None], tree.prompts), logits, base


def untouched(
    model: Any, tree: Tree, before: Float[Tensor, "1 node layer d_model"]
) -> Float[Tensor, "1 prompt d_vocab"]:
    """Logits without an intervention, from the residual stream before the last block."""
    last = before.shape[2] - 1
    return end_logits(model, tree, resume=(last, before[:, :, last]))


def together(candidates: Int[Tensor, " candidate"], tree: Tree, rows: int) -> tuple[Int[Tensor, " some"], ...]:
    """Candidates that share one pass over a tree."""
    return torch.split(candidates, max(1, rows // len(tree.ends)))


@torch.inference_mode()
def end_logits(
    model: Any, tree: Tree, resume: tuple[int, Tensor] | None = None
) -> Float[Tensor, "candidate prompt d_vocab"]:
    """Logits of the first token of the answer to every prompt of a tree, float32; `resume` as in `final_states`."""
    return model.lm_head(final_states(model, tree, resume)[:, tree.ends]).float()  # type: ignore[no-any-return]


def grid(differences: Float[Tensor, "pos layer d_model"], step: int) -> Candidates:
    """Every `step`-th layer below the depth limit at every template token; template tokens start out alike, and a zero
    vector is no candidate."""
    every = [(pos, at) for pos in range(len(differences)) for at in range(0, int(DEPTH * differences.shape[1]), step)]
    places = [place for place in every if float(differences[place].norm()) > 0]
    vectors = torch.stack([differences[place] for place in places]).float()
    table = pd.DataFrame(places, columns=["position", "layer"]).assign(norm=vectors.norm(dim=1).tolist())
    return Candidates(table, vectors)


def score(
    model: Any, candidates: Candidates, on: Batch, off: Batch, tokens: Int[Tensor, " token"], settings: SearchSettings,
    count: int | None = None, *, everywhere: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """The table with bypass, kl and induce, means over the first `count` requests of each class, or all."""
    at = torch.tensor(candidates.table["layer"].to_numpy())
    few = (on[:count], off[:count])
    return means(candidates, scores(model, *few, candidates.vectors, at, tokens, settings.rows, everywhere=everywhere))


def score_pushes(
    model: Any, candidates: Candidates, on: Batch, off: Batch, tokens: Int[Tensor, " token"], settings: SearchSettings,
    count: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The table with bypass and kl of each candidate added before its block; means as in `score`."""
    at = torch.tensor(candidates.table["layer"].to_numpy())
    return means(candidates, pushes(model, on[:count], off[:count], candidates.vectors, at, tokens, settings.rows))


def means(candidates: Candidates, measured: Scores | Pushed) -> pd.DataFrame:
    """The table with the mean of every score over requests."""
    return candidates.table.assign(**{name: one.mean(1).tolist() for name, one in measured._asdict().items()})


def search(
    model: Any, candidates: Candidates, on: Batch, off: Batch, tokens: Int[Tensor, " token"], settings: SearchSettings
) -> pd.DataFrame:
    """The finalists scored on all requests for choosing, the best first, then all candidates on a few (`stage`)."""
    first = score(model, candidates, on, off, tokens, settings, settings.grid_prompts)
    best = ranked(first).index[: settings.finalists].tolist()
    final = ranked(score(model, candidates.take(best), on, off, tokens, settings))
    return pd.concat([final.assign(stage="final"), first.assign(stage="grid")])


def survives(table: pd.DataFrame) -> pd.Series:
    """Which candidates pass the paper's filters on KL and induction; all scored ones lie below the depth limit."""
    return (table["kl"] <= MAXIMUM_KL) & (table["induce"] >= MINIMUM_INDUCE)


def works(table: pd.DataFrame) -> pd.Series:
    """Which end refusal when ablated and induce it when added."""
    return (table["bypass"] < 0) & (table["induce"] >= MINIMUM_INDUCE)


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Survivors that work, by bypass. Then, by bypass, what works at a KL of at most `RELAXED_KL`. Then what else
    works, the least KL first. Last survivors, which leave refusal as it is, and the others, by bypass."""
    working, kept, cheap = works(table), survives(table), table["kl"] <= RELAXED_KL
    fails = pd.Series(np.select([working & kept, working & cheap, working, kept], [0, 1, 2, 3], 4), table.index)
    order = table["kl"].where(fails == 2, table["bypass"])
    return table.assign(fails=fails, order=order).sort_values(["fails", "order"], kind="stable")[list(table.columns)]
