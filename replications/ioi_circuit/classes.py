"""Naming heads by rule, and the scores behind the names (Wang et al. 2022, section 3, appendix H).

A rule combines a causal effect with what the head attends to and what it copies:

    name_mover      direct effect favours IO, attends from END to IO, copies the name there
    negative        direct effect opposes IO, attends from END to IO, suppresses the name there
    s_suppressing   direct effect favours IO, attends from END to S2, suppresses the name there
    s_copying       direct effect opposes IO, attends from END to S1 and S2, copies the name there
    end_reader      a direct effect, attends from END to END itself and not to the names
    s_inhibition    favours IO through the queries of the heads above, attends from END to S2
    induction       favours IO through values or keys at S2, attends from S2 to S1+1, and after a repeated random token
    duplicate       the same, attends from S2 to S1, and to the first copy of a repeated random token
    previous        favours IO through keys of induction heads at S1+1, attends one token back, also on random tokens
    unclassified    has such an effect, but meets no rule
    unstable        meets a rule, but not in 80 % of the resamples of the prompts

An effect counts when it is significant (prompt_statistics.py) and at least `minimum_percent` of the logit difference.
Attention contrasts and copying must be significant in their own family. Scores on random tokens must exceed the best of
all heads at a wrong offset.

Attention on IOI prompts, always as a contrast to where the head would attend if the class name were wrong:

    to_io       END: attention to IO minus that to S1 and S2 together
    to_s2       END: attention to S2 minus that to IO and S1 together
    to_s        END: attention to S1 and S2 together minus that to IO
    to_end      END: attention to END itself minus that to the three names
    duplicate   S2: attention to S1, minus the same on the ABC partner, where nothing is repeated
    induction   S2: attention to S1+1, minus the same on the ABC partner
    previous    S1+1: attention to S1, minus that to the token before S1

Copying: the residual stream at the name's position goes through the head's norm, W_V, W_O and the unembedding; the
score is the share of the other names that end below the one in question (ties count half), mapped from [0, 1] to
[-1, 1]. 0 is chance, 1 copies, -1 suppresses. Wang et al. count how often the name is among the five largest logits;
that saturates and is not 0 for random heads, so the rank is used. `copy_io` reads the name at IO, `copy_s` that at S2.
"""

from collections.abc import Callable
from typing import NamedTuple

import einops
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.interp.decoder import Cache, Decoder
from common.interp.head_scores import attention_to
from common.interp.partial_forward import at_position
from replications.ioi_circuit.batches import Batch, Place
from replications.ioi_circuit.nodes import STABLE
from replications.ioi_circuit.passes import Passes, PerHead
from replications.ioi_circuit.prompt_statistics import SignificantEffects, significant

CONTRASTS = ("to_io", "to_s2", "to_s", "to_end", "duplicate", "induction", "previous")
COPYING = ("copy_io", "copy_s")
WRONG_OFFSET = 7  # further back: the null of scores on random tokens
HeadClasses = dict[str, dict[int, str]]
"""Per receiver set, the class of every head with an effect; heads are numbered through all layers."""


class HeadScores(NamedTuple):
    """What the rules know of every head beside its effects."""

    contrasts: dict[str, SignificantEffects]
    copying: dict[str, SignificantEffects]
    random_tokens: dict[str, Float[np.ndarray, " head"]]
    """previous, duplicate and induction on repeated random tokens, and `<name>_null`"""
    attention: dict[str, PerHead]
    """`from>to` on each prompt"""

    def resampled(self, seed: int) -> "HeadScores":
        """The same rules on prompts drawn with replacement."""
        contrasts = {name: one.resampled(seed) for name, one in self.contrasts.items()}
        return HeadScores(
            contrasts, {name: one.resampled(seed) for name, one in self.copying.items()}, self.random_tokens, {}
        )


Rule = Callable[[list[SignificantEffects], HeadScores], dict[int, str]]
"""From the effects on one or two receiver sets to the class of every head with an effect."""


def stable_classes(
    rule: Rule, effects: list[SignificantEffects], scores: HeadScores, resamples: int
) -> tuple[dict[int, str], dict[int, float]]:
    """The classes by `rule`, and in which share of the resamples each head has its class; `unstable` below `STABLE`."""
    classes = rule(effects, scores)
    again = [rule([one.resampled(seed) for one in effects], scores.resampled(seed)) for seed in range(resamples)]
    shares = {head: float(np.mean([one.get(head) == kind for one in again])) for head, kind in classes.items()}
    kept = {
        head: kind if kind == "unclassified" or shares[head] >= STABLE else "unstable" for head, kind in classes.items()
    }
    return kept, shares


def head_scores(
    decoder: Decoder,
    passes: list[Passes],
    name_ids: Int[Tensor, " name"],
    random_tokens: dict[str, Float[np.ndarray, " head"]],
    draws: int,
) -> HeadScores:
    """All scores on the prompts of `passes`, partners ABC; `name_ids` are all names of the task."""

    def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}

    attends, abc = joined([one.attends for one in passes]), joined([one.partner_attends for one in passes])
    copied = joined([copying(decoder, one.clean, one.batch, name_ids) for one in passes])
    return HeadScores(
        {name: significant(values, draws) for name, values in contrasts(attends, abc).items()},
        {name: significant(values, draws) for name, values in copied.items()},
        random_tokens,
        attends,
    )


def contrasts(attends: dict[str, PerHead], abc: dict[str, PerHead]) -> dict[str, PerHead]:
    """The contrasts of the module's docstring."""
    io, s1, s2, end = (attends[f"end>{key}"] for key in ("io", "s1", "s2", "end"))
    return {
        "to_io": io - s1 - s2,
        "to_s2": s2 - io - s1,
        "to_s": s1 + s2 - io,
        "to_end": end - io - s1 - s2,
        "duplicate": attends["s2>s1"] - abc["s2>s1"],
        "induction": attends["s2>s1_next"] - abc["s2>s1_next"],
        "previous": attends["s1_next>s1"] - attends["s1_next>before"],
    }


def random_token_scores(decoder: Decoder, period: int, batch: int, seed: int) -> dict[str, Float[np.ndarray, " head"]]:
    """Attention of every head on random tokens repeated once, from the second copy.

    `previous`: one token back; `duplicate`: to the same token of the first copy; `induction`: to the token after it.
    `<name>_null` is the attention at the offset `WRONG_OFFSET` further back.
    """
    generator = torch.Generator().manual_seed(seed)
    size = decoder.bridge.cfg.d_vocab
    once = torch.randint(size // 50, size, (batch, period), generator=generator)
    tokens = torch.cat([once, once], 1).to(decoder.W_O[0].device)
    query = torch.arange(2 * period, device=tokens.device)[:, None]
    offset = query - query.T
    masks = {
        label: ((offset == back) & (query >= period)).expand(batch, -1, -1)
        for name, right in (("previous", 1), ("duplicate", period), ("induction", period - 1))
        for label, back in ((name, right), (f"{name}_null", right + WRONG_OFFSET))
    }
    scores: dict[str, list[Tensor]] = {}

    def keep(layer: int, pattern: Tensor) -> None:
        for label, mask in masks.items():
            scores.setdefault(label, []).append(attention_to(pattern, mask))

    decoder.forward(tokens, torch.ones_like(tokens, dtype=torch.bool), patterns=keep)
    return {name: torch.cat(values).double().cpu().numpy() for name, values in scores.items()}


def copying(decoder: Decoder, cache: Cache, batch: Batch, name_ids: Int[Tensor, " name"]) -> dict[str, PerHead]:
    """`copy_io` and `copy_s` of every head on every prompt."""
    unembed = decoder.bridge.W_U[:, name_ids]
    scores: dict[str, PerHead] = {}
    sides: tuple[tuple[str, Place, int], ...] = (("copy_io", "io", 0), ("copy_s", "s2", 1))
    for label, place, column in sides:
        right = batch.names[:, column, None] == name_ids
        by_layer = []
        for layer in range(decoder.n_layers):
            stream = at_position(cache.resid_pre[layer], batch.at(place))
            v = decoder.values(layer, decoder.norm(layer, 0, stream))
            moved = einops.repeat(v, "n kv d -> n (kv g) d", g=decoder.group)
            written = torch.einsum("nhd,hdm->nhm", moved, decoder.W_O[layer])
            logits = decoder.bridge.ln_final(written) @ unembed
            own = logits[right[:, None].expand_as(logits)].reshape(*logits.shape[:2], 1)
            equal = (logits == own).double().sum(-1) - 1  # but for the name itself
            below = ((logits < own).double().sum(-1) + equal / 2) / (len(name_ids) - 1)
            by_layer.append(2 * below.T - 1)
        scores[label] = torch.cat(by_layer).cpu().numpy()
    return scores


def direct_classes(effects: list[SignificantEffects], scores: HeadScores) -> dict[int, str]:
    """Heads with an effect on the final residual stream."""
    [direct] = effects
    classes = {}
    for head in np.flatnonzero(direct.sign):
        favours = direct.sign[head] < 0
        to_io = scores.contrasts["to_io"].sign[head] > 0
        to_s2 = scores.contrasts["to_s2"].sign[head] > 0
        if favours and to_io and scores.copying["copy_io"].sign[head] > 0:
            classes[int(head)] = "name_mover"
        elif not favours and to_io and scores.copying["copy_io"].sign[head] < 0:
            classes[int(head)] = "negative"
        elif favours and to_s2 and scores.copying["copy_s"].sign[head] < 0:
            classes[int(head)] = "s_suppressing"
        elif not favours and scores.contrasts["to_s"].sign[head] > 0 and scores.copying["copy_s"].sign[head] > 0:
            classes[int(head)] = "s_copying"
        elif scores.contrasts["to_end"].sign[head] > 0:
            classes[int(head)] = "end_reader"
        else:
            classes[int(head)] = "unclassified"
    return classes


def inhibition_classes(effects: list[SignificantEffects], scores: HeadScores) -> dict[int, str]:
    """Heads with an effect through the movers' queries."""
    [queries] = effects
    fits = (queries.sign < 0) & (scores.contrasts["to_s2"].sign > 0)
    return {int(head): "s_inhibition" if fits[head] else "unclassified" for head in np.flatnonzero(queries.sign)}


def s2_classes(effects: list[SignificantEffects], scores: HeadScores) -> dict[int, str]:
    """Heads with an effect through values or keys at S2."""
    classes = {}
    for head in np.flatnonzero(np.any([effect.sign != 0 for effect in effects], axis=0)):
        favours = any(effect.sign[head] < 0 for effect in effects)
        fits = {name: _fits(name, int(head), scores) for name in ("induction", "duplicate")}
        best = max(fits, key=lambda name: (fits[name], scores.contrasts[name].mean[head]))
        classes[int(head)] = best if favours and fits[best] else "unclassified"
    return classes


def previous_classes(effects: list[SignificantEffects], scores: HeadScores) -> dict[int, str]:
    """Heads with an effect through the induction heads' keys at S1+1."""
    [effect] = effects
    return {
        int(head): "previous" if effect.sign[head] < 0 and _fits("previous", int(head), scores) else "unclassified"
        for head in np.flatnonzero(effect.sign)
    }


def _fits(name: str, head: int, scores: HeadScores) -> bool:
    """Whether a head attends as its class says, on the prompts and on random tokens."""
    beyond_null = scores.random_tokens[name][head] > scores.random_tokens[f"{name}_null"].max()
    return bool(scores.contrasts[name].sign[head] > 0 and beyond_null)
