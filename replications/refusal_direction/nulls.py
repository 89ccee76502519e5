"""The control directions that are chosen among many: permuted labels, and pushes along a direction other than r.

Each use has a choice of its own, by the score that decides the use, first on a few requests and then on all:

ablated      least bypass of those whose KL on harmless requests is at most that of r, or 0.1 if that is more
edited       the same where position 0 is ablated too, as weights do, at the KL that r has then
added        most induction
damage       least bypass at any KL
cheapest     least KL of those that end refusal (bypass < 0); `damage` where none does
push         added before one block instead of ablated, with the sign and the length that leave least refusal at a KL of
             at most that of r

A permutation is balanced, each half with as many requests of either class, so nothing of the classes is left.
"""

from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from replications.refusal_direction.chat import Batch, last_logits, refusal_metric, unit
from replications.refusal_direction.search import DEPTH, Candidates, balanced, score, score_pushes
from replications.refusal_direction.settings import SearchSettings

FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5)  # of the length that is expected to cost the KL of r
LONGEST = 4.0  # in norms of r; a candidate that costs nothing would have no bound
SHORTER = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)  # lengths at which r is subtracted, in its norms


class Choosing(NamedTuple):
    """The model and the requests on which candidates are compared."""

    model: Any
    on: Batch
    off: Batch
    tokens: Int[Tensor, " token"]
    settings: SearchSettings

    def ablated(self, candidates: Candidates, count: int | None = None, *, everywhere: bool = False) -> pd.DataFrame:
        """The table with the scores of `score`."""
        asked = (self.on, self.off, self.tokens, self.settings)
        return score(self.model, candidates, *asked, count, everywhere=everywhere)

    def pushed(self, candidates: Candidates, count: int | None = None) -> pd.DataFrame:
        """The table with the scores of `score_pushes`."""
        return score_pushes(self.model, candidates, self.on, self.off, self.tokens, self.settings, count)


class Push(NamedTuple):
    """A vector that is added before block `layer` to end refusal."""

    vector: Float[Tensor, " d_model"]
    layer: int


class Permuted(NamedTuple):
    """Of all candidates under permuted labels the best for every use, and the scores of the first search."""

    ablated: Float[Tensor, " d_model"]
    edited: Float[Tensor, " d_model"]
    added: Push
    damage: Float[Tensor, " d_model"]
    cheapest: Float[Tensor, " d_model"]
    push: Push
    scores: pd.DataFrame


def permuted(
    choosing: Choosing,
    streams: tuple[Float[Tensor, "prompt layer d_model"], Float[Tensor, "other layer d_model"]],
    labels: dict[str, int],
    norm: float,
    budgets: tuple[float, float | None],
    layer: int,
    seed: int,
) -> Permuted:
    """Makes and scores the candidates of all permutations, at several layers and at that of r, of the norm of r.

    Args:
        choosing: as for r.
        streams: residual stream before each block at the template token of r, requests to be refused first.
        labels: columns of the table that all candidates share.
        norm: of r.
        budgets: KL of r on harmless requests, ablated behind position 0 and at all positions; None: nothing is edited.
        layer: of r.
        seed: of the permutations.
    """
    settings, few = choosing.settings, choosing.settings.grid_prompts
    depth = int(DEPTH * streams[0].shape[1])
    layers = sorted({layer, *range(settings.permuted_step, depth, settings.permuted_step)})
    draws = torch.Generator().manual_seed(seed)
    drawn = torch.stack([balanced(*streams, draws)[layers] for _ in range(settings.permutations)])
    rows = [(number, at) for number in range(settings.permutations) for at in layers]
    table = pd.DataFrame(rows, columns=["permutation", "layer"]).assign(norm=norm, **labels)
    candidates = Candidates(table, (unit(drawn) * norm).flatten(0, 1).float())
    budget, edited_budget = budgets
    first = choosing.ablated(candidates, few)
    orders = (
        first[first["kl"] <= budget]["bypass"], first["kl"], -first["induce"], first["bypass"],
        first[first["bypass"] < 0]["kl"],
    )  # fmt: skip
    final = choosing.ablated(candidates.take(leading(orders, settings.null_finalists)))
    ablated, added, damage = affordable(final, budget), least(-final["induce"]), least(final["bypass"])
    ending = final[final["bypass"] < 0]["kl"]
    edited = ablated
    if edited_budget is not None:
        alone = candidates._replace(vectors=unit(candidates.vectors)[:, None])  # not added, only ablated
        some = choosing.ablated(alone, few, everywhere=True)
        best = (some[some["kl"] <= edited_budget]["bypass"], some["kl"], some["bypass"])
        again = candidates.take(leading(best, settings.null_finalists))
        again = again._replace(vectors=unit(again.vectors)[:, None])
        edited = affordable(choosing.ablated(again, everywhere=True), edited_budget)
    vectors = candidates.vectors
    return Permuted(
        ablated=vectors[ablated],
        edited=vectors[edited],
        added=Push(vectors[added], int(table["layer"][added])),
        damage=vectors[damage],
        cheapest=vectors[least(ending) if len(ending) else damage],
        push=best_push(choosing, candidates, budget),
        scores=pd.concat([final.assign(stage="final"), first.assign(stage="grid")]),
    )


def leading(orders: tuple[pd.Series, ...], count: int) -> list[int]:
    """The first `count` candidates of each order, the least first."""
    return sorted({row for order in orders for row in order.sort_values(kind="stable").index[:count].tolist()})


def least(values: pd.Series) -> int:
    """Index of the least value."""
    return int(values.index[int(values.to_numpy().argmin())])


def affordable(scored: pd.DataFrame, budget: float) -> int:
    """Index of the least bypass among those of KL at most `budget`; of the least KL where there is none."""
    cheap = scored[scored["kl"] <= budget]["bypass"]
    return least(cheap) if len(cheap) else least(scored["kl"])


def best_push(choosing: Choosing, candidates: Candidates, budget: float) -> Push:
    """The candidate or its opposite, at the length, that leaves least refusal at a KL of at most `budget`.

    Lengths come from a first pass on a few requests at the length of r. KL grows about as the square of the length, the
    refusal metric as the length. What is expected to leave least is measured on all requests at several lengths.
    """
    few = choosing.settings.grid_prompts
    table = pd.concat([candidates.table] * 2, ignore_index=True)
    both = Candidates(table, torch.cat([candidates.vectors, -candidates.vectors]))
    first = choosing.pushed(both, few)
    start = float(refusal_metric(last_logits(choosing.model, choosing.on[:few]), choosing.tokens).mean())
    lengths = (budget / first["kl"].clip(lower=1e-9)).pow(0.5).clip(upper=LONGEST)
    expected = start + lengths * (first["bypass"] - start)
    best = leading((expected,), choosing.settings.null_finalists)
    scaled = [(row, share * float(lengths[row])) for row in best for share in FRACTIONS]
    vectors = torch.stack([length * both.vectors[row] for row, length in scaled])
    rows = table.loc[[row for row, _ in scaled]].reset_index(drop=True)
    at = affordable(choosing.pushed(Candidates(rows, vectors)), budget)
    return Push(vectors[at], int(rows["layer"][at]))


def least_subtraction(choosing: Choosing, r: Float[Tensor, " d_model"], layer: int) -> float:
    """The shortest of the lengths `SHORTER`, in norms of r, at which r subtracted before its block ends refusal
    (bypass < 0); 1 where none does."""
    table = pd.DataFrame({"length": SHORTER}).assign(layer=layer)
    scored = choosing.pushed(Candidates(table, -r * torch.tensor(SHORTER, device=r.device)[:, None]))
    return float(scored[scored["bypass"] < 0]["length"].min()) if (scored["bypass"] < 0).any() else 1.0
