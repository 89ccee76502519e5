"""Step: what directions found by gradient do, from the answers of every model. Loads no model."""

from pathlib import Path

import pandas as pd

from common.core.files import read_json
from common.core.metrics import write_metrics
from common.core.step import Files, run_step
from replications.refusal_direction.comparisons import Condition, Metrics, Studied, requests, seeds
from replications.refusal_direction.gradient import LEARNED
from replications.refusal_direction.gradient_controls import BESIDE, DAMAGE, LAYERS

HALF_WAY = 0.5  # of the distance between the class means


class SummariseGradientFiles(Files):
    answers: list[Path]
    """`<seed>.csv` of every model"""
    cosines: list[Path]
    """`<seed>.json` of every model"""
    metrics: Path


def summarise_gradient(files: SummariseGradientFiles) -> None:
    """Writes the metrics of the part `gradient`."""
    pairs = zip(files.answers, files.cosines, strict=True)
    write_metrics(
        files.metrics, by_gradient([Studied({"answers": pd.read_csv(a)}, read_json(b), {}) for a, b in pairs])
    )


def by_gradient(studies: list[Studied]) -> Metrics:
    """What is left of refusal with each direction ablated: `<direction>_refused` and `_metric`.

    Also how far the residual stream moves along r (`_moved`), KL on harmless requests (`_kl`), and negative log
    likelihood of the answers before fine-tuning (`_surprise`). `independent_aside` is answered and not moved. Of cones
    there are `<name>_refused` and `_kl`."""
    studies = [with_aside(study) for study in studies]

    def beside(kind: str, suffix: str = "", *more: str) -> dict[str, Condition]:
        return {name: (kind, f"{name}{suffix}") for name in (*BESIDE, *more)}

    found = {}
    for name in (*LEARNED, *LAYERS, DAMAGE, "r"):
        others = {} if name == "r" else beside("harmful")
        for column in ("refused", "metric", "moved"):
            found[f"{name}_{column}"] = requests(studies, ("harmful", name), others, column=column)
        if name not in LAYERS:
            found[f"{name}_surprise"] = requests(studies, ("harmful", name), column="surprise")
        costs = {} if name == "r" else beside("harmless", "", "r")
        found[f"{name}_kl"] = requests(studies, ("harmless", name), costs, column="kl_tuned")
    aside = beside("harmful", "", "r", "orthogonal", *LAYERS)
    found["independent_aside"] = requests(studies, ("harmful", "independent"), aside, column="aside")
    for name in ("", *(f"{layer} " for layer in LAYERS)):
        key, cone = name.replace(" ", "_"), f"{name}cone"
        found[f"{key}cone_refused"] = requests(studies, ("harmful", cone), beside("harmful", " cone"))
        costs = beside("harmless", " cone")
        found[f"{key}cone_kl"] = requests(studies, ("harmless", cone), costs, column="kl_tuned")
    for pair in studies[0].numbers:
        text = f"cosine of {pair.replace('__', ' and ')}"
        found[f"cosine_{pair}"] = seeds([study.numbers[pair] for study in studies], "1", text)
    return found


def with_aside(study: Studied) -> Studied:
    """With `aside`: 1 for a request that is answered while the residual stream moves little along r."""
    table = study.tables["answers"]
    aside = (table["refused"] == 0) & (table["moved"] < HALF_WAY)
    return study._replace(tables={"answers": table.assign(aside=aside.astype(int))})


if __name__ == "__main__":
    run_step(summarise_gradient)
