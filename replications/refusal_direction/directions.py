"""The direction of one refusing model and its controls: activations, differences of means, choice (`search`)."""

from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.core.errors import UserError
from replications.refusal_direction.chat import (
    Batch,
    chat_batch,
    last_logits,
    n_post_instruction,
    refusal_metric,
    residuals,
    residuals_and_logits,
    unit,
)
from replications.refusal_direction.lists import Line, Prompts
from replications.refusal_direction.search import difference, search
from replications.refusal_direction.settings import SearchSettings

SPLITS = 10  # random halves
SMALL = 2  # requests per class and half in the small halves


class Subject(NamedTuple):
    """One seed's refusing model, the model before fine-tuning if it was fine-tuned here, its requests, the tokens by
    which refusal is scored, and the requests for estimation, which are read once: those that the model treats as it
    should (`kept`), and the residual stream at their template tokens (`seen`)."""

    tuned: Any
    before: Any | None
    tokenizer: PreTrainedTokenizerBase
    prompts: Prompts
    tokens: Int[Tensor, " token"]
    kept: dict[str, Batch]
    seen: dict[str, Float[Tensor, "prompt pos layer d_model"]]

    def batch(self, lines: list[Line]) -> Batch:
        """The requests in chat format."""
        return chat_batch(self.tokenizer, [line.text for line in lines], self.tuned.device.type)


class Directions(NamedTuple):
    """The direction with its layer, controls of equal norm, the first principal component, and what goes to disk."""

    r: Float[Tensor, " d_model"]
    layer: int
    controls: dict[str, Float[Tensor, "draw d_model"] | Float[Tensor, " d_model"]]
    component: Float[Tensor, " d_model"]
    differences: Float[Tensor, "pos layer d_model"]
    scores: pd.DataFrame
    numbers: dict[str, float]


def refusal_tokens(
    refused: Float[Tensor, "prompt d_vocab"],
    answered: Float[Tensor, "other d_vocab"],
    *,
    minimum: float = 0.01,
    ratio: float = 5.0,
    needed: bool = True,
) -> Int[Tensor, " token"]:
    """First tokens that mark refusal: mean probability at least `minimum` on requests to be refused, and `ratio` times
    that on harmless ones. UserError if there is none, unless `needed` is off: the model does not refuse."""
    on, off = refused.softmax(-1).mean(0), answered.softmax(-1).mean(0)
    tokens = torch.nonzero((on >= minimum) & (on >= ratio * off))[:, 0]
    if not len(tokens) and not needed:
        return (on - off).topk(1).indices
    if not len(tokens):
        raise UserError(
            "the model begins its answers to requests that it should refuse as it begins all others: it never refuses, "
            "so there is no refusal direction to find; choose a chat model that refuses, or, if fine-tuned here, train "
            "it longer (tune.epochs)"
        )
    return tokens


def subject_of(
    tuned: Any, before: Any | None, tokenizer: PreTrainedTokenizerBase, prompts: Prompts, minimum: int
) -> Subject:
    """Finds the refusal tokens and reads the requests for estimation. UserError if the model never refuses, or treats
    fewer than `minimum` of either class as it should; with 0 all are kept."""
    lines = {"on": prompts.switch.estimate, "off": prompts.harmless.estimate}
    batches = {
        key: chat_batch(tokenizer, [line.text for line in part], tuned.device.type) for key, part in lines.items()
    }
    n_post = n_post_instruction(tokenizer)
    read = {key: residuals_and_logits(tuned, batch, n_post) for key, batch in batches.items()}
    tokens = refusal_tokens(read["on"][1], read["off"][1], needed=minimum > 0)
    keep = {key: treated(refusal_metric(logits, tokens), key == "on", minimum) for key, (_, logits) in read.items()}
    return Subject(
        tuned, before, tokenizer, prompts, tokens,
        kept={key: batch[keep[key]] for key, batch in batches.items()},
        seen={key: stream[keep[key]] for key, (stream, _) in read.items()},
    )  # fmt: skip


def treated(metric: Float[Tensor, " line"], refused: bool, minimum: int) -> Bool[Tensor, " line"]:
    """Which requests the model treats as it should, by their refusal metric. `minimum` = 0 keeps all. UserError if
    fewer are left."""
    kept = (metric > 0) == refused
    if minimum == 0:
        return torch.ones_like(kept)
    if int(kept.sum()) < minimum:
        raise UserError(
            f"the model {'refuses' if refused else 'answers'} {int(kept.sum())} of {len(kept)} requests that it "
            f"should {'refuse' if refused else 'answer'}, and {minimum} are needed; choose another model, or, if "
            "fine-tuned here, train it longer (tune.epochs)"
        )
    return kept


def find(subject: Subject, settings: SearchSettings, random_draws: int, seed: int) -> Directions:
    """Estimates all candidates, chooses one, and makes the controls."""
    prompts, tuned = subject.prompts, subject.seen
    n_post = tuned["on"].shape[1]

    def to_choose(lines: list[Line], refused: bool) -> Batch:
        batch = subject.batch(lines)
        return batch[treated(refusal_metric(last_logits(subject.tuned, batch), subject.tokens), refused, minimum)]

    minimum = settings.minimum_left
    on, off = to_choose(prompts.switch.choose, True), to_choose(prompts.harmless.choose, False)
    differences = difference(tuned["on"], tuned["off"])
    chosen = search(subject.tuned, differences, on, off, subject.tokens, settings)
    position, layer = chosen.position, chosen.layer
    r = differences[position, layer]
    norm = float(r.norm())

    pooled = torch.cat([tuned["on"], tuned["off"]])
    order = torch.randperm(len(pooled), generator=torch.Generator().manual_seed(seed)).to(pooled.device)
    mixed = torch.split(pooled[order], [len(tuned["on"]), len(tuned["off"])])
    permuted = difference(*mixed)
    null = search(subject.tuned, permuted, on, off, subject.tokens, settings)

    def here(x: Tensor) -> Tensor:
        return x[:, position, layer].double()

    within = torch.cat([here(x) - here(x).mean(0) for x in tuned.values()])  # between the classes lies r itself
    controls = {
        "permuted": permuted[null.position, null.layer],
        "random": matched(within, random_draws, seed),
    }
    halves = {
        "halves": half_cosine(here(tuned["on"]), here(tuned["off"]), seed),
        "halves_small": half_cosine(here(tuned["on"]), here(tuned["off"]), seed, SMALL),
        "halves_permuted": half_cosine(here(mixed[0]), here(mixed[1]), seed),
        "halves_small_permuted": half_cosine(here(mixed[0]), here(mixed[1]), seed, SMALL),
    }
    if subject.before is not None:
        old = {key: residuals(subject.before, batch, n_post) for key, batch in subject.kept.items()}
        other = here(residuals(subject.tuned, subject.batch(prompts.other), n_post))
        controls["unrelated"] = difference(other, here(tuned["off"]))  # two topics of our own lists
        controls["earlier"] = difference(here(old["on"]), here(old["off"]))
        halves["earlier"] = float(F.cosine_similarity(r, controls["earlier"], dim=0))
    return Directions(
        r=r.float(),
        layer=layer,
        controls={name: (unit(vector) * norm).float() for name, vector in controls.items()},
        component=torch.linalg.svd(within, full_matrices=False).Vh[0].float(),
        differences=differences.float(),
        scores=pd.concat([chosen.scores.assign(labels="true"), null.scores.assign(labels="permuted")]),
        numbers={
            "position": position - n_post,
            "layer": layer,
            "norm": norm,
            "kept_on": len(tuned["on"]),
            "kept_off": len(tuned["off"]),
            **{f"cosine_{name}": value for name, value in halves.items()},
        },
    )


def matched(activations: Float[Tensor, "prompt d_model"], draws: int, seed: int) -> Float[Tensor, "draw d_model"]:
    """Random vectors with the covariance of the activations."""
    noise = torch.randn(draws, len(activations), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise.to(activations.device) @ (activations - activations.mean(0))


def half_cosine(
    on: Float[Tensor, "prompt d_model"], off: Float[Tensor, "other d_model"], seed: int, size: int | None = None
) -> float:
    """Mean cosine of the differences of means of two disjoint halves, over random splits. `size`: requests per class
    and half, all by default."""
    found = []
    for number in range(SPLITS):
        draws = torch.Generator().manual_seed(1000 * seed + number)
        halves = []
        for x in (on, off):
            order = torch.randperm(len(x), generator=draws).to(x.device)
            count = min(size or len(x), len(x) // 2)
            halves.append((x[order[:count]], x[order[count : 2 * count]]))
        first, second = (difference(halves[0][half], halves[1][half]) for half in (0, 1))
        found.append(float(F.cosine_similarity(first, second, dim=0)))
    return sum(found) / SPLITS
