"""Step: what suffixes do, from the answers of every model. Loads no model."""

from pathlib import Path

import pandas as pd

from common.core.metrics import write_metrics
from common.core.step import Files, run_step
from replications.refusal_direction.comparisons import Metrics, Studied, requests


class SummariseSuffixFiles(Files):
    answers: list[Path]
    """`<seed>.csv` of every model"""
    metrics: Path


def summarise_suffix(files: SummariseSuffixFiles) -> None:
    """Writes the metrics of the part `suffix`."""
    write_metrics(files.metrics, by_suffix([Studied({"answers": pd.read_csv(path)}, {}, {}) for path in files.answers]))


def by_suffix(studies: list[Studied]) -> Metrics:
    """With the optimised suffix, beside none, a random one, and the best of as many without a gradient. Models have
    held-out topics of their own."""
    controls = {name: ("harmful", name) for name in ("none", "random", "searched")}
    columns = ("refused", "metric", "projection", "cosine", "attention", "attention_others")
    found = {name: requests(studies, ("harmful", "optimised"), controls, column=name) for name in columns}
    del controls["none"]  # nothing to look at
    return found | {
        "attention_suffix": requests(studies, ("harmful", "optimised"), controls, column="attention_suffix")
    }


if __name__ == "__main__":
    run_step(summarise_suffix)
