"""What the guard, the attacks on it and their nulls do to every held-out request, on models that are loaded already.

Every condition is measured in the same way: what the latent reads of the edited activation at the last template token,
the refusal metric of the first token, and its KL to the same model without any edit. Some conditions are also answered,
a few tokens long, with the edit active at every step; answers are classified in memory and dropped.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from replications.refusal_direction.answers import LEAST, refusals
from replications.refusal_direction.chat import first_token_kl, refusal_metric
from replications.refusal_direction.guard import (
    Edit,
    Entered,
    Guard,
    Stream,
    answer_logits,
    optimised,
    random_shifts,
    removal,
    written,
)
from replications.refusal_direction.settings import GuardSettings

ANSWERED = 5  # draws of a null that are answered; all of them are read at the first token


class Judge(NamedTuple):
    """By what refusal is told: the refusal tokens of the refusing model, the latent's mean on harmful requests, in
    which what it reads is given, and the phrases."""

    tokens: Int[Tensor, " token"]
    mean: float
    tokenizer: PreTrainedTokenizerBase
    texts: Sequence[str]


class Conditions:
    """Rows of one model, request by request."""

    def __init__(self, model: Any, name: str, test: Entered, guard: Guard, judge: Judge) -> None:
        self.model, self.name, self.test, self.guard, self.judge = model, name, test, guard, judge
        self.free = answer_logits(model, test, test.x)
        self.rows: list[pd.DataFrame] = []

    def put(self, condition: str, x: Stream, later: Edit | None = None) -> None:
        """`x` in place of the activations at the template tokens; draws of a null one after the other. With `later`,
        what is done at the tokens after them, the request is answered too."""
        logits = answer_logits(self.model, self.test, x)
        draws = len(logits) if logits.ndim == 3 else 1
        metric = refusal_metric(logits, self.judge.tokens).flatten()
        columns = {
            "reads": (self.guard.reads(x) / self.judge.mean).flatten(),
            "metric": metric,
            "refused": (metric > 0).long(),
            "kl": first_token_kl(logits, self.free.expand_as(logits)).flatten(),
        }
        table = pd.DataFrame({name: value.tolist() for name, value in columns.items()})
        if later is not None:
            found = written(self.model, self.test, x[:ANSWERED] if x.ndim == 4 else x, later, LEAST)
            table["refused_by_phrase"] = pd.Series(refusals(self.judge.tokenizer, found, self.judge.texts))
        items = [item for _ in range(draws) for item in range(len(self.test.x))]
        self.rows.append(table.assign(model=self.name, condition=condition, item=items))

    def table(self) -> pd.DataFrame:
        """All rows."""
        return pd.concat(self.rows, ignore_index=True)


@torch.no_grad()
def attack(
    model: Any,
    guard: Guard,
    permuted: list[int],
    chosen: Entered,
    test: Entered,
    judge: Judge,
    r: Float[Tensor, " d_model"],
    settings: GuardSettings,
    seed: int,
) -> pd.DataFrame:
    """The model before fine-tuning: without the guard, with it or with the `permuted` latents held in its place, and
    attacked. The optimised shift is found on the requests `chosen`."""
    clean, guarded = test.x, guard.on(test.x)
    found = Conditions(model, "before", test, guard, judge)
    found.put("free", clean, lambda x: x)
    found.put("guarded", guarded, guard.on)
    others = [guard._replace(latent=latent) for latent in permuted]

    def each(x: Float[Tensor, "draw batch pos d_model"]) -> Float[Tensor, "draw batch pos d_model"]:
        return torch.stack([other.on(draw) for other, draw in zip(others, x, strict=False)])

    found.put("guarded: permuted", each(clean.expand(len(others), -1, -1, -1)), each)
    for multiple in settings.clamps:
        found.put(f"clamp {multiple:g}", guard._replace(value=multiple * judge.mean).on(clean))
    found.put("guarded, error dropped", guard.on(clean, keep_error=False))

    size = float((guarded - clean)[:, -1].norm(dim=-1).mean())
    removed = removal(guard, clean, r)
    _attacked(found, "removed", removed, lambda x: guard.on(x) + removal(guard, x, r), settings, seed)
    for bound in settings.bounds:
        with torch.enable_grad():
            shift = optimised(model, chosen, guard, bound=bound * size, steps=settings.attack_steps)
        later = _held(guard, shift[-1:])
        _attacked(found, f"optimised {bound:g}", shift.expand_as(clean), later, settings, seed)
    return found.table()


def _held(guard: Guard, shift: Float[Tensor, "*some pos d_model"]) -> Edit:
    """Guard and shift at a token behind the template: the shift of the last template token."""
    return lambda x: guard.on(x) + shift


def _attacked(
    found: Conditions,
    name: str,
    shift: Float[Tensor, "batch pos d_model"],
    later: Edit,
    settings: GuardSettings,
    seed: int,
) -> None:
    """One attack: whole, its parts, with the error dropped, and random shifts of its norm."""
    clean, guard = found.test.x, found.guard
    guarded, (latents, error) = guard.on(clean), guard.parts(clean, shift)
    found.put(name, guarded + shift, later)
    found.put(f"{name}: latents", guarded + latents)
    found.put(f"{name}: error", guarded + error)
    found.put(f"{name}, error dropped", guard.on(clean + shift, keep_error=False))
    random = random_shifts(guard, clean, shift, settings.random_draws, seed)
    found.put(f"{name}: random", guarded + random, _held(guard, random[:ANSWERED, :, -1:]))


@torch.no_grad()
def clamped_to_zero(model: Any, guard: Guard, permuted: list[int], test: Entered, judge: Judge) -> pd.DataFrame:
    """The refusing model with the latent clamped to zero, error kept, dropped, or computed again; and the `permuted`
    latents instead, one after the other."""
    x, off = test.x, guard._replace(value=0.0)
    edited = off.on(x, keep_error=False)
    found = Conditions(model, "tuned", test, guard, judge)
    found.put("free", x)
    found.put("zero, error kept", off.on(x))
    found.put("zero, error dropped", edited)
    found.put("zero, error recomputed", edited + (x - edited))
    found.put("reconstruction", guard.sae.reconstruct(x))
    found.put("zero: permuted", torch.stack([off._replace(latent=latent).on(x) for latent in permuted]))
    return found.table()
