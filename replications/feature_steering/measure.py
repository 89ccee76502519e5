"""Step: from rows to metrics. No model is asked; everything was measured on texts as the unsteered model reads them.

*Gain*: a text's score for its concept minus the mean over unsteered texts of the same prompt, in standard deviations of
documents on other concepts. On the scoring prompts all methods are compared at one length, methods and their nulls at
every dose. With the settings `fluency` the methods of `CHOSEN` also stand at the largest length that was fluent on the
choosing prompts (`fluent_`; a method without one is left alone and gains 0), beside nulls of that same length.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from safetensors.numpy import load_file

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_clusters, without_interval
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.feature_steering.evidence import MEASURES, Table, at_length, over_concepts, slopes, wins
from replications.feature_steering.fluency import choose_lengths, collapse, compared, fluency
from replications.feature_steering.settings import (
    CHOOSING,
    CHOSEN,
    CURVES,
    INSTRUCTION,
    LEARNED,
    METHODS,
    NULL_OF,
    NULLS,
    PROMPTED,
    RANDOM,
    SCORING,
    UNSTEERED,
    Fluency,
    Measure,
)

Arms = dict[str, tuple[str, float]]
RANKS = [
    ("diff_means", "sae"),
    ("sae", "pca"),
    ("diff_means", "pca"),
    (INSTRUCTION, "sae"),
    (INSTRUCTION, "diff_means"),
]
TWO_NULLS = ("permuted_means", RANDOM)
"""The control of a rank: one null in the place of the first method, the other in that of the second."""


class MeasureFiles(Files):
    tables: list[Path]
    """of `steer`, all parts and seeds"""
    scores: list[Path]
    """of the texts of `tables`, in the same order"""
    detectors: Path
    metrics: Path
    gains: Path
    """mean gains by concept"""
    specificity: Path
    """gains of every concept under every concept's latent"""
    doses: Path
    """gain and fluency by method and length"""


def measure(files: MeasureFiles, settings: Measure, run: RunInfo) -> None:
    """Writes the metrics of the comparison and the tables behind its figures."""
    writing, limits = settings.writing, settings.fluency
    frame = pd.concat(map(pd.read_csv, files.tables), ignore_index=True)
    loaded = [load_file(path) for path in files.scores]
    found = {key: np.concatenate([one[key] for one in loaded]) for key in loaded[0]}
    own = compared(frame, found)
    names: list[str] = frame.groupby("concept")["name"].first().tolist()
    packages = [name.split(".")[0] for name in names]
    best = choose_lengths(own, limits) if limits else {}
    scored, arms = own[own["part"] == SCORING], arms_of(best, writing.equal)
    tables = {
        (arm, column): at_length(scored, method, length, column, len(names), run.seeds)
        for arm, (method, length) in arms.items()
        for column in MEASURES
    }
    metrics = effects(tables, packages) | ranks(tables) | judging(pd.read_csv(files.detectors))
    metrics |= perplexities(own, arms, best)
    if len(writing.doses) > 1:
        metrics |= dose_response(scored, len(names), run.seeds, writing.doses)
    if limits:
        metrics |= falling_apart(own, limits)
    write_metrics(files.metrics, metrics)
    write_table(files.gains, pd.DataFrame({"concept": names, **{arm: tables[arm, "gain"].mean(1) for arm in arms}}))
    write_table(files.specificity, specificity_table(frame, found["probe"], own, names, writing.equal))
    write_table(files.doses, dose_table(own, limits))


def arms_of(best: dict[str, float], equal: float) -> Arms:
    """Name: method and length, of everything that is compared on the scoring prompts. Length -1: left alone."""
    arms: Arms = {**{method: (method, equal) for method in METHODS}, INSTRUCTION: (INSTRUCTION, 0.0)}
    for method, chosen in best.items():
        length = chosen or -1.0
        arms[f"fluent_{method}"] = (method, length)
        arms |= {f"{null}_as_{method}": (null, length) for null in (NULL_OF[method], RANDOM)}
    return arms


def effects(tables: dict[tuple[str, str], Table], packages: list[str]) -> dict[str, Metric]:
    """Every measure of every method and of the instruction, beside nulls of equal length."""
    found = {}
    for arm in (*LEARNED, INSTRUCTION, *(f"fluent_{method}" for method in CHOSEN)):
        method = arm.removeprefix("fluent_")
        if arm == method:
            nulls = {null: null for null in NULLS}
        else:
            nulls = {null: f"{null}_as_{method}" for null in (NULL_OF[method], RANDOM)}
        for column, (_, unit, formula) in MEASURES.items():
            if (arm, column) not in tables:
                continue
            controls = {name: tables[null, column] for name, null in nulls.items()}
            found[f"{arm}_{column}"] = over_concepts(tables[arm, column], unit, formula, controls)
            if column == "gain" and len(set(packages)) > 1:
                found[f"{arm}_gain_by_package"] = over_concepts(tables[arm, column], unit, formula, controls, packages)
    return found


def ranks(tables: dict[tuple[str, str], Table]) -> dict[str, Metric]:
    """One method against another at equal length: share of concepts won, and by how much; control: one null against
    another."""
    gains = {arm: values for (arm, column), values in tables.items() if column == "gain"}
    a, b = (gains[null] for null in TWO_NULLS)
    found: dict[str, Metric] = {}
    for one, other in RANKS:
        found[f"{one}_over_{other}_share"] = over_concepts(
            wins(gains[one], gains[other]),
            "share",
            f"concepts on which {one} gains more than {other}",
            {"two_nulls": wins(a, b)},
        )
        found[f"{one}_over_{other}_gain"] = over_concepts(
            gains[one] - gains[other], "1", f"{MEASURES['gain'][2]}; {one} minus {other}", {"two_nulls": a - b}
        )
    return found


def dose_response(scored: pd.DataFrame, concepts: int, seeds: list[int], doses: list[float]) -> dict[str, Metric]:
    """Slopes of the gain over the length of the vector, length 0 included, where every text is the unsteered one."""
    fitted = {}
    for method in CURVES:
        gains = np.stack([at_length(scored, method, dose, "gain", concepts, seeds) for dose in doses], -1)
        fitted[method] = slopes(np.concatenate([np.zeros_like(gains[..., :1]), gains], -1), [0.0, *doses])
    formula = "least-squares slope of the gain over the length of the vector, length 0 included"
    nulls = {null: fitted[null] for null in NULLS}
    found = {f"{method}_dose_slope": over_concepts(fitted[method], "1", formula, nulls) for method in CHOSEN}
    for null in NULL_OF.values():
        found[f"{null}_dose_slope"] = over_concepts(fitted[null], "1", formula, {RANDOM: fitted[RANDOM]})
    return found


def falling_apart(own: pd.DataFrame, limits: Fluency) -> dict[str, Metric]:
    """Where texts fall apart (0: nowhere tried), and the gain at the length of the highest gain and at the longest."""
    found: dict[str, Metric] = {}
    for method in CHOSEN:
        rows = own[(own["method"] == method) & own["part"].isin(PROMPTED)]
        first, means = collapse(own, method, limits), rows.groupby("multiplier")["gain"].mean()
        peak = float(means.index[int(means.argmax())])
        said = "length of the added vector over the mean norm of the residual stream"
        collapsed = 0.0 if np.isinf(first) else first
        found[f"{method}_collapse"] = without_interval(
            collapsed, len(means), "1", f"{said} at which texts fall apart; 0: at none"
        )
        found[f"{method}_peak"] = without_interval(peak, len(means), "1", f"{said} with the highest mean gain")
        for name, length in (("peak", peak), ("longest", float(means.index.max()))):
            part = rows[rows["multiplier"] == length]
            gains, concept = part["gain"].to_numpy(), part["concept"].to_numpy()
            found[f"{method}_gain_at_{name}"] = over_clusters(
                gains, concept, unit="1", formula=MEASURES["gain"][2], cluster="concepts"
            )
    return found


def perplexities(own: pd.DataFrame, arms: Arms, best: dict[str, float]) -> dict[str, Metric]:
    """Perplexity ratios of all arms, `tried_` on the choosing prompts, and the chosen lengths (0: none)."""
    found: dict[str, Metric] = {}
    levels = [(arm, SCORING, *source) for arm, source in arms.items()]
    levels += [(f"tried_{method}", CHOOSING, method, length) for method, length in best.items()]
    for name, part, method, length in levels:
        rows = own[(own["part"] == part) & (own["method"] == method) & (own["multiplier"] == length)]
        added = np.zeros(2) if rows.empty else rows["nats_added"].to_numpy()
        concept = np.arange(2) if rows.empty else rows["concept"].to_numpy()
        nats = over_clusters(
            added, concept, unit="nats", formula="nats per token, steered minus unsteered", cluster="concepts"
        )
        low, value, high = (float(np.exp(one)) for one in (nats.ci_low, nats.value, nats.ci_high))
        found[f"{name}_perplexity"] = Metric(
            value=value, ci_low=low, ci_high=high, n=nats.n, unit="1", formula="perplexity, times unsteered",
            uncertainty=nats.uncertainty,
        )  # fmt: skip
    formula = "length of the added vector over the mean norm of the residual stream, chosen"
    lengths = {f"fluent_{method}_length": without_interval(one, 1, "1", formula) for method, one in best.items()}
    return found | lengths


def judging(detectors: pd.DataFrame) -> dict[str, Metric]:
    """Whether the probe knows documents that it was not fitted to, and how well single latents do."""
    means = detectors.groupby("concept", sort=False)[["judge", "judge_permuted", "detection", "inside", "ridge"]].mean()
    area = "AUROC of documents on the concept against documents on others"
    columns = {
        "judge_auroc": ("judge", area, {"permuted_labels": means["judge_permuted"].to_numpy()}),
        "detection_auroc": ("detection", area, {}),
        "judge_inside": ("inside", "mean score of documents on the concept", {}),
    }
    found = {
        name: over_clusters(
            means[column].to_numpy(), np.arange(len(means)), unit="1", formula=formula, cluster="concepts",
            controls=controls,
        )
        for name, (column, formula, controls) in columns.items()
    }  # fmt: skip
    return found | {
        "judge_ridge": without_interval(means["ridge"].iloc[0], 1, "1", "ridge that tells documents left out best")
    }


def dose_table(own: pd.DataFrame, limits: Fluency | None) -> pd.DataFrame:
    """All prompts: gain with interval, perplexity and distinct ratio of each method and length; the limits beside."""
    rows = own[own["part"].isin(PROMPTED) & own["method"].isin(CURVES)]
    groups = [
        (method, level, rows[(rows["method"] == method) & (rows["multiplier"] == level)])
        for method in CURVES
        for level in sorted(rows[rows["method"] == method]["multiplier"].unique())
    ]
    lines = []
    for method, level, group in [*groups, (INSTRUCTION, 0.0, own[own["method"] == INSTRUCTION])]:
        perplexity, distinct = fluency(group)
        line = {"method": method, "multiplier": level, "perplexity": perplexity, "distinct": distinct}
        if limits:
            low, high = limits.perplexity
            line |= {"fluent_from": low, "fluent_to": high, "distinct_from": limits.distinct}
        for column in MEASURES:
            found = over_clusters(group[column].to_numpy(), group["concept"].to_numpy(), unit="1", formula=column)
            line |= {column: found.value, f"{column}_low": found.ci_low, f"{column}_high": found.ci_high}
        if limits:
            line["collapse"] = collapse(own, method, limits)
        lines.append(line)
    return pd.DataFrame(lines).replace(float("inf"), np.nan)


def specificity_table(
    frame: pd.DataFrame, probe: Float[np.ndarray, "row concept"], own: pd.DataFrame, names: list[str], equal: float
) -> pd.DataFrame:
    """Mean gain of every concept (columns) under the SAE latent of every concept (rows), at the common length."""
    rows = own[(own["method"] == "sae") & own["part"].isin(PROMPTED) & (own["multiplier"] == equal)]
    base = frame[(frame["method"] == UNSTEERED) & frame["part"].isin(PROMPTED)]
    unsteered = pd.DataFrame(probe[base.index]).groupby(base["neutral"].to_numpy()).mean()
    gains = pd.DataFrame(probe[rows.index] - unsteered.loc[rows["neutral"]].to_numpy(), columns=names)
    return gains.groupby(rows["concept"].to_numpy()).mean().set_axis(names).rename_axis("steered").reset_index()


if __name__ == "__main__":
    run_step(measure)
