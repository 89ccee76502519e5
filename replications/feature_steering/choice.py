"""Fluency, and the choice of a multiplier. Works on tables; no model is asked.

A row is compared with the mean over the unsteered texts of the same prompt. Perplexity ratio: exp of the mean
difference in nats per token; a low one is as suspicious as a high one, because repetition is easy to predict. Distinct
ratio: mean share of distinct bigrams over that of the unsteered texts.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from replications.feature_steering.settings import CHOOSING, DIALS, NO_DIAL, Fluency

PROMPT = ["part", "neutral"]


def compared(rows: pd.DataFrame, scores: dict[str, Float[np.ndarray, "row concept"]]) -> pd.DataFrame:
    """The written rows with what they gain over the unsteered texts of their prompt.

    Added columns: `gain` and `gain_lexicon` (the row's own concept), `specific` (share of the other concepts that gain
    less by the probe; one half for ties), `nats_added`, `distinct_unsteered`.
    """
    base = rows[rows["dial"] == NO_DIAL]
    own = rows[rows["dial"] != NO_DIAL].copy()
    prompts = base.groupby(PROMPT).ngroup().to_numpy()
    place = base.groupby(PROMPT).ngroup().groupby([base[key] for key in PROMPT]).first()
    there = place.loc[list(zip(own["part"], own["neutral"], strict=True))].to_numpy()

    def unsteered(values: np.ndarray) -> np.ndarray:
        return np.stack([values[base.index][prompts == one].mean(0) for one in range(len(place))])[there]

    here, concept = own.index.to_numpy(), own["concept"].to_numpy()
    order = np.arange(len(own))
    for name, column in (("probe", "gain"), ("lexicon", "gain_lexicon")):
        own[column] = (scores[name][here] - unsteered(scores[name]))[order, concept]
    gains = scores["probe"][here] - unsteered(scores["probe"])
    mine = gains[order, concept][:, None]
    below = (gains < mine).sum(1) + 0.5 * ((gains == mine).sum(1) - 1)
    own["specific"] = below / (gains.shape[1] - 1)
    own["nats_added"] = own["nats"].to_numpy() - unsteered(rows["nats"].to_numpy())
    own["distinct_unsteered"] = unsteered(rows["distinct"].to_numpy())
    return own


def fluency(own: pd.DataFrame) -> tuple[float, float]:
    """Perplexity ratio and distinct ratio of some compared rows."""
    return float(np.exp(own["nats_added"].mean())), float(own["distinct"].mean() / own["distinct_unsteered"].mean())


def is_fluent(own: pd.DataFrame, limits: Fluency) -> bool:
    """Whether some compared rows, taken together, stay within the limits."""
    perplexity, distinct = fluency(own)
    return limits.perplexity[0] <= perplexity <= limits.perplexity[1] and distinct >= limits.distinct


def choose_multipliers(own: pd.DataFrame, limits: Fluency) -> dict[str, float]:
    """Of each dial the fluent multiplier of highest mean gain on the choosing rows; 0 if none is fluent and gains."""
    chosen = {}
    for dial in DIALS:
        rows = own[(own["dial"] == dial) & (own["part"] == CHOOSING)]
        best, chosen[dial] = 0.0, 0.0
        for multiplier, group in rows.groupby("multiplier"):
            if is_fluent(group, limits) and group["gain"].mean() > best:
                best, chosen[dial] = float(group["gain"].mean()), float(multiplier)  # type: ignore[arg-type]
    return chosen


def collapse(own: pd.DataFrame, dial: str, limits: Fluency) -> float:
    """The first multiplier at which a dial's texts fall apart on the choosing rows; infinite if they never do.

    They do when perplexity leaves the wider limit, or distinct bigrams fall below theirs.
    """
    rows = own[(own["dial"] == dial) & (own["part"] == CHOOSING)]
    for multiplier, group in rows.groupby("multiplier"):
        perplexity, distinct = fluency(group)
        if perplexity > limits.collapse or distinct < limits.distinct:
            return float(multiplier)  # type: ignore[arg-type]
    return float("inf")
