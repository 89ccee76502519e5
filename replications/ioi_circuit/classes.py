"""Naming heads by rule. A rule combines a causal effect with what the head looks at and what it copies.

    name_mover      direct effect favours IO, looks from END at IO, copies the name there
    negative        direct effect opposes IO, looks from END at IO, suppresses the name there
    s_suppressing   direct effect favours IO, looks from END at S2, suppresses the name there
    s_inhibition    favours IO through the queries of the heads above, looks from END at S2
    induction       favours IO through values or keys at S2, looks from S2 at S1+1, and after a repeated random token
    duplicate       the same, looks from S2 at S1, and at the first copy of a repeated random token
    previous        favours IO through the keys of induction heads at S1+1, looks one token back, also on random tokens
    unclassified    has such an effect, but meets no rule

An effect counts when the mean over prompts is at least `minimum` percent of the logit difference and |t| exceeds the
threshold of the best of all heads with roles flipped prompt by prompt; attention contrasts and copying must exceed the
threshold of their own family, made in the same way. Scores on random tokens must exceed the best of all heads at a
wrong offset.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from replications.ioi_circuit.batches import family_threshold, t_values

Named = dict[str, dict[int, str]]
"""Per receiver set, the class of every head with an effect; heads are numbered through all layers."""


@dataclass(frozen=True)
class Signs:
    """For each head: mean over prompts, and whether it is beyond luck (sign kept: -1, 0 or 1)."""

    mean: Float[np.ndarray, " head"]
    sign: Float[np.ndarray, " head"]
    threshold: float


def signs(values: Float[np.ndarray, "head prompt"], draws: int, minimum: float = 0.0) -> Signs:
    """Which heads have a mean beyond the luck of the best of all heads, and of at least `minimum` in size."""
    threshold = family_threshold(values, draws)
    mean = values.mean(1)
    real = (np.abs(t_values(values)) > threshold) & (np.abs(mean) >= minimum)
    return Signs(mean, np.sign(mean) * real, threshold)


def direct_classes(direct: Signs, looks: dict[str, Signs], copies: dict[str, Signs]) -> dict[int, str]:
    """Heads with an effect on the final residual stream: mover, negative, S-suppressing or unclassified."""
    found = {}
    for head in np.flatnonzero(direct.sign):
        favours = direct.sign[head] < 0
        at_io = looks["to_io"].sign[head] > 0
        at_s2 = looks["to_s2"].sign[head] > 0
        if favours and at_io and copies["copy_io"].sign[head] > 0:
            found[int(head)] = "name_mover"
        elif not favours and at_io and copies["copy_io"].sign[head] < 0:
            found[int(head)] = "negative"
        elif favours and at_s2 and copies["copy_s"].sign[head] < 0:
            found[int(head)] = "s_suppressing"
        else:
            found[int(head)] = "unclassified"
    return found


def inhibition_classes(queries: Signs, looks: dict[str, Signs]) -> dict[int, str]:
    """Heads with an effect through the movers' queries."""
    hits = np.flatnonzero(queries.sign)
    return {
        int(h): "s_inhibition" if queries.sign[h] < 0 and looks["to_s2"].sign[h] > 0 else "unclassified" for h in hits
    }


def s2_classes(
    effects: list[Signs], looks: dict[str, Signs], repeated: dict[str, Float[np.ndarray, " head"]]
) -> dict[int, str]:
    """Heads with an effect through values or keys at S2."""
    found = {}
    for head in np.flatnonzero(np.any([effect.sign != 0 for effect in effects], axis=0)):
        favours = any(effect.sign[head] < 0 for effect in effects)
        fits = {
            name: looks[name].sign[head] > 0 and repeated[name][head] > repeated[f"{name}_null"].max()
            for name in ("induction", "duplicate")
        }
        best = max(fits, key=lambda name: (fits[name], looks[name].mean[head]))
        found[int(head)] = best if favours and fits[best] else "unclassified"
    return found


def previous_classes(
    effect: Signs, looks: dict[str, Signs], repeated: dict[str, Float[np.ndarray, " head"]]
) -> dict[int, str]:
    """Heads with an effect through the induction heads' keys at S1+1."""
    null = repeated["previous_null"].max()
    return {
        int(head): "previous"
        if effect.sign[head] < 0 and looks["previous"].sign[head] > 0 and repeated["previous"][head] > null
        else "unclassified"
        for head in np.flatnonzero(effect.sign)
    }
