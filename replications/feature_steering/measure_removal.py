"""Step: how far a concept's score falls in continuations of its own documents, by intervention (Templeton et al. 2024).

Controls push a random live latent down instead: clamped to the same negative value, or its decoder row subtracted at
the same length. The one strength that is run costs fluency, so `<arm>_perplexity` stands beside every fall.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from common.core.metrics import Metric, write_metrics
from common.core.statistics import without_interval
from common.core.step import Files, RunInfo, run_step
from replications.feature_steering.evidence import over_concepts, table
from replications.feature_steering.fluency import compared, fluency
from replications.feature_steering.settings import REMOVAL_CONTROLS, REMOVALS


class MeasureRemovalFiles(Files):
    tables: list[Path]
    scores: list[Path]
    metrics: Path


def measure_removal(files: MeasureRemovalFiles, run: RunInfo) -> None:
    """Writes the metrics of the part `removal`."""
    frame = pd.concat(map(pd.read_csv, files.tables), ignore_index=True)
    loaded = [load_file(path) for path in files.scores]
    found = {key: np.concatenate([one[key] for one in loaded]) for key in loaded[0]}
    write_metrics(files.metrics, removals(compared(frame, found), int(frame["concept"].max()) + 1, run.seeds))


def removals(own: pd.DataFrame, concepts: int, seeds: list[int]) -> dict[str, Metric]:
    """Falls beside both controls, and perplexities over those of unsteered continuations."""
    rows = {arm: own[own["method"] == arm] for arm in REMOVALS}
    falls = {arm: -table(part, "gain", concepts, seeds, 0.0) for arm, part in rows.items()}
    controls = {name: falls[name] for name in REMOVAL_CONTROLS}
    formula = "score of the concept in continuations of its documents, unsteered minus steered"
    found = {
        f"{arm}_drop": over_concepts(falls[arm], "1", formula, controls)
        for arm in REMOVALS
        if arm not in REMOVAL_CONTROLS
    }
    return found | {
        f"{arm}_perplexity": without_interval(fluency(part)[0], len(part), "1", "perplexity over unsteered")
        for arm, part in rows.items()
    }


if __name__ == "__main__":
    run_step(measure_removal)
