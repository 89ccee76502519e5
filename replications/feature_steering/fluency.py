"""Gains and fluency of steered texts, and the choice of a length. Works on tables; no model is asked.

The rule was fixed beforehand and never sees a score of a concept: of each method the largest length whose texts on the
choosing prompts are fluent.

A row is compared with the mean over the unsteered texts of the same prompt. These share their random numbers with the
steered ones, one for one, so that a mean over all texts is a mean of paired differences. Perplexity ratio: exp of the
mean difference in nats per token; a low one is as suspicious as a high one, because repetition is easy to predict.
Distinct ratio: mean share of distinct bigrams over that of the unsteered texts.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from replications.feature_steering.settings import CHOOSING, CHOSEN, PROMPTED, UNSTEERED, Fluency

PROMPT = ["part", "neutral"]


class Unsteered:
    """Means over the unsteered texts of the prompt that a row continues. `rows` holds both kinds of rows."""

    def __init__(self, rows: pd.DataFrame) -> None:
        base = rows[rows["method"] == UNSTEERED]
        groups = base.groupby(PROMPT)
        self.base, self.of_row, self.count = base.index, groups.ngroup().to_numpy(), groups.ngroups
        self.place = groups.ngroup().groupby([base[key] for key in PROMPT]).first()

    def beside(self, own: pd.DataFrame, values: np.ndarray) -> np.ndarray:
        """For each of the steered rows `own` the mean of `values`, which has a place for every row."""
        means = np.stack([values[self.base][self.of_row == one].mean(0) for one in range(self.count)])
        return means[self.place.loc[list(zip(own["part"], own["neutral"], strict=True))].to_numpy()]


def read_alike(rows: pd.DataFrame) -> pd.DataFrame:
    """The steered rows with how fluent they are. Added columns: `nats_added`, `distinct_unsteered`."""
    own, unsteered = rows[rows["method"] != UNSTEERED].copy(), Unsteered(rows)
    own["nats_added"] = own["nats"].to_numpy() - unsteered.beside(own, rows["nats"].to_numpy())
    own["distinct_unsteered"] = unsteered.beside(own, rows["distinct"].to_numpy())
    return own


def compared(rows: pd.DataFrame, scores: dict[str, Float[np.ndarray, "row concept"]]) -> pd.DataFrame:
    """The steered rows with what they gain over the unsteered texts of their prompt, and how fluent they are.

    Added columns beside those of `read_alike`: `gain` and `gain_lexicon` (the row's own concept), `specific` (share of
    the other concepts that gain less by the probe; one half for ties).
    """
    own, unsteered = read_alike(rows), Unsteered(rows)
    here, concept, order = own.index.to_numpy(), own["concept"].to_numpy(), np.arange(len(own))
    gains = {name: scores[name][here] - unsteered.beside(own, scores[name]) for name in ("probe", "lexicon")}
    own["gain"], own["gain_lexicon"] = (gains[name][order, concept] for name in ("probe", "lexicon"))
    mine = own["gain"].to_numpy()[:, None]
    below = (gains["probe"] < mine).sum(1) + 0.5 * ((gains["probe"] == mine).sum(1) - 1)
    own["specific"] = below / (gains["probe"].shape[1] - 1)
    return own


def fluency(own: pd.DataFrame) -> tuple[float, float]:
    """Perplexity ratio and distinct ratio of some compared rows."""
    return float(np.exp(own["nats_added"].mean())), float(own["distinct"].mean() / own["distinct_unsteered"].mean())


def is_fluent(own: pd.DataFrame, limits: Fluency) -> bool:
    """Whether some compared rows, taken together, stay within the limits."""
    perplexity, distinct = fluency(own)
    return limits.perplexity[0] <= perplexity <= limits.perplexity[1] and distinct >= limits.distinct


def choose_lengths(own: pd.DataFrame, limits: Fluency) -> dict[str, float]:
    """Of each method of `CHOSEN` the largest length at which its choosing rows are fluent; 0 if there is none."""
    chosen = {}
    for method in CHOSEN:
        rows = own[(own["method"] == method) & (own["part"] == CHOOSING)]
        fluent = [float(length) for length, group in rows.groupby("multiplier") if is_fluent(group, limits)]  # type: ignore[arg-type]
        chosen[method] = max(fluent, default=0.0)
    return chosen


def collapse(own: pd.DataFrame, method: str, limits: Fluency) -> float:
    """The first length at which a method's texts, on neutral prompts, fall apart; infinite if they never do.

    They do when perplexity leaves the wider limit, or distinct bigrams fall below theirs.
    """
    rows = own[(own["method"] == method) & own["part"].isin(PROMPTED)]
    for length, group in rows.groupby("multiplier"):
        perplexity, distinct = fluency(group)
        if perplexity > limits.collapse or distinct < limits.distinct:
            return float(length)  # type: ignore[arg-type]
    return float("inf")
