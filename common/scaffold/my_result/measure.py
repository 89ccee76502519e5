"""Step: cosine between probe and hidden direction, seed by seed, beside the same cosine for shuffled labels."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from common.cli import run
from common.records import write_metrics
from common.statistics import over_seeds

FORMULA = "probe . w / (|probe| |w|)"


def measure(*, probes: Path, metrics: Path) -> None:
    """Writes `metrics` (JSON): the effect, its control, and their paired difference."""
    read = load_file(probes)
    found = {
        name: torch.nn.functional.cosine_similarity(read[key], read["direction"]).tolist()
        for name, key in {"cosine": "probe", "cosine_shuffled": "shuffled"}.items()
    }
    pairs = zip(found["cosine"], found["cosine_shuffled"], strict=True)
    found["cosine_minus_shuffled"] = [effect - control for effect, control in pairs]
    write_metrics(metrics, {name: over_seeds(values, unit="1", formula=FORMULA) for name, values in found.items()})


if __name__ == "__main__":
    run(measure)
