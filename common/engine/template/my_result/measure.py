"""Step: cosine between probe and hidden direction, seed by seed, beside the same cosine for shuffled labels."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from common.core.metrics import write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step


class MeasureFiles(Files):
    probes: Path
    metrics: Path


def measure(files: MeasureFiles) -> None:
    """Writes the metrics: the effect with its control; the difference is paired by seed."""
    read = load_file(files.probes)

    def cosines(key: str) -> list[float]:
        found: list[float] = torch.nn.functional.cosine_similarity(read[key], read["direction"]).tolist()
        return found

    cosine = over_seeds(
        cosines("probe"),
        unit="1",
        formula="probe . w / (|probe| |w|)",
        controls={"shuffled_labels": cosines("shuffled")},
    )
    write_metrics(files.metrics, {"cosine": cosine})


if __name__ == "__main__":
    run_step(measure)
