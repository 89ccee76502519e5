"""Path-patching sweeps: one receiver set after the other, each chosen by rule from what the one before found.

The order is that of Wang et al. (2022, section 3); formula `path_patch_w22` (common/interp/path_patching.py):

    logits               the final residual stream at END
    mover_queries        queries at END of the name movers and S-suppressing heads
    inhibition_values    values at S2 of the S-inhibition and S-suppressing heads
    inhibition_keys      their keys at S2
    induction_keys       keys at S1+1 of the induction heads

All heads are screened to first order on all prompts; those with the largest mean get the exact sweep, and only these
can count. The threshold is that of the whole family. Heads are named with ABC partners. Flipped roles (S2 <- IO) stand
beside it, exact for the heads that count, halved, since a flip moves a head from one role to the other.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from common.core.errors import UserError
from common.core.step import track
from common.interp.decoder import Decoder
from common.interp.partial_forward import at_position
from common.interp.path_patching import Receivers, first_order, kv_heads, path_patch
from replications.ioi_circuit.batches import Batch, Place
from replications.ioi_circuit.classes import (
    HeadClasses,
    HeadScores,
    Rule,
    direct_classes,
    inhibition_classes,
    previous_classes,
    s2_classes,
    stable_classes,
)
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.nodes import PLACE_OF_RECEIVER
from replications.ioi_circuit.passes import Passes
from replications.ioi_circuit.prompt_statistics import SignificantEffects, significant
from replications.ioi_circuit.residual import read_difference, read_names

NOBODY = Receivers("k", ())


class NothingToFollowError(UserError):
    """No head has an effect on the logits and attends to the names."""


class Rules(NamedTuple):
    """How heads come to count and to be named; see `settings.PathPatching`."""

    minimum: float
    draws: int
    screened: dict[Place, int]
    """how many heads get the exact sweep, by position of the receivers"""
    resamples: int


@dataclass
class Effects:
    """Effect of every head on the two name logits for each receiver set, and the prompts it was measured on."""

    values: dict[str, Float[np.ndarray, "head prompt two"]] = field(default_factory=dict)
    prompts: dict[str, list[Prompt]] = field(default_factory=dict)
    clean: dict[str, Float[np.ndarray, " prompt"]] = field(default_factory=dict)
    receivers: dict[str, Receivers | None] = field(default_factory=dict)
    significant: dict[str, SignificantEffects] = field(default_factory=dict)
    senders: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    """Heads that had the exact sweep; the others' values are 0"""
    estimate: dict[str, Float[np.ndarray, "head prompt"]] = field(default_factory=dict)
    """Change of the logit difference to first order, all heads"""
    stability: dict[str, dict[int, float]] = field(default_factory=dict)
    """Per receiver set: share of the resamples in which a head has its class"""

    def difference(self, name: str) -> Float[np.ndarray, "head prompt"]:
        """Change of logit(IO) - logit(S)."""
        change: np.ndarray = self.values[name][..., 0] - self.values[name][..., 1]
        return change

    def percent(self, name: str) -> Float[np.ndarray, "head prompt"]:
        """The same in percent of the mean clean logit difference."""
        change: np.ndarray = 100 * self.difference(name) / self.clean[name].mean()
        return change

    def mean_percent(self, name: str) -> Float[np.ndarray, " head"]:
        """Its mean over prompts; to first order where a head had no exact sweep."""
        exact, estimate = self.difference(name).mean(1), self.estimate[name].mean(1)
        mean: np.ndarray = 100 * np.where(exact == 0, estimate, exact) / self.clean[name].mean()
        return mean


def discover(
    decoder: Decoder, of_ends: list[Passes], of_inner: list[Passes], scores: HeadScores, rules: Rules
) -> tuple[Effects, HeadClasses]:
    """The five sweeps; returns effects and, per receiver set, the class of every head with an effect.

    Args:
        decoder: the model.
        of_ends: prompts of the receivers at END.
        of_inner: prompts of the receivers at S2 and S1+1.
        scores: what the rules know of the heads.
        rules: when a head counts.

    Raises:
        NothingToFollowError: no head has an effect on the logits.
    """
    effects, classes = Effects(), HeadClasses()

    def sweep(name: str, prompts: list[Passes]) -> SignificantEffects:
        receivers = receivers_of(name, classes, decoder)
        senders = screen(decoder, effects, name, prompts, receivers, rules.screened[PLACE_OF_RECEIVER[name]])
        add_sweep(decoder, effects, name, prompts, receivers, senders)
        family = 100 * effects.estimate[name] / effects.clean[name].mean()
        effects.significant[name] = significant(effects.percent(name), rules.draws, rules.minimum, family)
        return effects.significant[name]

    def named(name: str, rule: Rule, *swept: SignificantEffects) -> None:
        classes[name], effects.stability[name] = stable_classes(rule, list(swept), scores, rules.resamples)

    named("logits", direct_classes, sweep("logits", of_ends))
    named("mover_queries", inhibition_classes, sweep("mover_queries", of_ends))
    sides = [sweep(name, of_inner) for name in ("inhibition_values", "inhibition_keys")]
    named("inhibition_values", s2_classes, *sides)
    if receivers_of("induction_keys", classes, decoder) != NOBODY:
        named("induction_keys", previous_classes, sweep("induction_keys", of_inner))
    return effects, classes


def screen(
    decoder: Decoder, effects: Effects, name: str, prompts: list[Passes], receivers: Receivers | None, count: int
) -> set[tuple[int, int]]:
    """The `count` heads with the largest mean effect to first order; keeps the estimates in `effects`."""
    place = PLACE_OF_RECEIVER[name]
    parts = []
    for batch, cache, partner, *_ in prompts:

        def read(final: Float[torch.Tensor, "n d"], batch: Batch = batch) -> Float[torch.Tensor, " n"]:
            return read_difference(decoder.bridge, final, batch.names)

        change = first_order(decoder, cache, partner, batch.at(place), batch.at("end"), receivers, read)
        parts.append(change.double().cpu().numpy())
    values = np.concatenate(parts, 1)
    every = np.zeros((decoder.n_layers * decoder.n_heads, values.shape[1]))
    every[: len(values)] = values
    effects.estimate[name] = every
    largest = np.argsort(-np.abs(values.mean(1)), kind="stable")[:count]
    effects.senders[name] = {divmod(int(head), decoder.n_heads) for head in largest}
    return effects.senders[name]


def receivers_of(name: str, classes: HeadClasses, decoder: Decoder) -> Receivers | None:
    """The receiver set `name`, given the classes found in the sets before it. None stands for the logits, and `NOBODY`
    for the keys of induction heads where no head is one.

    Raises:
        NothingToFollowError: no head has an effect on the logits.
    """

    def of(receiver: str, *kinds: str) -> tuple[tuple[int, int], ...]:
        heads = [divmod(int(head), decoder.n_heads) for head, kind in classes[receiver].items() if kind in kinds]
        return tuple(heads)

    if name == "logits":
        return None
    movers = of("logits", "name_mover", "s_suppressing")
    if not movers:
        raise NothingToFollowError(
            "no head of this model both writes the names into the logits and looks at them, so there is no circuit to "
            "follow back; leave the model out or raise end_prompts"
        )
    if name == "mover_queries":
        return Receivers("q", movers)
    if name == "induction_keys":
        induction = of("inhibition_values", "induction")
        return Receivers("k", kv_heads(induction, decoder.group))
    s_heads = of("logits", "s_suppressing") + of("mover_queries", "s_inhibition")
    return Receivers("v" if name == "inhibition_values" else "k", kv_heads(s_heads or movers, decoder.group))


def sweep_flipped(decoder: Decoder, effects: Effects, prompts: list[Passes]) -> Effects:
    """The same receivers with flipped roles: the exact sweep of the heads that count, all others to first order."""
    flipped, shared = Effects(), [one.beside_flipped(decoder) for one in prompts]
    for name, receivers in effects.receivers.items():
        screen(decoder, flipped, name, shared, receivers, 0)
        counted = np.flatnonzero(effects.significant[name].sign)
        senders = {divmod(int(head), decoder.n_heads) for head in counted}
        add_sweep(decoder, flipped, name, shared, receivers, senders)
    return flipped


def name_difference(decoder: Decoder, one: Passes) -> Float[np.ndarray, " n"]:
    """logit(IO) - logit(S) of the clean pass."""
    final = at_position(one.clean.final, one.batch.at("end"))
    difference: np.ndarray = read_difference(decoder.bridge, final, one.batch.names).double().cpu().numpy()
    return difference


def add_sweep(
    decoder: Decoder,
    effects: Effects,
    name: str,
    prompts: list[Passes],
    receivers: Receivers | None,
    senders: Collection[tuple[int, int]] | None = None,
) -> None:
    """One receiver set; all heads as senders if None is given."""
    below = decoder.n_layers if receivers is None else receivers.layers[-1]
    every = np.ndindex(below, decoder.n_heads)
    rows = [layer * decoder.n_heads + head for layer, head in every if senders is None or (layer, head) in senders]
    place = PLACE_OF_RECEIVER[name]
    started = time.perf_counter()
    parts, cleans = [], []
    for batch, cache, partner, *_ in track(prompts, name):
        patched = path_patch(decoder, cache, partner, batch.at(place), batch.at("end"), receivers, senders)
        clean = name_logits(decoder, at_position(cache.final, batch.at("end"))[None], batch)
        change = name_logits(decoder, patched, batch) - clean
        full = np.zeros((decoder.n_layers * decoder.n_heads, *change.shape[1:]))
        full[rows] = change
        parts.append(full)
        cleans.append(clean[0, :, 0] - clean[0, :, 1])
    effects.values[name] = np.concatenate(parts, 1)
    effects.clean[name] = np.concatenate(cleans)
    effects.prompts[name] = [row for batch, *_ in prompts for row in batch.prompts]
    effects.receivers[name] = receivers
    shown = [f"{layer}.{head}" for layer, head in receivers.heads] if receivers else []
    print(f"{name}: {len(effects.prompts[name])} prompts, receivers {shown}, {time.perf_counter() - started:.0f} s")


def name_logits(
    decoder: Decoder, final: Float[torch.Tensor, "copy batch d"], batch: Batch
) -> Float[np.ndarray, "copy n two"]:
    """Logits of IO and S above the vocabulary mean."""
    logits = read_names(decoder.bridge, final.transpose(0, 1).contiguous(), batch.names).transpose(0, 1)
    numbers: np.ndarray = logits.double().cpu().numpy()
    return numbers
