"""Metrics of the part `loss`: what models gain over counts, and what replacing their activations costs."""

from collections.abc import Callable

import numpy as np

from common.core.metrics import Metric
from common.core.statistics import over_seeds
from replications.monosemanticity.dictionaries import twins
from replications.monosemanticity.documents import under_documents
from replications.monosemanticity.reconstruction import Row, luck, recovered, resampled_recovery, rise
from replications.monosemanticity.settings import Dictionaries

REPLACEMENTS = {
    "principal_components": "components",
    "largest_neurons": "neurons",
    "mean_activation": "mean",
}
"""Controls of a dictionary, beside its random rows: name, and the way to replace activations."""


def model_metrics(found: list[list[Row]], grams: dict[str, float], before: list[float]) -> dict[str, Metric]:
    """Loss of the models and what they gain over counts; control: the models before training."""
    own = [float(str(rows[0]["ce"])) for rows in found]
    formula = "cross-entropy of the next token, held-out documents"
    metrics = {"ce_model": over_seeds(own, unit="nats", formula=formula, controls={"untrained": before})}
    for gram, value in grams.items():
        metrics[f"gain_over_{gram}"] = over_seeds(
            [value - one for one in own], unit="nats", formula=f"ce of the {gram} table - ce_model",
            controls={"untrained": [value - one for one in before]},
        )  # fmt: skip
    return metrics


def replacement_metrics(found: list[list[Row]], settings: Dictionaries) -> dict[str, Metric]:
    """What replacing the activations costs, by dictionary, beside replacements that know nothing of features.

    The widest dictionary is `widest`. TopK stands beside ReLU at the narrowest width.
    """
    by_name = [{str(row["name"]): row for row in rows} for rows in found]
    ce = [{name: float(str(row["ce"])) for name, row in own.items()} for own in by_name]
    quantities: dict[str, tuple[str, str, Callable[[int, str], float]]] = {
        "delta_ce": ("nats", "added cross-entropy", lambda at, name: ce[at][name] - ce[at]["clean"]),
        "fvu": ("share", "variance unexplained", lambda at, name: float(str(by_name[at][name]["fvu"]))),
    }
    for ablation in ("zero", "mean"):
        quantities[f"recovered_{ablation}"] = (
            "share",
            f"(ce_{ablation} - ce) / (ce_{ablation} - ce_clean)",
            lambda at, name, ablation=ablation: recovered(found[at], name, ablation),  # type: ignore[misc]
        )
    narrowest, widest = settings.widths[0], settings.widths[-1]
    dictionaries = [name for name in by_name[0] if name in ("relu", *twins(settings.twins)) or "trained" in name]
    metrics: dict[str, Metric] = {}
    for quantity, (unit, formula, value) in quantities.items():

        def values(name: str, value: Callable[[int, str], float] = value) -> list[float]:
            return [value(at, name) for at in range(len(found))]

        for name in dictionaries:
            width = name.removeprefix("trained-") if "trained" in name else str(narrowest)
            controls = {**REPLACEMENTS, "random_rows": f"start-{width}"}
            if name == "relu":
                controls = {"narrow_topk": f"trained-{narrowest}", **controls}
            if not quantity.startswith("recovered"):
                controls["no_mlp"] = "zero"
            metrics[f"{quantity}_{key_of(name, widest)}"] = over_seeds(
                values(name), unit=unit, formula=f"{formula}, activations replaced: {name}",
                controls={control: values(way) for control, way in controls.items()},
            )  # fmt: skip
    for name in [one for one in dictionaries if not one.startswith("twin")]:
        rows = [own[name] for own in by_name]
        for column, unit, formula in (
            ("dead", "share", "latents that never fire"), ("l0", "1", "active latents per token"),
        ):  # fmt: skip
            numbers = [float(str(row[column])) for row in rows]
            metrics[f"{column}_{key_of(name, widest)}"] = over_seeds(numbers, unit=unit, formula=formula)
    for ablation in ("zero", "mean"):
        metrics |= rises(metrics, found, settings, ablation)
    return metrics


def key_of(name: str, widest: int) -> str:
    """The name of a dictionary in names of metrics."""
    return "widest" if name == f"trained-{widest}" else name.replace("-", "_")


def rises(
    metrics: dict[str, Metric], found: list[list[Row]], settings: Dictionaries, ablation: str
) -> dict[str, Metric]:
    """What a wider dictionary recovers beyond the mean of the narrowest; controls: the luck of a start, and random
    rows of both widths."""

    def values(name: str) -> np.ndarray:
        return np.array([recovered(rows, name, ablation) for rows in found])

    narrowest, *wider = settings.widths
    base = np.stack([values(name) for name in narrow_names(settings)])
    controls = {
        "luckiest_start": luck(base).tolist(),
        "random_rows": (values(f"start-{wider[-1]}") - values(f"start-{narrowest}")).tolist(),
    }
    return {
        f"rise_{ablation}_{'widest' if width == wider[-1] else f'to_{width}'}": over_seeds(
            rise(values(f"trained-{width}"), base).tolist(), unit="share",
            formula=f"loss recovered at {width} latents - mean of {len(base)} dictionaries of {narrowest}",
            controls=controls if width == wider[-1] else {},
        )
        for width in wider
    }  # fmt: skip


def narrow_names(settings: Dictionaries) -> list[str]:
    """The dictionaries of the narrowest width, which differ by their start."""
    return [f"trained-{settings.widths[0]}", *twins(settings.twins)]


def document_metrics(
    metrics: dict[str, Metric], by_window: list[dict[str, np.ndarray]], documents: np.ndarray, settings: Dictionaries
) -> dict[str, Metric]:
    """Loss recovered by the widest dictionary and its rise with width, with intervals over documents."""
    widest, count = f"trained-{settings.widths[-1]}", len(np.unique(documents))
    found: dict[str, Metric] = {}
    for ablation in ("zero", "mean"):
        known = metrics[f"recovered_{ablation}_widest"]
        ways = {**REPLACEMENTS, "random_rows": f"start-{settings.widths[-1]}"}
        own, *others = resampled_recovery(by_window, documents, [widest, *ways.values()], ablation).mean(1)
        controls = dict(zip(ways, others, strict=True))
        found[f"recovered_{ablation}_widest_documents"] = under_documents(known, own, controls, count)
        wide, *narrow = resampled_recovery(by_window, documents, [widest, *narrow_names(settings)], ablation)
        higher, lucky = rise(wide, np.stack(narrow)).mean(0), luck(np.stack(narrow)).mean(0)
        found[f"rise_{ablation}_widest_documents"] = under_documents(
            metrics[f"rise_{ablation}_widest"], higher, {"luckiest_start": lucky}, count
        )
    return found
