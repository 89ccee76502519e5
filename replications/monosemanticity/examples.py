"""Contexts in which some latents fire, for the figure: not the clearest latents, and not the strongest firings alone.

Latents are taken at fixed places in the order of their detection score, and of each one firing from every quarter of
its activations, because the strongest ones alone flatter a unit (Bricken et al. 2023 show quantiles too).
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from replications.monosemanticity.explain import QUARTERS, Explanations, explanation_text, quarters, visible
from replications.monosemanticity.units import Firings, Text

PLACES = (0.98, 0.9, 0.75, 0.5, 0.25, 0.1)  # in the order of detection scores
AROUND = 5  # tokens before the firing; fewer behind it
BEHIND = 3
WORDS = 5  # of an explanation


def contexts(
    firings: Firings,
    text: Text,
    found: Explanations,
    score: Float[np.ndarray, " unit"],
    words: list[str],
    windows: Int[np.ndarray, "window pos"],
) -> list[dict[str, Any]]:
    """One row per token of each context: text, and the unit's activation as a share of its largest on scored text."""
    order = np.argsort(score, kind="stable")
    rows: list[dict[str, Any]] = []
    for place in PLACES:
        unit = int(order[round(place * (len(order) - 1))])
        own = (firings.unit == unit) & text.scored[firings.place]
        at, value = firings.place[own], firings.value[own]
        level = dict(zip(at.tolist(), (value / value.max()).tolist(), strict=True))
        part = quarters(np.zeros(len(at), dtype=np.int64), value, 1)
        rng = np.random.default_rng(unit)
        for quarter in range(QUARTERS):
            if not (part == quarter).any():
                continue
            one = int(rng.choice(at[part == quarter]))
            window, pos = divmod(one, text.per_window)
            for offset in range(-AROUND, BEHIND + 1):
                inside = 0 <= pos + 1 + offset < windows.shape[1]
                token = int(windows[window, pos + 1 + offset]) if inside else -1
                fires = level.get(one + offset, 0.0) if 0 <= pos + offset < text.per_window else 0.0
                rows.append(
                    {
                        "place": place,
                        "unit": unit,
                        "detection": score[unit],
                        "explanation": explanation_text(found, unit, words, WORDS),
                        "quarter": quarter + 1,
                        "offset": offset,
                        "token": visible(words[token]) if token >= 0 else "",
                        "level": fires,
                    }
                )
    return rows
