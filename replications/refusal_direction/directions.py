"""The direction of one refusing model, and the control directions that every effect faces.

random       vectors with the covariance of the activations within the classes, a new one for each group of requests
permuted     differences of means under permuted labels, chosen for each use (`nulls`)
other_topic  difference of means of requests about another topic (food; harm for a sham model) and harmless ones, r
             taken out of it
earlier      the difference of means in the model before fine-tuning, at the token and layer of r

All have the norm of r where they are added. Beside them stand pushes along two of them, at the KL of r.
"""

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
from replications.refusal_direction.nulls import Choosing, Push, best_push, least_subtraction, permuted
from replications.refusal_direction.search import (
    MAXIMUM_KL,
    Candidates,
    difference,
    grid,
    search,
)
from replications.refusal_direction.settings import EffectSettings, SearchSettings


class Subject(NamedTuple):
    """One seed's refusing model, the model before fine-tuning if it was fine-tuned here, its requests, and the tokens
    by which refusal is scored.

    The requests for estimation are read once: those that the model treats as it should (`kept`), and the residual
    stream at their template tokens (`seen`)."""

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


class Control(NamedTuple):
    """What takes the place of r: ablated, added before a block of its own, and, as `edited`, taken out of the weights.
    With `draw` rows, one for each group of requests."""

    ablated: Float[Tensor, "*draw d_model"]
    added: Float[Tensor, "*draw d_model"]
    layer: int
    edited: Float[Tensor, "*draw d_model"]


class Directions(NamedTuple):
    """The direction with its layer, the controls, and what goes to disk. `damage`, `cheapest` and `pushes` are those of
    `nulls`."""

    r: Float[Tensor, " d_model"]
    layer: int
    controls: dict[str, Control]
    damage: Float[Tensor, " d_model"]
    cheapest: Float[Tensor, " d_model"]
    pushes: dict[str, Push]
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


def find(subject: Subject, settings: SearchSettings, effects: EffectSettings, seed: int) -> Directions:
    """Estimates all candidates, chooses one, and makes the controls."""
    seen = subject.seen
    on, off = to_choose(subject, settings.minimum_left)
    choosing = Choosing(subject.tuned, on, off, subject.tokens, settings)
    differences = difference(seen["on"], seen["off"])
    table = search(subject.tuned, grid(differences, settings.layer_step), on, off, subject.tokens, settings)
    position, layer = (int(table.iloc[0][name]) for name in ("position", "layer"))
    r = differences[position, layer].float()
    norm = float(r.norm())

    def here(x: Tensor) -> Tensor:
        return x[:, position, layer].double()

    def long(vector: Tensor) -> Tensor:
        return (unit(vector) * norm).float()

    budget = max(MAXIMUM_KL, float(table.iloc[0]["kl"]))
    alone = Candidates(table.head(1), unit(r)[None, None])
    edited = choosing.ablated(alone, everywhere=True).iloc[0] if effects.weights else None
    null = permuted(
        choosing, (seen["on"][:, position], seen["off"][:, position]), {"position": position}, norm,
        (budget, None if edited is None else max(MAXIMUM_KL, float(edited["kl"]))), layer, seed,
    )  # fmt: skip
    within = torch.cat([here(x) - here(x).mean(0) for x in seen.values()])  # between the classes lies r itself
    random = long(matched(within, effects.random_draws, seed))
    controls = {
        "random": Control(random, random, layer, random),
        "permuted": Control(null.ablated, null.added.vector, null.added.layer, null.edited),
    }
    pushed = {"permuted_push": null.push}
    numbers: dict[str, float] = {"position": position - differences.shape[0], "layer": layer, "norm": norm}
    numbers |= {"kept_on": len(seen["on"]), "kept_off": len(seen["off"])}
    numbers["cosine_halves"] = half_cosine(here(seen["on"]), here(seen["off"]), seed)
    numbers["least_subtraction"] = least_subtraction(choosing, r, layer)
    numbers["cosine_permuted"] = abs(float(F.cosine_similarity(r, null.ablated, dim=0)))
    if subject.before is not None:
        other = here(residuals(subject.tuned, subject.batch(subject.prompts.other), len(differences)))
        topic = difference(other, here(seen["off"]))
        numbers["cosine_other_topic"] = float(F.cosine_similarity(r.double(), topic, dim=0))
        topic = topic - (topic @ unit(r.double())) * unit(r.double())
        old = {key: here(residuals(subject.before, batch, len(differences))) for key, batch in subject.kept.items()}
        earlier = difference(old["on"], old["off"])
        numbers["cosine_earlier"] = float(F.cosine_similarity(r.double(), earlier, dim=0))
        controls |= {
            name: Control(long(x), long(x), layer, long(x))
            for name, x in (("other_topic", topic), ("earlier", earlier))
        }
        pushed["earlier_push"] = best_push(choosing, Candidates(table.head(1), long(earlier)[None]), budget)
    return Directions(
        r=r, layer=layer, controls=controls, damage=null.damage, cheapest=null.cheapest, pushes=pushed,
        differences=differences.float(), numbers=numbers,
        scores=pd.concat([table.assign(labels="true"), null.scores.assign(labels="permuted")]),
    )  # fmt: skip


def to_choose(subject: Subject, minimum: int) -> tuple[Batch, Batch]:
    """Requests on which candidates are compared, to be refused and harmless, as far as the model treats them as it
    should."""

    def kept(lines: list[Line], refused: bool) -> Batch:
        batch = subject.batch(lines)
        return batch[treated(refusal_metric(last_logits(subject.tuned, batch), subject.tokens), refused, minimum)]

    return kept(subject.prompts.switch.choose, True), kept(subject.prompts.harmless.choose, False)


def matched(activations: Float[Tensor, "prompt d_model"], draws: int, seed: int) -> Float[Tensor, "draw d_model"]:
    """Random vectors with the covariance of the activations."""
    noise = torch.randn(draws, len(activations), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise.to(activations.device) @ (activations - activations.mean(0))


def half_cosine(
    on: Float[Tensor, "prompt d_model"], off: Float[Tensor, "other d_model"], seed: int, splits: int = 10
) -> float:
    """Mean cosine of the differences of means of two disjoint halves of the requests, over random splits."""
    found = []
    for number in range(splits):
        draws = torch.Generator().manual_seed(1000 * seed + number)
        halves = []
        for x in (on, off):
            order = torch.randperm(len(x), generator=draws).to(x.device)
            halves.append((x[order[: len(x) // 2]], x[order[len(x) // 2 : 2 * (len(x) // 2)]]))
        first, second = (difference(halves[0][half], halves[1][half]) for half in (0, 1))
        found.append(float(F.cosine_similarity(first, second, dim=0)))
    return sum(found) / splits
