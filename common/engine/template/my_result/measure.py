"""Step: cosine between probe and hidden direction, seed by seed, beside the same cosine for shuffled labels."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from common.core.metrics import write_metrics
from common.core.step import run
from common.core.tables import Seeded


def measure(*, probes: Path, metrics: Path) -> None:
    """Writes `metrics` (JSON): the effect, its control, and their paired difference."""
    read = load_file(probes)
    out = Seeded()
    for name, key in {"cosine": "probe", "cosine_shuffled": "shuffled"}.items():
        cosines = torch.nn.functional.cosine_similarity(read[key], read["direction"]).tolist()
        out.add(name, cosines, "1", "probe . w / (|probe| |w|)")
    out.minus("cosine_minus_shuffled", "cosine", "cosine_shuffled")
    write_metrics(metrics, out.found)


if __name__ == "__main__":
    run(measure)
