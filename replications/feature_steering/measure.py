"""Step: from rows to metrics. No model is asked; everything was measured on texts as the unsteered model reads them.

*Gain*: a text's score for its concept minus the mean over unsteered texts of the same prompt, in standard deviations of
documents on other concepts. On the scoring prompts all dials are compared at one length, dials and their nulls at
every dose, and the dials of `CHOSEN` at the largest length that was fluent on the choosing prompts (`fluent_`; a dial
without one is left alone and gains 0), beside a random direction and the dial's own null of that same length
(`<null>_as_<dial>`). Intervals resample whole concepts; `per_seed` are means of the seeds, each with its own
dictionary, prompts, random numbers and nulls.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from safetensors.numpy import load_file

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_clusters, without_interval
from common.core.step import run
from common.core.tables import write_table
from replications.feature_steering.choice import choose_lengths, compared, fluency
from replications.feature_steering.evidence import Table, deviate, deviates, over_concepts, wins
from replications.feature_steering.lengths import (
    MEASURES,
    Arms,
    at_length,
    dose_response,
    dose_table,
    falling_apart,
    perplexities,
    table,
)
from replications.feature_steering.settings import (
    CHOSEN,
    DIALS,
    INSTRUCTION,
    LEARNED,
    NO_DIAL,
    NULL_OF,
    NULLS,
    PROMPTED,
    RANDOM,
    REMOVALS,
    REMOVING,
    SCORING,
    Fluency,
)

RANKS = [
    ("diff_means", "sae"),
    ("sae", "pca"),
    ("diff_means", "pca"),
    (INSTRUCTION, "sae"),
    (INSTRUCTION, "diff_means"),
]
NULL_RANK = ("permuted_means", RANDOM)
SAME = {"clamp": "clamp_random", "clamp_without_error": "clamp_random", "project": "clamp_random", "add": "add_random"}
"""What a removal is compared with; `add` and `add_random` change the residual stream by vectors of equal length."""


def measure(
    *,
    rows: list[Path],
    scores: list[Path],
    detectors: Path,
    fluency: Fluency,
    equal: float,
    doses: list[float],
    seeds: list[int],
    dials: Path,
    removal: Path,
    curves: Path,
    concepts: Path,
    specificity: Path,
) -> None:
    """Writes the metrics of both parts (`dials`, `removal`) and the tables behind the figures.

    Args:
        rows: tables of `steer`, of all seeds and parts.
        scores: the scores of their texts, in the same order.
        detectors: table of `prepare`.
        fluency: limits of fluency.
        equal: the length at which all dials are compared.
        doses: the lengths of the dose-response.
        seeds: of the run.
        dials: metrics of the comparison.
        removal: metrics of the removal.
        curves: table of gain and fluency by dial and length.
        concepts: table of mean gains by concept.
        specificity: table of gains of every concept under every concept's latent.
    """
    frame = pd.concat(map(pd.read_csv, rows), ignore_index=True)
    loaded = [load_file(path) for path in scores]
    found = {key: np.concatenate([one[key] for one in loaded]) for key in loaded[0]}
    own = compared(frame, found)
    names: list[str] = frame.groupby("concept")["name"].first().tolist()
    packages = [name.split(".")[0] for name in names]
    best = choose_lengths(own, fluency)
    scored, arms = own[own["part"] == SCORING], arms_of(best, equal)
    tables = {
        (arm, column): at_length(scored, dial, length, column, len(names), seeds)
        for arm, (dial, length) in arms.items()
        for column in MEASURES
    }
    metrics = effects(tables) | at_chosen_lengths(tables, packages) | ranks(tables)
    metrics |= dose_response(scored, len(names), seeds, doses, packages) | falling_apart(own, fluency)
    metrics |= judging(pd.read_csv(detectors)) | perplexities(own, arms, best)
    write_metrics(dials, metrics)
    write_metrics(removal, removals(own, len(names), seeds))
    write_table(curves, dose_table(own, fluency))
    write_table(concepts, pd.DataFrame({"concept": names, **{arm: tables[arm, "gain"].mean(1) for arm in arms}}))
    write_table(specificity, specificity_table(frame, found["probe"], own, names, equal))


def arms_of(best: dict[str, float], equal: float) -> Arms:
    """Name: dial and length, of everything that is compared on the scoring prompts. Length -1: left alone."""
    arms: Arms = {**{dial: (dial, equal) for dial in DIALS}, INSTRUCTION: (INSTRUCTION, 0.0)}
    for dial in CHOSEN:
        length = best[dial] or -1.0
        arms[f"fluent_{dial}"] = (dial, length)
        arms |= {f"{null}_as_{dial}": (null, length) for null in (NULL_OF[dial], RANDOM)}
    return arms


def effects(tables: dict[tuple[str, str], Table]) -> dict[str, Metric]:
    """Every measure of every arm; how far learned dials and the instruction are from the nulls at equal length."""
    found = {}
    for arm, column in tables:
        _, unit, formula = MEASURES[column]
        found[f"{arm}_{column}"] = over_concepts(tables[arm, column], unit, formula)
        for null in NULLS if arm in (*LEARNED, INSTRUCTION) else ():
            difference = tables[arm, column] - tables[null, column]
            found[f"{arm}_{column}_minus_{null}"] = over_concepts(difference, unit, f"{formula}; minus {null}")
    return found


def at_chosen_lengths(tables: dict[tuple[str, str], Table], packages: list[str]) -> dict[str, Metric]:
    """Dials at their chosen length and their own nulls, each against a random direction of that length."""
    found: dict[str, Metric] = {}
    for dial in CHOSEN:
        fluent, null = f"fluent_{dial}", f"{NULL_OF[dial]}_as_{dial}"
        for column, (_, unit, formula) in MEASURES.items():
            for other in (NULL_OF[dial], RANDOM):
                difference = tables[fluent, column] - tables[f"{other}_as_{dial}", column]
                found[f"{fluent}_{column}_minus_{other}"] = over_concepts(difference, unit, f"{formula}; minus {other}")
        for arm in (fluent, null):
            difference = tables[arm, "gain"] - tables[f"{RANDOM}_as_{dial}", "gain"]
            found |= deviates(arm, difference, packages, f"gain minus that of a {RANDOM} of equal length")
    return found


def ranks(tables: dict[tuple[str, str], Table]) -> dict[str, Metric]:
    """Wins of dials over others at equal length, concept by concept, and those of one null over another."""
    gains = {arm: values.mean(1) for (arm, column), values in tables.items() if column == "gain"}
    found: dict[str, Metric] = {}
    for one, other in (*RANKS, NULL_RANK):
        found |= wins(one, other, gains[one], gains[other])
        difference = tables[one, "gain"] - tables[other, "gain"]
        found[f"{one}_gain_minus_{other}"] = over_concepts(difference, "1", f"{MEASURES['gain'][2]}; minus {other}")
        if (one, other) != NULL_RANK:
            won = [np.sign(gains[a] - gains[b]) / 2 for a, b in ((one, other), NULL_RANK)]
            found[f"{one}_over_{other}_share_minus_null"] = over_concepts(
                (won[0] - won[1])[:, None],
                "share",
                f"concepts won by {one} over {other}, minus by one null over another",
            ).model_copy(update={"per_seed": None})
    return found


def judging(detectors: pd.DataFrame) -> dict[str, Metric]:
    """Whether the probe knows documents that it was not fitted to, and how well single latents do."""
    means = detectors.groupby("concept", sort=False)[["judge", "judge_permuted", "detection", "inside", "ridge"]].mean()
    area = "AUROC of documents on the concept against documents on others"
    columns = {
        "judge_auroc": (means["judge"], area),
        "judge_auroc_permuted": (means["judge_permuted"], area),
        "judge_auroc_difference": (means["judge"] - means["judge_permuted"], area),
        "detection_auroc": (means["detection"], area),
        "judge_inside": (means["inside"], "mean score of documents on the concept"),
    }
    found = {
        name: over_clusters(values.to_numpy(), np.arange(len(means)), unit="1", formula=formula)
        for name, (values, formula) in columns.items()
    }
    return found | {
        "judge_ridge": without_interval(means["ridge"].iloc[0], 1, "1", "ridge that tells documents left out best")
    }


def removals(own: pd.DataFrame, concepts: int, seeds: list[int]) -> dict[str, Metric]:
    """How far the concept's score falls in continuations of its own documents, by intervention."""
    rows, tables, found = own[own["part"] == REMOVING], {}, {}
    formula = "score of the concept in continuations of its documents, unsteered minus steered"
    for arm in REMOVALS:
        part = rows[rows["dial"] == arm]
        tables[arm] = -table(part, "gain", concepts, seeds, 0.0)
        found[f"{arm}_drop"] = over_concepts(tables[arm], "1", formula)
        z = deviate(tables[arm].mean(1))
        found[f"{arm}_drop_z"] = without_interval(
            z, concepts, "standard errors", f"{formula}; over its s.e. over concepts"
        )
        found[f"{arm}_perplexity"] = without_interval(fluency(part)[0], len(part), "1", "perplexity over unsteered")
    for arm, control in SAME.items():
        difference = tables[arm] - tables[control]
        found[f"{arm}_drop_minus_{control}"] = over_concepts(difference, "1", f"{formula}; minus {control}")
    return found


def specificity_table(
    frame: pd.DataFrame, probe: Float[np.ndarray, "row concept"], own: pd.DataFrame, names: list[str], equal: float
) -> pd.DataFrame:
    """Mean gain of every concept (columns) under the SAE latent of every concept (rows), at the common length."""
    rows = own[(own["dial"] == "sae") & own["part"].isin(PROMPTED) & (own["multiplier"] == equal)]
    base = frame[(frame["dial"] == NO_DIAL) & frame["part"].isin(PROMPTED)]
    unsteered = pd.DataFrame(probe[base.index]).groupby(base["neutral"].to_numpy()).mean()
    gains = pd.DataFrame(probe[rows.index] - unsteered.loc[rows["neutral"]].to_numpy(), columns=names)
    return gains.groupby(rows["concept"].to_numpy()).mean().set_axis(names).rename_axis("steered").reset_index()


if __name__ == "__main__":
    run(measure)
