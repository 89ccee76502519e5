"""Candidates for the refusal direction, their scores, and the choice among them (Arditi et al. 2024, section 2.3).

candidate  mean activation on harmful minus mean on harmless requests, residual stream before block l, at one of the
           template tokens behind the instruction; means in float64
bypass     mean refusal metric on harmful requests with the candidate ablated
induce     mean refusal metric on harmless requests with the candidate added before block l
kl         mean KL(tuned || ablated) of the first token on harmless requests

Chosen is the lowest bypass among candidates with kl <= 0.1, induce >= 0 and l < 0.8 L. All candidates are scored on a
few prompts; the best go on to all prompts that are set aside for choosing. Many candidates share one pass (`rows`).
"""

from typing import Any, NamedTuple

import einops
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from replications.refusal_direction.chat import (
    Batch,
    ablating,
    first_token_kl,
    last_logits,
    refusal_metric,
    residuals,
)
from replications.refusal_direction.filters import DEPTH, ranked


class Chosen(NamedTuple):
    """The chosen candidate and the scores of all."""

    position: int
    layer: int
    scores: pd.DataFrame


def difference(
    positive: Float[Tensor, "prompt *rest"], negative: Float[Tensor, "other *rest"]
) -> Float[Tensor, "*rest"]:
    """Difference of means in float64."""
    return positive.double().mean(0) - negative.double().mean(0)


def ablation_scores(
    model: Any,
    harmful: Batch,
    harmless: Batch,
    directions: Float[Tensor, "candidate d_model"],
    tokens: Int[Tensor, " token"],
    rows: int,
) -> tuple[Float[Tensor, "candidate prompt"], Float[Tensor, "..."]]:
    """Refusal metric on harmful prompts and KL [candidate other] on harmless ones, each candidate ablated. Candidates
    share passes. Without harmless prompts the second is empty."""
    both = joined(harmful, harmless) if len(harmless) else harmful
    base = last_logits(model, harmless) if len(harmless) else torch.empty(0, device=harmful.ids.device)
    at_once = max(1, rows // len(both))
    metrics, kls = [], []
    for some in torch.split(directions, at_once):
        with ablating(model, einops.repeat(some, "c d -> (c p) d", p=len(both))):
            logits = last_logits(model, both.repeat(len(some)))
        logits = einops.rearrange(logits, "(c p) v -> c p v", c=len(some))
        metrics.append(refusal_metric(logits[:, : len(harmful)], tokens))
        if len(harmless):
            kls.append(first_token_kl(base.expand(len(some), -1, -1), logits[:, len(harmful) :]))
    return torch.cat(metrics), torch.cat(kls or [base])


def addition_scores(
    model: Any,
    harmless: Batch,
    vectors: Float[Tensor, "candidate d_model"],
    at: Int[Tensor, " candidate"],
    tokens: Int[Tensor, " token"],
    rows: int,
) -> Float[Tensor, "candidate prompt"]:
    """Refusal metric on harmless prompts, each vector added before its own block; the blocks below run once for all."""
    before = residuals(model, harmless)
    found = torch.empty(len(vectors), len(harmless), dtype=torch.float64, device=vectors.device)
    at_once = max(1, rows // len(harmless))
    for layer in sorted(set(at.tolist())):
        for some in torch.split(torch.nonzero(at == layer)[:, 0], at_once):
            x = before[None, :, :, layer] + vectors[some].to(before.dtype)[:, None, None]
            logits = last_logits(
                model, harmless.repeat(len(some)), resume=(layer, einops.rearrange(x, "c p s d -> (c p) s d"))
            )
            found[some] = refusal_metric(einops.rearrange(logits, "(c p) v -> c p v", c=len(some)), tokens)
    return found


def search(
    model: Any,
    differences: Float[Tensor, "pos layer d_model"],
    harmful: Batch,
    harmless: Batch,
    tokens: Int[Tensor, " token"],
    *,
    grid_prompts: int,
    finalists: int,
    rows: int,
    layer_step: int = 1,
) -> Chosen:
    """Scores every candidate below the depth limit and chooses."""
    depth = int(DEPTH * differences.shape[1])
    every = [(pos, layer) for pos in range(len(differences)) for layer in range(0, depth, layer_step)]
    places = [place for place in every if float(differences[place].norm()) > 0]  # template tokens start out alike
    grid = pd.DataFrame(places, columns=["position", "layer"]).assign(stage="grid")
    grid["norm"] = [float(differences[place].norm()) for place in places]

    def scored(table: pd.DataFrame, count: int) -> pd.DataFrame:
        where = torch.tensor(table[["position", "layer"]].to_numpy())
        vectors = differences[where[:, 0], where[:, 1]].float()
        bypass, kl = ablation_scores(model, harmful[:count], harmless[:count], vectors, tokens, rows)
        induce = addition_scores(model, harmless[:count], vectors, where[:, 1], tokens, rows)
        return table.assign(bypass=bypass.mean(1).tolist(), kl=kl.mean(1).tolist(), induce=induce.mean(1).tolist())

    grid = scored(grid, grid_prompts)
    best = ranked(grid).head(finalists)
    final = ranked(scored(best.assign(stage="final"), len(harmful)))
    chosen = final.iloc[0]
    return Chosen(int(chosen["position"]), int(chosen["layer"]), pd.concat([grid, final], ignore_index=True))


def joined(first: Batch, second: Batch) -> Batch:
    """Two batches as one, padded on the left to one length."""
    length = max(first.ids.shape[1], second.ids.shape[1])
    ids, mask = (
        torch.cat([torch.nn.functional.pad(x, (length - x.shape[1], 0)) for x in pair])
        for pair in ((first.ids, second.ids), (first.mask, second.mask))
    )
    return Batch(ids, mask)
