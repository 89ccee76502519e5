"""What happens as the added vector grows: dose-response, fluency, and where texts fall apart."""

import numpy as np
import pandas as pd

from common.core.metrics import Metric
from common.core.statistics import over_clusters, without_interval
from replications.feature_steering.choice import collapse, fluency
from replications.feature_steering.evidence import Table, deviates, over_concepts, slopes
from replications.feature_steering.settings import (
    CHOOSING,
    CHOSEN,
    CURVES,
    INSTRUCTION,
    NULL_OF,
    PROMPTED,
    RANDOM,
    SCORING,
    Fluency,
)

Arms = dict[str, tuple[str, float]]
MEASURES = {
    "gain": (0.0, "1", "score of the concept by the probe, steered minus unsteered text"),
    "gain_lexicon": (0.0, "share", "share of the concept's lexicon among the tokens, steered minus unsteered text"),
    "specific": (0.5, "share", "share of other concepts whose probe score gains less than the concept's"),
}
"""Column: value of a text that is left alone, unit, formula."""


def table(own: pd.DataFrame, column: str, concepts: int, seeds: list[int], absent: float) -> Table:
    """Mean of a column for each concept and seed; `absent` where a dial was left alone."""
    means = own.groupby(["concept", "seed"])[column].mean().to_dict()
    return np.array([[means.get((concept, seed), absent) for seed in seeds] for concept in range(concepts)])


def at_length(scored: pd.DataFrame, dial: str, length: float, column: str, concepts: int, seeds: list[int]) -> Table:
    """Mean of a measure over a dial's texts at one length, for each concept and seed."""
    rows = scored[(scored["dial"] == dial) & (scored["multiplier"] == length)]
    return table(rows, column, concepts, seeds, MEASURES[column][0])


def dose_response(
    scored: pd.DataFrame, concepts: int, seeds: list[int], doses: list[float], packages: list[str]
) -> dict[str, Metric]:
    """Slopes over the length of the vector, of dials minus a random direction; `_rise`: without the length 0."""
    gains = {
        dial: np.stack([at_length(scored, dial, dose, "gain", concepts, seeds) for dose in doses], -1)
        for dial in CURVES
    }
    found, fitted = {}, {}
    formula = f"least-squares slope over length, 0 included, of the gain minus that of a {RANDOM} on the same streams"
    for dial in CURVES:
        if dial == RANDOM:
            continue
        apart = gains[dial] - gains[RANDOM]
        from_zero = np.concatenate([np.zeros_like(apart[..., :1]), apart], -1)
        fitted[dial] = slopes(from_zero, [0.0, *doses])
        found[f"{dial}_dose_slope"] = over_concepts(fitted[dial], "1", formula)
        found |= deviates(f"{dial}_dose", fitted[dial], packages, formula)
        found |= deviates(f"{dial}_rise", slopes(apart, doses), packages, formula.replace("0 included", "0 left out"))
    for dial, null in NULL_OF.items():
        difference = fitted[dial] - fitted[null]
        found[f"{dial}_dose_slope_minus_{null}"] = over_concepts(difference, "1", f"{formula}; minus {null}")
    return found


def falling_apart(own: pd.DataFrame, limits: Fluency) -> dict[str, Metric]:
    """Where texts fall apart (0: nowhere tried), and the gain at the length of the highest gain and at the longest."""
    found: dict[str, Metric] = {}
    for dial in CHOSEN:
        rows = own[(own["dial"] == dial) & own["part"].isin(PROMPTED)]
        first, means = collapse(own, dial, limits), rows.groupby("multiplier")["gain"].mean()
        peak = float(means.index[int(means.argmax())])
        said = "length of the added vector over the mean norm of the residual stream"
        collapsed = 0.0 if np.isinf(first) else first
        found[f"{dial}_collapse"] = without_interval(
            collapsed, len(means), "1", f"{said} at which texts fall apart; 0: at none"
        )
        found[f"{dial}_peak"] = without_interval(peak, len(means), "1", f"{said} with the highest mean gain")
        for name, length in (("peak", peak), ("longest", float(means.index.max()))):
            part = rows[rows["multiplier"] == length]
            found[f"{dial}_gain_at_{name}"] = over_clusters(
                part["gain"].to_numpy(), part["concept"].to_numpy(), unit="1", formula=MEASURES["gain"][2]
            )
    return found


def perplexities(own: pd.DataFrame, arms: Arms, best: dict[str, float]) -> dict[str, Metric]:
    """Perplexity ratios of all arms, `tried_` on the choosing prompts, and the chosen lengths (0: none)."""
    found: dict[str, Metric] = {}
    levels = [(arm, SCORING, *source) for arm, source in arms.items()]
    levels += [(f"tried_{dial}", CHOOSING, dial, best[dial]) for dial in CHOSEN]
    for name, part, dial, length in levels:
        rows = own[(own["part"] == part) & (own["dial"] == dial) & (own["multiplier"] == length)]
        added = np.zeros(2) if rows.empty else rows["nats_added"].to_numpy()
        concept = np.arange(2) if rows.empty else rows["concept"].to_numpy()
        nats = over_clusters(added, concept, unit="nats", formula="nats per token, steered minus unsteered")
        low, value, high = (float(np.exp(one)) for one in (nats.ci_low, nats.value, nats.ci_high))
        found[f"{name}_perplexity"] = Metric(
            value=value, ci_low=low, ci_high=high, n=nats.n, unit="1", formula="perplexity, times unsteered"
        )
    formula = "length of the added vector over the mean norm of the residual stream, chosen"
    return found | {f"fluent_{dial}_length": without_interval(best[dial], 1, "1", formula) for dial in CHOSEN}


def dose_table(own: pd.DataFrame, limits: Fluency) -> pd.DataFrame:
    """All prompts: gain with interval, perplexity and distinct ratio of each dial and length; the limits beside."""
    rows = own[own["part"].isin(PROMPTED) & own["dial"].isin(CURVES)]
    groups = [
        (dial, level, rows[(rows["dial"] == dial) & (rows["multiplier"] == level)])
        for dial in CURVES
        for level in sorted(rows[rows["dial"] == dial]["multiplier"].unique())
    ]
    low, high = limits.perplexity
    bounds = {"fluent_from": low, "fluent_to": high, "distinct_from": limits.distinct}
    lines = []
    for dial, level, group in [*groups, (INSTRUCTION, 0.0, own[own["dial"] == INSTRUCTION])]:
        perplexity, distinct = fluency(group)
        line = {"dial": dial, "multiplier": level, "perplexity": perplexity, "distinct": distinct, **bounds}
        for column in MEASURES:
            found = over_clusters(group[column].to_numpy(), group["concept"].to_numpy(), unit="1", formula=column)
            line |= {column: found.value, f"{column}_low": found.ci_low, f"{column}_high": found.ci_high}
        lines.append({**line, "collapse": collapse(own, dial, limits)})
    return pd.DataFrame(lines).replace(float("inf"), np.nan)
