"""What directions found by gradient are compared with: directions with nothing along r, found without a gradient.

random, other_topic, earlier  those of `directions`, r taken out
permuted                 differences of means under permuted labels, r taken out, then chosen as in `nulls`: of those
                         whose KL on harmless requests is at most that of r, or 0.1, the one of least bypass
layer_below, layer_above only of a check: the difference of means at another layer, r taken out, chosen likewise. It is
                         the same contrast as r, so it may well end refusal
unembedding              no control: what a model must write to begin a refusal. Without it a model is wrecked
                         (calibration seed 110: a KL of 17 nats)

All have length 1.
"""

from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from replications.refusal_direction.directions import Subject
from replications.refusal_direction.gradient_search import Place, without
from replications.refusal_direction.nulls import Choosing, affordable, leading
from replications.refusal_direction.search import DEPTH, MAXIMUM_KL, Candidates, balanced

BESIDE = ("random", "permuted", "other_topic", "earlier")
LAYERS, DAMAGE = ("layer_below", "layer_above"), "unembedding"


def compared(
    subject: Subject, stored: dict[str, Tensor], place: Place, choosing: Choosing, seed: int
) -> dict[str, Float[Tensor, "*draw d_model"]]:
    """All of the above. `stored`: what `study` left."""
    r, position = place.r[None], place.position
    found = {name: without(stored[name].float(), r) for name in ("random", "other_topic", "earlier")}
    found[DAMAGE] = without(unembedding(subject.tuned, subject.tokens), r)
    alone = choosing.ablated(Candidates(pd.DataFrame({"layer": [place.layer]}), place.r[None, None]))
    budget = max(MAXIMUM_KL, float(alone["kl"].iloc[0]))
    streams = subject.seen["on"][:, position], subject.seen["off"][:, position]
    step, depth = choosing.settings.permuted_step, int(DEPTH * streams[0].shape[1])
    searched = sorted({place.layer, *range(step, depth, step)})
    draws = torch.Generator().manual_seed(seed)
    drawn = [balanced(*streams, draws)[searched] for _ in range(choosing.settings.permutations)]
    found["permuted"] = least_bypass(choosing, without(torch.cat(drawn).float(), r), budget)
    others = without(stored["differences"][position].float(), r)
    for name, some in zip(LAYERS, (others[: place.layer], others[place.layer + 1 :]), strict=True):
        found[name] = least_bypass(choosing, some, budget)
    return found


def unembedding(model: Any, tokens: Int[Tensor, " token"]) -> Float[Tensor, " d_model"]:
    """Mean of the rows of the unembedding that belong to the refusal tokens, minus the mean of all. Each component is
    scaled as the last norm scales it."""
    rows = model.lm_head.weight.float()
    with torch.inference_mode():
        scale = model.model.norm(torch.ones_like(rows[0]))
    return (rows[tokens].mean(0) - rows.mean(0)) * scale.clone()  # type: ignore[no-any-return]


def least_bypass(
    choosing: Choosing, vectors: Float[Tensor, "candidate d_model"], budget: float
) -> Float[Tensor, " d_model"]:
    """Of those whose ablation costs at most `budget` the one of least bypass, first on a few requests, then on all."""
    table = pd.DataFrame({"layer": [0] * len(vectors)})  # nothing is added before a layer
    candidates = Candidates(table, vectors[:, None])
    few = choosing.ablated(candidates, choosing.settings.grid_prompts)
    best = leading((few[few["kl"] <= budget]["bypass"], few["kl"]), choosing.settings.null_finalists)
    return vectors[affordable(choosing.ablated(candidates.take(best)), budget)]
