"""Step: from rows to metrics. No model is asked; everything was measured on texts as the unsteered model reads them.

*Gain*: a text's score for its concept minus the mean over unsteered texts of the same prompt, where 0 is an average
document on other concepts and 1 an average document on the concept. Two comparisons on the scoring prompts: all dials
at the common multiplier (vectors of equal length), and some at the multiplier chosen for them on other prompts, the
fluent one of highest gain (`fluent_`; a dial for which none is fluent is left alone and gains 0). Dose-response comes
from all prompts. Intervals resample whole concepts; `per_seed` are means of the seeds, each with its own dictionary,
prompts, random numbers and nulls.
"""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from safetensors.numpy import load_file

from common.cli import run
from common.files import read_json
from common.records import Metric, write_metrics
from common.statistics import over_clusters
from common.tables import write_table
from replications.feature_steering.choice import collapse, compared, fluency
from replications.feature_steering.settings import (
    CHOOSING,
    CHOSEN,
    CURVES,
    DIALS,
    INSTRUCTION,
    LEARNED,
    NO_DIAL,
    NULLS,
    REMOVALS,
    REMOVING,
    SCORING,
    Fluency,
)

MARGINS = [
    ("random_latent", "random_direction"),
    ("permuted_means", "random_direction"),
    ("diff_means", "sae"),
    ("sae", "pca"),
    ("random_latent", "pca"),
    (INSTRUCTION, "sae"),
    ("random_latent", "sae"),
]
MEASURES = {
    "gain": (0.0, "1", "score of the concept by the probe, steered minus unsteered text"),
    "gain_lexicon": (0.0, "share", "share of the concept's lexicon among the tokens, steered minus unsteered text"),
    "specific": (0.5, "share", "share of other concepts whose probe score gains less than the concept's"),
}
"""Column: value of a text that is left alone, unit, formula."""
PROMPTED = (CHOOSING, SCORING)

Table = Float[np.ndarray, "concept seed"]


def measure(
    *,
    rows: Path,
    scores: Path,
    chosen: Path,
    detectors: Path,
    fluency: Fluency,
    equal: float,
    seeds: list[int],
    dials: Path,
    removal: Path,
    doses: Path,
    concepts: Path,
    specificity: Path,
) -> None:
    """Writes the metrics of both parts (`dials`, `removal`) and the tables behind the figures."""
    frame, found, best = pd.read_csv(rows), load_file(scores), read_json(chosen)
    own = compared(frame, found)
    names = frame[frame["concept"] >= 0].groupby("concept")["name"].first().tolist()
    scored = own[own["part"] == SCORING]
    level = {**dict.fromkeys(DIALS, equal), INSTRUCTION: 0.0}
    level |= {f"fluent_{dial}": best[dial] or -1.0 for dial in CHOSEN}
    tables = {
        (arm, column): table(
            scored[(scored["dial"] == arm.removeprefix("fluent_")) & (scored["multiplier"] == multiplier)],
            column, len(names), seeds, zero,
        )
        for arm, multiplier in level.items()
        for column, (zero, _, _) in MEASURES.items()
    }  # fmt: skip
    metrics = effects(tables) | margins(tables) | doses_of(own, len(names), seeds, fluency)
    metrics |= judging(pd.read_csv(detectors)) | perplexities(scored, best, equal)
    write_metrics(dials, metrics)
    write_metrics(removal, removals(own, len(names), seeds))
    write_table(doses, dose_table(own, fluency))
    gains = {arm: tables[arm, "gain"].mean(1) for arm in level}
    write_table(concepts, pd.DataFrame({"concept": names, **gains}))
    write_table(specificity, specificity_table(frame, found["probe"], own, names, equal))


def table(own: pd.DataFrame, column: str, concepts: int, seeds: list[int], absent: float) -> Table:
    """Mean of a column for each concept and seed; `absent` where a dial was left alone."""
    means = own.groupby(["concept", "seed"])[column].mean().to_dict()
    return np.array([[means.get((concept, seed), absent) for seed in seeds] for concept in range(concepts)])


def over_concepts(values: Table, unit: str, formula: str) -> Metric:
    """Mean with an interval over concepts, and the mean of each seed."""
    flat = values.ravel()
    clusters = np.repeat(np.arange(len(values)), values.shape[1])
    found = over_clusters(flat, clusters, unit=unit, formula=formula)
    return found.model_copy(update={"per_seed": [float(value) for value in values.mean(0)]})


def effects(tables: dict[tuple[str, str], Table]) -> dict[str, Metric]:
    """Every measure of every dial, and its distance from the nulls at the same kind of multiplier."""
    found = {}
    for dial, column in tables:
        _, unit, formula = MEASURES[column]
        found[f"{dial}_{column}"] = over_concepts(tables[dial, column], unit, formula)
        nulls = ["fluent_random_direction"] if dial.startswith("fluent_") else list(NULLS)
        for null in nulls:
            if dial not in (*NULLS, null):
                difference = tables[dial, column] - tables[null, column]
                found[f"{dial}_{column}_minus_{null}"] = over_concepts(difference, unit, f"{formula}; minus {null}")
    return found


def margins(tables: dict[tuple[str, str], Table]) -> dict[str, Metric]:
    """Gain of one dial minus that of another at the common length, on the same prompts and concepts."""
    return {
        f"{one}_gain_minus_{other}": over_concepts(
            tables[one, "gain"] - tables[other, "gain"], "1", f"{MEASURES['gain'][2]}; minus {other}"
        )
        for one, other in MARGINS
    }


def concordance(gains: Float[np.ndarray, "concept dose"]) -> Float[np.ndarray, " concept"]:
    """Kendall's tau between dose and gain for each concept: pairs in order minus pairs out of order, over pairs."""
    pairs = list(itertools.combinations(range(gains.shape[1]), 2))
    return np.asarray(np.mean([np.sign(gains[:, late] - gains[:, early]) for early, late in pairs], axis=0))


def doses_of(own: pd.DataFrame, concepts: int, seeds: list[int], limits: Fluency) -> dict[str, Metric]:
    """Whether the gain rises with the dose before the SAE latent's texts fall apart, for it and for others.

    No multiplier is chosen here, so the texts of both halves of the prompts count.
    """
    rows = own[own["part"].isin(PROMPTED) & own["dial"].isin(CURVES)]
    levels = np.array(sorted(rows["multiplier"].unique()))
    used = levels[levels < max(collapse(own, "sae", limits), levels[0] + 1e-9)]
    slopes, taus = {}, {}
    for dial in CURVES:
        own_rows = rows[rows["dial"] == dial]
        gains = np.stack(
            [table(own_rows[own_rows["multiplier"] == level], "gain", concepts, seeds, 0.0) for level in used], -1
        )
        slopes[dial] = gains @ used / (used @ used)
        curves = np.concatenate([np.zeros_like(gains[..., :1]), gains], -1)
        taus[dial] = np.stack([concordance(curves[:, place]) for place in range(len(seeds))], 1)
    upto = "up to the multiplier at which the SAE latent's texts fall apart"
    found: dict[str, Metric] = {}
    for name, series, formula in (
        ("slope", slopes, f"least-squares slope, through 0, of gain over multiplier, {upto}"),
        ("tau", taus, f"Kendall's tau between multiplier (0 included) and gain, {upto}"),
    ):
        found |= {f"{dial}_{name}": over_concepts(values, "1", formula) for dial, values in series.items()}
        for dial, null in itertools.product(*([one for one in group if one in CURVES] for group in (LEARNED, NULLS))):
            difference = over_concepts(series[dial] - series[null], "1", f"{formula}; minus {null}")
            found[f"{dial}_{name}_minus_{null}"] = difference
    return found


def judging(detectors: pd.DataFrame) -> dict[str, Metric]:
    """Whether the probe knows documents that it was not fitted to, and how well single latents do."""
    means = detectors.groupby("concept", sort=False)[["judge", "judge_permuted", "detection"]].mean()
    columns = {
        "judge_auroc": means["judge"],
        "judge_auroc_permuted": means["judge_permuted"],
        "judge_auroc_difference": means["judge"] - means["judge_permuted"],
        "detection_auroc": means["detection"],
    }
    formula = "AUROC of documents on the concept against documents on others"
    return {
        name: over_clusters(values.to_numpy(), np.arange(len(means)), unit="1", formula=formula)
        for name, values in columns.items()
    }


def perplexities(scored: pd.DataFrame, best: dict[str, float], equal: float) -> dict[str, Metric]:
    """Perplexity ratios at the common and at the chosen multipliers, and what was chosen (0: left alone)."""
    found: dict[str, Metric] = {}
    levels = [(dial, dial, equal) for dial in DIALS] + [(f"fluent_{dial}", dial, best[dial]) for dial in CHOSEN]
    for name, dial, multiplier in levels:
        rows = scored[(scored["dial"] == dial) & (scored["multiplier"] == multiplier)]
        added = np.zeros(2) if rows.empty else rows["nats_added"].to_numpy()
        concept = np.arange(2) if rows.empty else rows["concept"].to_numpy()
        nats = over_clusters(added, concept, unit="nats", formula="nats per token, steered minus unsteered")
        low, value, high = (float(np.exp(one)) for one in (nats.ci_low, nats.value, nats.ci_high))
        found[f"{name}_perplexity"] = Metric(
            value=value, ci_low=low, ci_high=high, n=nats.n, unit="1", formula="perplexity, times unsteered"
        )
    for dial in CHOSEN:
        found[f"fluent_{dial}_multiplier"] = Metric(
            value=best[dial], ci_low=best[dial], ci_high=best[dial], n=1, unit="1",
            formula="length of the added vector over the mean norm of the residual stream, chosen",
        )  # fmt: skip
    return found


def removals(own: pd.DataFrame, concepts: int, seeds: list[int]) -> dict[str, Metric]:
    """How far the concept's score falls in continuations of its own documents, by intervention."""
    rows, tables, found = own[own["part"] == REMOVING], {}, {}
    formula = "score of the concept in continuations of its documents, unsteered minus steered"
    for arm in REMOVALS:
        part = rows[rows["dial"] == arm]
        tables[arm] = -table(part, "gain", concepts, seeds, 0.0)
        found[f"{arm}_drop"] = over_concepts(tables[arm], "1", formula)
        ratio = fluency(part)[0]
        found[f"{arm}_perplexity"] = Metric(
            value=ratio, ci_low=ratio, ci_high=ratio, n=len(part), unit="1", formula="perplexity over unsteered"
        )
    for arm in REMOVALS:
        if arm != "clamp_random":
            difference = tables[arm] - tables["clamp_random"]
            found[f"{arm}_drop_minus_clamp_random"] = over_concepts(difference, "1", f"{formula}; minus clamp_random")
    return found


def dose_table(own: pd.DataFrame, limits: Fluency) -> pd.DataFrame:
    """All prompts: gain with interval, perplexity and distinct ratio of each dial and multiplier; the limits beside."""
    rows = own[own["part"].isin(PROMPTED) & own["dial"].isin(CURVES)]
    groups = [
        (dial, level, rows[(rows["dial"] == dial) & (rows["multiplier"] == level)])
        for dial in CURVES
        for level in sorted(rows["multiplier"].unique())
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


def specificity_table(
    frame: pd.DataFrame, probe: Float[np.ndarray, "row concept"], own: pd.DataFrame, names: list[str], equal: float
) -> pd.DataFrame:
    """Mean gain of every concept (columns) under the SAE latent of every concept (rows), at the common multiplier."""
    rows = own[(own["dial"] == "sae") & own["part"].isin(PROMPTED) & (own["multiplier"] == equal)]
    base = frame[(frame["dial"] == NO_DIAL) & frame["part"].isin(PROMPTED)]
    unsteered = pd.DataFrame(probe[base.index]).groupby(base["neutral"].to_numpy()).mean()
    gains = pd.DataFrame(probe[rows.index] - unsteered.loc[rows["neutral"]].to_numpy(), columns=names)
    return gains.groupby(rows["concept"].to_numpy()).mean().set_axis(names).rename_axis("steered").reset_index()


if __name__ == "__main__":
    run(measure)
