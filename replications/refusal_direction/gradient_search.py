"""Directions that end refusal, found by gradient (refusal direction optimization, Wollschläger et al. 2025, arXiv
2502.17420).

One unit vector v is learned. With v ablated as r is (`chat.ablating`),

answer     cross-entropy, nats per token, of what the model says to requests to be refused with r ablated
retain     KL(tuned || ablated) of the first token on harmless requests, nats
keep       mean square of how far the residual stream moves along r, at r's token in all layers from r's on, in the mean
           distance of the class means there

and the loss is their sum, each with weight 1; the last term is for independent directions alone. `away`: vectors along
which v has nothing, since they are taken out after every step.

Deviations: no term for adding v, since nothing is claimed of that. The authors' code retains the last 30 positions of a
harmless request with its answer, and keeps the vector of least loss at falling rates. Here it is the first token and
the last step of Adam at one rate. The start is random. The refusal metric of the first token would cost less. But a
vector can ban the tokens that begin a refusal, and the model refuses in other words. What is said with r ablated stays
in memory.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.core.errors import UserError
from common.interp.module_hooks import reading
from replications.refusal_direction.chat import (
    Batch,
    ablating,
    answer_losses,
    answered,
    final_states,
    first_token_kl,
    going_on,
    greedy,
    last_logits,
    layers,
    unit,
)
from replications.refusal_direction.search import difference
from replications.refusal_direction.settings import GradientSettings

ROWS = 8  # requests of each class in one step


class Place(NamedTuple):
    """Where r is read: its direction of length 1, block, and token counted from the end of a request. Also where the
    class means lie along r from that block on."""

    r: Float[Tensor, " d_model"]
    layer: int
    position: int
    harmless: Float[Tensor, " layer"]
    harmful: Float[Tensor, " layer"]

    @property
    def distance(self) -> float:
        """Between the class means, mean over layers."""
        return float((self.harmful - self.harmless).mean())


class Lessons(NamedTuple):
    """What a direction is learned from: requests to be refused, each with an answer behind it, the answers' tokens and
    which of them count. Also where these requests lie along r, harmless requests, and the model's logits of their first
    token."""

    answered: Batch
    answers: Int[Tensor, "prompt step"]
    counts: Float[Tensor, "prompt step"]
    along: Float[Tensor, "prompt layer"]
    harmless: Batch
    tuned: Float[Tensor, "other d_vocab"]


def place_of(
    seen: dict[str, Float[Tensor, "_ pos layer d_model"]], layer: int, position: int
) -> tuple[Place, Float[Tensor, "prompt later"]]:
    """From the residual stream at the template tokens of requests to be refused (`on`) and harmless ones (`off`); and
    where the former lie along r."""
    here = {key: x[:, position].double() for key, x in seen.items()}
    r = unit(difference(here["on"][:, layer], here["off"][:, layer]))
    along = {key: (x[:, layer:] @ r).float() for key, x in here.items()}
    return Place(r.float(), layer, position, along["off"].mean(0), along["on"].mean(0)), along["on"]


def lessons_of(
    model: Any,
    on: Batch,
    off: Batch,
    r: Float[Tensor, " d_model"],
    along: Float[Tensor, "prompt layer"],
    answer_tokens: int,
    stop: int,
) -> Lessons:
    """Answers are greedy, with r ablated; tokens behind the first `stop` do not count."""
    with ablating(model, r):
        answers, _ = greedy(model, on, answer_tokens)
    tuned, counts = last_logits(model, off).clone(), going_on(answers, stop).float()
    return Lessons(answered(on, answers), answers.clone(), counts, along, off, tuned)


def learn(
    model: Any,
    lessons: Lessons,
    place: Place,
    settings: GradientSettings,
    draws: torch.Generator,
    *,
    away: Float[Tensor, "k d_model"],
    keep: bool = False,
) -> Float[Tensor, " d_model"]:
    """A direction of length 1 with nothing along the orthonormal rows of `away`. UserError if the loss is not
    finite."""
    v = without(torch.randn(len(place.r), generator=draws).to(place.r.device), away).requires_grad_()
    optimiser = torch.optim.Adam([v], lr=settings.learning_rate)
    orders = [_order(len(batch), settings.steps, draws) for batch in (lessons.answered, lessons.harmless)]
    for number, (on, off) in enumerate(zip(*orders, strict=True)):
        with torch.enable_grad():
            loss = loss_of(model, lessons, place, v, on, off, keep=keep)
            loss.backward()  # type: ignore[no-untyped-call]
        if not torch.isfinite(loss):
            raise UserError(f"the search left the finite numbers at step {number}: lower gradient.learning_rate")
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            v.copy_(without(v, away))
    return v.detach()


def loss_of(
    model: Any,
    lessons: Lessons,
    place: Place,
    v: Float[Tensor, " d_model"],
    on: Int[Tensor, " some"],
    off: Int[Tensor, " others"],
    *,
    keep: bool,
) -> Float[Tensor, ""]:
    """The loss on some of the requests of each class, differentiable in v."""
    answers, counts = lessons.answers[on], lessons.counts[on]
    with ablating(model, v):
        with reading(list(layers(model))[place.layer :]) as read:
            states = final_states(model, lessons.answered[on])
        each = answer_losses(model, states, answers)
        begun = model.lm_head(final_states(model, lessons.harmless[off])[:, -1]).float()
    kl = first_token_kl(lessons.tuned[off], begun)
    loss = (each * counts).sum() / counts.sum() + kl.mean()
    if keep:
        along = torch.stack([x[:, place.position - answers.shape[1]] for x in read], 1).float() @ place.r
        loss = loss + ((along - lessons.along[on]) / place.distance).square().mean()
    return loss


def without(v: Float[Tensor, "*n d_model"], rows: Float[Tensor, "k d_model"]) -> Float[Tensor, "*n d_model"]:
    """Length 1, and nothing along the orthonormal rows."""
    return unit(v - (v @ rows.mT) @ rows)


def _order(count: int, steps: int, draws: torch.Generator) -> list[Int[Tensor, " some"]]:
    """`ROWS` of the requests for every step; all of them before any again."""
    rounds = -(-steps * ROWS // count)
    order = torch.cat([torch.randperm(count, generator=draws) for _ in range(rounds)])
    return [order[at * ROWS : (at + 1) * ROWS] for at in range(steps)]
