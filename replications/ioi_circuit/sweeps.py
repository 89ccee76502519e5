"""Path-patching sweeps: one receiver set after the other, each chosen by rule from what the one before found.

The order is that of Wang et al. (2022, section 3); formula `path_patch_w22` (common/interp/path_patching.py):

    logits               the final residual stream at END
    mover_queries        queries at END of the name movers and S-suppressing heads
    inhibition_values    values at S2 of the S-inhibition and S-suppressing heads
    inhibition_keys      their keys at S2
    induction_keys       keys at S1+1 of the induction heads

Two more sets show who acts on where these heads attend; they name nobody and enter no choice:

    inhibition_queries   queries at END of the S-inhibition heads
    induction_queries    queries at S2 of the induction heads
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
from common.interp.decoder import Cache, Decoder
from common.interp.partial_forward import at_position
from common.interp.path_patching import Receivers, kv_heads, path_patch
from replications.ioi_circuit.batches import Batch, by_template, passes
from replications.ioi_circuit.classes import (
    HeadClasses,
    HeadScores,
    direct_classes,
    inhibition_classes,
    previous_classes,
    s2_classes,
)
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.nodes import FURTHER_RECEIVERS, PLACE_OF_RECEIVER
from replications.ioi_circuit.prompt_statistics import SignificantEffects, significant
from replications.ioi_circuit.residual import read_names

NOBODY = Receivers("k", ())


class Passes(NamedTuple):
    """Prompts of one template, so that windows have one length, with the passes over them and their ABC partners."""

    batch: Batch
    clean: Cache
    partner: Cache


def passes_by_template(decoder: Decoder, prompts: list[Prompt]) -> list[Passes]:
    """The passes that all receiver sets of these prompts share."""
    batches = [Batch(group, decoder.W_O[0].device.type) for group in by_template(prompts)]
    return [Passes(batch, *passes(decoder, batch)) for batch in batches]


@dataclass
class Effects:
    """Effect of every head on the two name logits for each receiver set, and the prompts it was measured on."""

    values: dict[str, Float[np.ndarray, "head prompt two"]] = field(default_factory=dict)
    prompts: dict[str, list[Prompt]] = field(default_factory=dict)
    clean: dict[str, Float[np.ndarray, " prompt"]] = field(default_factory=dict)
    receivers: dict[str, Receivers | None] = field(default_factory=dict)
    significant: dict[str, SignificantEffects] = field(default_factory=dict)

    def difference(self, name: str) -> Float[np.ndarray, "head prompt"]:
        """Change of logit(IO) - logit(S)."""
        change: np.ndarray = self.values[name][..., 0] - self.values[name][..., 1]
        return change

    def percent(self, name: str) -> Float[np.ndarray, "head prompt"]:
        """The same in percent of the mean clean logit difference."""
        change: np.ndarray = 100 * self.difference(name) / self.clean[name].mean()
        return change


def discover(
    decoder: Decoder, ends: list[Prompt], inner: list[Prompt], scores: HeadScores, minimum: float, draws: int
) -> tuple[Effects, HeadClasses]:
    """The five sweeps; returns effects and, per receiver set, the class of every head with an effect.

    Args:
        decoder: the model.
        ends: prompts of the receivers at END.
        inner: prompts of the receivers at S2 and S1+1.
        scores: what the rules know of the heads.
        minimum: smallest effect that counts, in percent.
        draws: of flipped roles.

    Raises:
        UserError: no head has an effect on the logits, so there is nothing to follow back.
    """
    effects, classes = Effects(), HeadClasses()
    of_ends = passes_by_template(decoder, ends)
    of_inner = of_ends if inner is ends else passes_by_template(decoder, inner)

    def sweep(name: str, prompts: list[Passes]) -> SignificantEffects:
        add_sweep(decoder, effects, name, prompts, receivers_of(name, classes, decoder))
        effects.significant[name] = significant(effects.percent(name), draws, minimum)
        return effects.significant[name]

    classes["logits"] = direct_classes(sweep("logits", of_ends), scores)
    classes["mover_queries"] = inhibition_classes(sweep("mover_queries", of_ends), scores)
    sides = [sweep(name, of_inner) for name in ("inhibition_values", "inhibition_keys")]
    classes["inhibition_values"] = s2_classes(sides, scores)
    if receivers_of("induction_keys", classes, decoder) != NOBODY:
        classes["induction_keys"] = previous_classes(sweep("induction_keys", of_inner), scores)
    return effects, classes


def receivers_of(name: str, classes: HeadClasses, decoder: Decoder) -> Receivers | None:
    """The receiver set `name`, given the classes found in the sets before it. None stands for the logits, and `NOBODY`
    for the keys of induction heads where no head is one.

    Raises:
        UserError: no head has an effect on the logits, so there is nothing to follow back.
    """

    def of(receiver: str, *kinds: str) -> tuple[tuple[int, int], ...]:
        heads = [divmod(int(head), decoder.n_heads) for head, kind in classes[receiver].items() if kind in kinds]
        return tuple(heads)

    if name == "logits":
        return None
    movers = of("logits", "name_mover", "s_suppressing")
    if not movers:
        raise UserError(
            "no head of this model both writes the names into the logits and looks at them, so there is no circuit to "
            "follow back; leave the model out or raise end_prompts"
        )
    if name == "mover_queries":
        return Receivers("q", movers)
    if name in FURTHER_RECEIVERS:
        kind, source = ("s_inhibition", "mover_queries") if "inhibition" in name else ("induction", "inhibition_values")
        heads = of(source, kind)
        return Receivers("q", heads) if heads else NOBODY
    if name == "induction_keys":
        induction = of("inhibition_values", "induction")
        return Receivers("k", kv_heads(induction, decoder.group))
    s_heads = of("logits", "s_suppressing") + of("mover_queries", "s_inhibition")
    return Receivers("v" if name == "inhibition_values" else "k", kv_heads(s_heads or movers, decoder.group))


def sweep_further(decoder: Decoder, classes: HeadClasses, ends: list[Prompt], inner: list[Prompt]) -> Effects:
    """The two further receiver sets, where there are such heads."""
    effects = Effects()
    for name, place in FURTHER_RECEIVERS.items():
        receivers = receivers_of(name, classes, decoder)
        if receivers != NOBODY:
            add_sweep(decoder, effects, name, passes_by_template(decoder, ends if place == "end" else inner), receivers)
    return effects


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
    place = (PLACE_OF_RECEIVER | FURTHER_RECEIVERS)[name]
    started = time.perf_counter()
    parts, cleans = [], []
    for batch, cache, partner in track(prompts, name):
        patched = path_patch(decoder, cache, partner, batch.at(place), batch.at("end"), receivers, senders)
        clean = name_logits(decoder, at_position(cache.final, batch.at("end"))[None], batch)
        change = name_logits(decoder, patched, batch) - clean
        full = np.zeros((decoder.n_layers * decoder.n_heads, *change.shape[1:]))
        full[rows] = change
        parts.append(full)
        cleans.append(clean[0, :, 0] - clean[0, :, 1])
    effects.values[name] = np.concatenate(parts, 1)
    effects.clean[name] = np.concatenate(cleans)
    effects.prompts[name] = [row for batch, _, _ in prompts for row in batch.prompts]
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
