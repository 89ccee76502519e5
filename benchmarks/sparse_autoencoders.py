"""Training SAEs: ours against SAELens and dictionary_learning, and a sweep of six in one pass against six runs.

Both sides see the same batches of a planted dictionary at the width of the embedded model, float32, with the same
number of steps, batch, k, rate, warm-up and threads; each library uses its own trainer. What is compared is the
fraction of variance unexplained on held-out data, with a batch's own selection on both sides. The libraries run in the
environment of `make test-interop`, one process after the other; without it their rows are left out. Seconds are
those of the processor, summed over threads, so that a busy machine counts for both sides alike.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import Row
from common.config import ROOT
from common.errors import UserError
from common.saes.architectures import ARCHITECTURES
from common.saes.architectures.base import Context, Progress, variance
from common.saes.recipe import ArchitectureName, Recipe, Training
from common.saes.stream import as_batch
from common.saes.trainer import Trained, train

PYTHON = ROOT / ".venv-interop" / "bin" / "python"
LIBRARIES = {"saelens": "SAELens", "dictionary_learning": "dictionary_learning"}
ARCHITECTURE_NAMES: tuple[ArchitectureName, ...] = ("topk", "batch_topk")
D, D_SAE, K, BATCH, STEPS = 576, 4608, 32, 1024, 40
HELD_OUT = 4096
SWEEP = 6
SWEEPS = ((64, 256), (D, D_SAE // 4))  # the easy planted dictionary of the replication, and the embedded model
SETTINGS = Training.model_validate(
    {"steps": STEPS, "batch": BATCH, "learning_rate": 0.001, "warmup": 5, "decay_share": 0, "dead_after": 10_000_000}
)


def compare() -> Iterator[Row]:
    """One row per architecture and library, and one for each sweep."""
    train_data, held_out = planted(D)
    if not PYTHON.exists():
        print("SAELens and dictionary_learning are left out: run `make test-interop` first", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        save_file({"train": train_data, "held_out": held_out}, f"{folder}/data.safetensors")
        for name in ARCHITECTURE_NAMES if PYTHON.exists() else ():
            recipe = member(name, D_SAE)
            timed([recipe], train_data, Path(folder), steps=3)  # the first calls are slower
            for library, title in LIBRARIES.items():
                theirs = peer(library, name, Path(folder))
                [one], seconds = timed([recipe], train_data, Path(folder))
                yield Row(
                    f"training {name}, {D} -> {D_SAE}, k = {K}, {STEPS} steps of {BATCH}",
                    seconds,
                    f"{title}, its own trainer",
                    theirs["cpu"],
                    f"FVU held out {fvu(one, held_out):.3f} and {theirs['fvu']:.3f}",
                )
        for d, d_sae in SWEEPS:
            yield sweep(d, d_sae, Path(folder))


def sweep(d: int, d_sae: int, folder: Path) -> Row:
    """Members of one shape in one pass, and one after the other."""
    data, held_out = planted(d)
    recipes = [member("batch_topk", d_sae, seed) for seed in range(SWEEP)]
    timed(recipes, data, folder, steps=3)
    together, seconds = timed(recipes, data, folder)
    apart = [timed([recipe], data, folder) for recipe in recipes]
    worst = max(abs(fvu(a, held_out) - fvu(b, held_out)) for a, ([b], _) in zip(together, apart, strict=True))
    separate = sum(own for _, own in apart)
    return Row(
        f"training {SWEEP} SAEs, {d} -> {d_sae}, in one pass ({seconds / separate:.2f} of the time)",
        seconds,
        "the same trainer, one after the other",
        separate,
        f"FVU held out differ by at most {worst:.0e}",
    )


def member(architecture: ArchitectureName, d_sae: int, seed: int = 0) -> Recipe:
    """One SAE; everything else as by default."""
    return Recipe.model_validate({"architecture": architecture, "d_sae": d_sae, "sparsity": K, "seed": seed})


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


def timed(recipes: list[Recipe], data: Tensor, folder: Path, steps: int = STEPS) -> tuple[list[Trained], float]:
    """Our trainer, and its processor seconds."""
    batches = [as_batch(part) for part in torch.split(data, BATCH)]
    start = time.process_time()
    found = train(
        recipes, lambda step, source: batches[step], SETTINGS.model_copy(update={"steps": steps}), folder / "checkpoint"
    )
    return found, time.process_time() - start


def peer(library: str, architecture: str, folder: Path) -> dict[str, float]:
    """Seconds and FVU of a library, in a process of its own environment. UserError if it fails."""
    job: dict[str, Any] = {
        "library": library,
        "architecture": architecture,
        "data": str(folder / "data.safetensors"),
        "d": D,
        "d_sae": D_SAE,
        "k": K,
        "batch": BATCH,
        "steps": STEPS,
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
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def fvu(one: Trained, x: Tensor) -> float:
    """Of a trained member, latents selected within this batch as in training."""
    batch = as_batch(x)
    weights = {name: value[None] for name, value in one.weights.items()}
    dead = torch.zeros_like(one.progress.silent, dtype=torch.bool)
    progress = Progress(**vars(one.progress))
    context = Context([one.recipe], [one.recipe.sparsity], progress, dead, SETTINGS.bandwidth)
    with torch.no_grad():
        error = ARCHITECTURES[one.recipe.architecture].losses(weights, batch, context).error
        return float(error[0] / variance(batch.y)[0])
