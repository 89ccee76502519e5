"""Training one SAE: ours against SAELens and dictionary_learning, at an equal loss curve.

Both sides see the same batches of a planted dictionary at the width of the embedded model, in float32 on one thread.
Steps, batch, k, rate and warm-up are the same; each library uses its own trainer. What is compared is the fraction of
variance unexplained (FVU) on held-out data after several numbers of steps. Both sides use a batch's own selection.
Measuring it counts for neither. No latent dies within so few steps, so no side pays for an auxiliary loss. The
libraries run in the environment of `make test-interop`, one process after the other.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import Task
from common.core.errors import UserError
from common.core.settings import ROOT
from common.saes.architectures import ARCHITECTURES
from common.saes.architectures.base import Context, Progress, Weights, variance
from common.saes.recipe import ArchitectureName, Recipe, Training
from common.saes.stream import as_batch
from common.saes.trainer import Batches, train

PYTHON = ROOT / ".venv-interop" / "bin" / "python"
LIBRARIES = {"saelens": "SAELens", "dictionary_learning": "dictionary_learning"}
ARCHITECTURE_NAMES: tuple[ArchitectureName, ...] = ("topk", "batch_topk")
D, D_SAE, K, BATCH, STEPS = 576, 4608, 32, 1024, 20
AFTER = (5, 10, STEPS)  # steps after which FVU is compared
HELD_OUT = 4096
SETTINGS = Training.model_validate(
    {"steps": STEPS, "batch": BATCH, "learning_rate": 0.001, "warmup": 5, "decay_share": 0, "dead_after": 10_000_000}
)
Answer = tuple[float, list[float]]


def tasks() -> Iterator[Task]:
    """One task per architecture and library. UserError without the environment of the libraries."""
    if not PYTHON.exists():
        raise UserError("SAELens and dictionary_learning are not there yet; run `make test-interop` first")
    train_data, held_out = planted(D)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_file({"train": train_data, "held_out": held_out}, folder / "data.safetensors")
        for name in ARCHITECTURE_NAMES:
            recipe = Recipe.model_validate({"architecture": name, "d_sae": D_SAE, "sparsity": K, "seed": 0})
            ours(recipe, in_order(train_data), folder, 3)  # the first calls are slower
            for library, title in LIBRARIES.items():
                yield Task(
                    f"training {name}, {D} -> {D_SAE}, k = {K}, {STEPS} steps of {BATCH}",
                    partial(ours, recipe, in_order(train_data), folder, STEPS, held_out),
                    f"{title}, its own trainer",
                    partial(peer, library, name, folder),
                    lambda mine, other: f"FVU after {listed(AFTER)} steps: {listed(mine)}; {listed(other)}",
                    report_seconds=True,
                )


def planted(d: int) -> tuple[Tensor, Tensor]:
    """Sparse sums of 2 d random directions, mean squared norm 1, and a held-out part; another seed than any start has,
    which would know them."""
    n = STEPS * BATCH + HELD_OUT
    generator = torch.Generator().manual_seed(12345)
    directions = torch.nn.functional.normalize(torch.randn(2 * d, d, generator=generator), dim=1)
    parts = []
    for rows in range(0, n, BATCH):
        size = (min(BATCH, n - rows), 2 * d)
        active = torch.rand(size, generator=generator) < 12 / d
        parts.append((active * (1 + torch.rand(size, generator=generator))) @ directions)
    x = torch.cat(parts)
    x = x * x.square().sum(1).mean().rsqrt()
    return x[:-HELD_OUT].contiguous(), x[-HELD_OUT:].contiguous()


def in_order(data: Tensor) -> Batches:
    """Batches as the data lie."""
    batches = [as_batch(part) for part in torch.split(data, BATCH)]
    return lambda step, source: batches[step]


class Curve:
    """FVU on held-out data of one SAE while it is trained, and the processor seconds that measuring it took."""

    def __init__(self, recipe: Recipe, held_out: Tensor) -> None:
        self.recipe, self.x = recipe, held_out
        self.done, self.seconds = 0, 0.0
        self.fvu: list[float] = []

    def __call__(self, weights: Weights) -> None:
        """Called after each step."""
        start = time.process_time()
        self.done += 1
        if self.done in AFTER:
            self.fvu.append(fvu(self.recipe, weights, self.x))
        self.seconds += time.process_time() - start


def ours(recipe: Recipe, batches: Batches, folder: Path, steps: int, held_out: Tensor | None = None) -> Answer:
    """Processor seconds of our trainer, without those of measuring, and FVU after some steps."""
    settings = SETTINGS.model_copy(update={"steps": steps})
    curve = None if held_out is None else Curve(recipe, held_out)
    start = time.process_time()
    train([recipe], batches, settings, folder / "checkpoint", constrain=curve)
    taken = time.process_time() - start
    return (taken - curve.seconds, curve.fvu) if curve else (taken, [])


def peer(library: str, architecture: str, folder: Path) -> Answer:
    """Processor seconds and FVU of a library, in a process of its own environment. UserError if it fails."""
    job: dict[str, Any] = {
        "library": library,
        "architecture": architecture,
        "data": str(folder / "data.safetensors"),
        "d": D,
        "d_sae": D_SAE,
        "k": K,
        "batch": BATCH,
        "steps": STEPS,
        "after": AFTER,
        "learning_rate": SETTINGS.learning_rate,
        "warmup": SETTINGS.warmup,
        "threads": torch.get_num_threads(),
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    done = subprocess.run(
        [str(PYTHON), str(ROOT / "tests/interop/peers.py"), str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{library} failed: {done.stderr.strip().splitlines()[-1]}; run `make test-interop`")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found["cpu"], found["fvu"]


def fvu(recipe: Recipe, weights: Weights, x: Tensor) -> float:
    """Of the weights of a group of one, latents selected within this batch as in training."""
    batch = as_batch(x)
    dead = torch.zeros(1, recipe.d_sae, dtype=torch.bool)
    progress = Progress(dead.long(), torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    context = Context([recipe], [recipe.sparsity], progress, dead, SETTINGS.bandwidth)
    with torch.no_grad():
        error = ARCHITECTURES[recipe.architecture].losses(weights, batch, context).error
        return float(error[0] / variance(batch.y)[0])


def listed(values: Iterable[float]) -> str:
    """Whole numbers as they are, others with three digits."""
    return ", ".join(f"{value:.3g}" for value in values)
