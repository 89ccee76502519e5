"""From tables to metrics: every comparison over seeds, and that of models with counts over documents."""

from typing import Any

import numpy as np
import pandas as pd

from common.core.metrics import Metric
from common.core.statistics import over_clusters, over_seeds
from replications.monosemanticity.patterns import PATTERNS
from replications.monosemanticity.replacement import CONTROLS, recovered
from replications.monosemanticity.units import LATENTS

Table = list[dict[str, Any]]
NAMED = {
    "f1": "F1 of the best unit above its threshold on other documents",
    "precision": "share of its firings that lie in the pattern",
    "recall": "share of the pattern's tokens on which it fires",
    "density": "share of all tokens on which it fires",
    "push": "change of the log odds that a token of the pattern follows, neurons pushed by their mean norm",
    "ablation_inside": "added loss where it fires and is set to 0, next token in the pattern, in nats",
    "ablation_outside": "added loss where it fires and is set to 0, next token not in the pattern, in nats",
}


def model_metrics(
    losses: dict[str, list[np.ndarray]], counted: dict[str, np.ndarray], document: np.ndarray
) -> dict[str, Metric]:
    """What models gain over counts on held-out documents; control: the models before training."""
    own, before = (np.concatenate(losses[name]) for name in ("model", "untrained"))
    seeds = len(losses["model"])
    clusters, groups = np.tile(document, seeds), np.repeat(np.arange(seeds), len(document))
    about: dict[str, Any] = {"unit": "nats", "cluster": "documents", "groups": groups}
    formula = "cross-entropy of the next token, held-out documents"
    found = {"ce_model": over_clusters(own, clusters, formula=formula, controls={"untrained": before}, **about)}
    for name, one in counted.items():
        counts = np.tile(one, seeds)
        found[f"gain_over_{name}"] = over_clusters(
            counts - own, clusters, formula=f"cross-entropy of {name} - that of the model",
            controls={"untrained": counts - before}, **about,
        )  # fmt: skip
    return found


def loss_metrics(ways: Table, widths: list[int]) -> dict[str, Metric]:
    """Loss recovered and variance unexplained by each dictionary."""
    table = pd.DataFrame(ways)
    each = [records(own) for _, own in table.groupby("seed", sort=False)]
    found: dict[str, Metric] = {}

    def controls(width: int) -> dict[str, str]:
        return {**CONTROLS, "random_rows": f"start-{width}"}

    names = {f"trained-{width}": f"width_{width}" for width in widths} | {f"trained-{widths[-1]}": "widest"}
    if f"relu-{widths[-1]}" in set(table["name"]):
        names[f"relu-{widths[-1]}"] = "relu"
    for name, key in names.items():
        width = int(name.split("-")[1])
        for ablation in ("zero", "mean"):
            others = {k: v for k, v in controls(width).items() if not (ablation == "mean" and k == "mean_activation")}
            found[f"recovered_{ablation}_{key}"] = over_seeds(
                [recovered(rows, name, ablation) for rows in each], unit="share",
                formula=f"(CE {ablation} - CE replaced) / (CE {ablation} - CE clean), {name}",
                controls={k: [recovered(rows, way, ablation) for rows in each] for k, way in others.items()},
            )  # fmt: skip
        for column in ("fvu", "dead", "l0"):
            values = table.loc[table["name"] == name, column].tolist()
            found[f"{column}_{key}"] = over_seeds(values, unit="1", formula=f"{column} of {name}")
    return found


def dictionary_metrics(each: Table) -> dict[str, Metric]:
    """Whether the widest dictionary has learned."""
    table = pd.DataFrame(each)
    return {
        "cosine_with_start": over_seeds(
            table["left_start"].tolist(), unit="1", formula="median cosine of decoder rows with their start"
        ),
        "purity": over_seeds(
            table["purity"].tolist(), unit="share",
            formula="mean over latents of the share of the commonest token among the 20 largest activations",
            controls={"random_rows": table["purity_random_rows"].tolist()},
        ),
    }  # fmt: skip


def unit_metrics(scores: Table) -> dict[str, Metric]:
    """How well explanations predict units: latents against all other kinds."""
    formulas = {
        "all": "mean over units of the correlation of activations with those predicted from the last two tokens",
        "token": "the same, predicted from the present token alone",
        "within": "the same after both have lost their mean at each present token",
    }
    return {f"explained_{name}": compared(scores, name, formula, "mean") for name, formula in formulas.items()}


def records(table: pd.DataFrame) -> Table:
    """The rows of a table."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def compared(table: Table, column: str, formula: str, statistic: str, effect: str = LATENTS) -> Metric:
    """A statistic over units, seed by seed: latents, and every other kind of the table as a control."""
    grid = pd.DataFrame(table).groupby(["kind", "seed"], sort=False)[column].agg(statistic).unstack("kind")
    others = [str(kind) for kind in grid.columns if kind != effect]
    return over_seeds(
        grid[effect].tolist(), unit="1", formula=formula, controls={kind: grid[kind].tolist() for kind in others}
    )


def named_metrics(patterns: Table) -> dict[str, Metric]:
    """Detection of patterns by the best unit of each kind, and its effect on the output. Means over patterns, and F1
    and push of each pattern."""
    table = pd.DataFrame(patterns)
    found = {}
    for column, formula in NAMED.items():
        own = table[table[column].notna()]  # one token has no direction
        found[column] = compared(records(own), column, f"mean over patterns of the {formula}", "mean")
        for pattern in PATTERNS if column in ("f1", "push") else ():
            rows = records(own[own["pattern"] == pattern])
            found[f"{column}_{pattern}"] = compared(rows, column, f"{formula}; {pattern}", "mean")
    rows = records(table[table["push_readout"].notna()])
    text = f"mean over patterns of the {NAMED['push']}, along what writes the pattern's tokens"
    found["push_readout"] = compared(rows, "push_readout", text, "mean", effect="readout")
    return found


def splitting_metrics(families: Table) -> dict[str, Metric]:
    """Share of narrow latents with two or more children."""
    table = pd.DataFrame(families)
    names = ("equal_width_twin", "four_twins_pooled", "permuted_neurons", "random_rows")
    found = {}
    for prefix, key, formula in (
        ("", "split", "share of narrow latents with two or more children"),
        ("distinct_", "children_distinct", "share with two children whose firings overlap by less than 0.5 (Jaccard)"),
        ("inside_", "inside", "mean over latents of P(nearest narrow latent fires | it fires)"),
        ("cosine_", "cosine", "mean over latents of the decoder cosine with the nearest narrow latent"),
    ):
        found[key] = over_seeds(
            table[f"{prefix}widest"].tolist(), unit="1", formula=formula,
            controls={name: table[f"{prefix}{name}"].tolist() for name in names},
        )  # fmt: skip
    return found


def universality_metrics(correlations: Table) -> dict[str, Metric]:
    """Largest correlation with a unit of another network."""
    formulas = {
        "all": "median over units of the largest correlation with a unit of another network",
        "within": "the same after all activations have lost their mean at each present token",
    }
    return {f"correlation_{key}": compared(correlations, key, formula, "median") for key, formula in formulas.items()}
