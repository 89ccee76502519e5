"""Training SAEs: ours against SAELens and dictionary_learning, and a sweep of six in one pass against six runs.

Against the libraries, both sides see the same batches of a planted dictionary at the width of the embedded model,
float32, with the same number of steps, batch, k, rate, warm-up and threads; each library uses its own trainer. What is
compared is the fraction of variance unexplained (FVU) on held-out data after several numbers of steps, with a batch's
own selection on both sides; measuring it counts for neither. The libraries run in the environment of `make
test-interop`, one process after the other; without it their rows are left out.

Six SAEs of one shape against six runs, twice: the arithmetic alone, and from text. From text the activations before
layer 12 of the embedded model are harvested into shards once and read by all six, against runs that each tokenise,
run the model and train from memory, as with a library that makes activations while it trains (the activation store of
SAELens). Model and corpus are loaded for neither side.

Seconds are those of the processor, summed over threads, so that a busy machine counts for both sides alike.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import Row, default_corpus, default_model
from common.core.errors import UserError
from common.core.settings import ROOT
from common.data.corpora import Split
from common.data.models import fast_dtype, load_model, load_tokenizer
from common.saes.architectures import ARCHITECTURES
from common.saes.architectures.base import Context, Progress, Weights, variance
from common.saes.harvest import Harvest, harvest, windows
from common.saes.recipe import ArchitectureName, Recipe, Training
from common.saes.stream import Activations, as_batch, write_shards
from common.saes.trainer import Batches, Trained, train

PYTHON = ROOT / ".venv-interop" / "bin" / "python"
LIBRARIES = {"saelens": "SAELens", "dictionary_learning": "dictionary_learning"}
ARCHITECTURE_NAMES: tuple[ArchitectureName, ...] = ("topk", "batch_topk")
D, D_SAE, K, BATCH, STEPS = 576, 4608, 32, 1024, 40
AFTER = (5, 10, 20, STEPS)  # steps after which FVU is compared
HELD_OUT = 4096
SWEEP = 6
SWEEPS = ((64, 256), (D, D_SAE // 4))  # the easy planted dictionary of the replication, and the embedded model
HOOK = "blocks.12.hook_resid_pre"
WINDOW, WINDOWS_AT_ONCE = 128, 32
TEXT_STEPS, TEXT_TOKENS = 6, 6_800  # each activation is seen at most once; some tokens are dropped
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
            timed([recipe], in_order(train_data), Path(folder), 3)  # the first calls are slower
            for library, title in LIBRARIES.items():
                theirs = peer(library, name, Path(folder))
                curve = Curve(recipe, held_out)
                _, seconds = timed([recipe], in_order(train_data), Path(folder), STEPS, curve)
                yield Row(
                    f"training {name}, {D} -> {D_SAE}, k = {K}, {STEPS} steps of {BATCH}",
                    seconds,
                    f"{title}, its own trainer",
                    theirs["cpu"],
                    f"FVU held out after {listed(AFTER)} steps: {listed(curve.fvu)}; {listed(theirs['fvu'])}",
                )
        for d, d_sae in SWEEPS:
            yield sweep(d, d_sae, Path(folder))
        yield from_text(Path(folder))


def sweep(d: int, d_sae: int, folder: Path) -> Row:
    """Members of one shape in one pass, and one after the other."""
    data, held_out = planted(d)
    recipes = [member("batch_topk", d_sae, seed) for seed in range(SWEEP)]
    timed(recipes, in_order(data), folder, 3)
    together, seconds = timed(recipes, in_order(data), folder, STEPS)
    apart = [timed([recipe], in_order(data), folder, STEPS) for recipe in recipes]
    separate = sum(own for _, own in apart)
    return Row(
        f"training {SWEEP} SAEs, {d} -> {d_sae}, in one pass ({seconds / separate:.2f} of the time)",
        seconds,
        "the same trainer, one after the other",
        separate,
        differences(together, [one for [one], _ in apart], held_out),
    )


def from_text(folder: Path) -> Row:
    """Harvest once, train in one pass; and harvest and train anew for each. The same activations in the same order."""
    recipes = [member("batch_topk", D_SAE // 4, seed) for seed in range(SWEEP)]
    tokenizer, bridge = load_tokenizer(default_model()), load_model(default_model(), dtype=fast_dtype())
    corpus, special = default_corpus(), sorted(set(tokenizer.all_special_ids))

    def harvested(split: Split, tokens: int) -> Harvest:
        chosen = windows([corpus], split, tokenizer, WINDOW, [tokens])
        return harvest(bridge, chosen, [HOOK], special, WINDOWS_AT_ONCE, "cpu")[HOOK]

    x = harvested("held_out", BATCH).x.float()  # the first call is slower
    start = time.process_time()
    found = harvested("validation", TEXT_TOKENS)
    about = {"model": default_model().name, "hook": HOOK, "corpora": [corpus.name], "dropped": found.dropped}
    write_shards(folder / "shards", found.x, found.document, found.token_id, about=about)
    stored = Activations(folder / "shards")
    harvesting = time.process_time() - start
    together, training = timed(recipes, lambda step, source: as_batch(stored.batch(step, BATCH)), folder, TEXT_STEPS)
    apart, separate = [], 0.0
    for recipe in recipes:
        start = time.process_time()
        batches = from_memory(harvested("validation", TEXT_TOKENS).x)
        separate += time.process_time() - start
        [one], seconds = timed([recipe], batches, folder, TEXT_STEPS)
        apart.append(one)
        separate += seconds
    ours = harvesting + training
    return Row(
        f"{SWEEP} SAEs, {D} -> {D_SAE // 4}, {TEXT_STEPS * BATCH} tokens of text ({ours / separate:.2f} of the time)",
        ours,
        "a run for each, which harvests for itself",
        separate,
        differences(together, apart, x * stored.manifest.scale),
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


def in_order(data: Tensor) -> Batches:
    """Batches as the data lie."""
    batches = [as_batch(part) for part in torch.split(data, BATCH)]
    return lambda step, source: batches[step]


def from_memory(x: Tensor) -> Batches:
    """Scaled batches of activations that never were in a file, in the order in which shards would give them."""
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    order = shuffled[shuffled]  # once on the way to the shards, once when they are read
    scale = float(x.double().square().sum(1).mean()) ** -0.5
    return lambda step, source: as_batch(x[order[step * BATCH : (step + 1) * BATCH]].float() * scale)


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


def timed(
    recipes: list[Recipe], batches: Batches, folder: Path, steps: int, curve: Curve | None = None
) -> tuple[list[Trained], float]:
    """Our trainer, and its processor seconds without those of the curve."""
    settings = SETTINGS.model_copy(update={"steps": steps})
    start = time.process_time()
    found = train(recipes, batches, settings, folder / "checkpoint", constrain=curve)
    return found, time.process_time() - start - (curve.seconds if curve else 0.0)


def peer(library: str, architecture: str, folder: Path) -> dict[str, Any]:
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
    return found


def fvu(recipe: Recipe, weights: Weights, x: Tensor) -> float:
    """Of the weights of a group of one, latents selected within this batch as in training."""
    batch = as_batch(x)
    dead = torch.zeros(1, recipe.d_sae, dtype=torch.bool)
    progress = Progress(dead.long(), torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    context = Context([recipe], [recipe.sparsity], progress, dead, SETTINGS.bandwidth)
    with torch.no_grad():
        error = ARCHITECTURES[recipe.architecture].losses(weights, batch, context).error
        return float(error[0] / variance(batch.y)[0])


def differences(together: list[Trained], apart: list[Trained], held_out: Tensor) -> str:
    """How far both sides are from each other."""
    both = [
        [fvu(one.recipe, {name: value[None] for name, value in one.weights.items()}, held_out) for one in side]
        for side in (together, apart)
    ]
    worst = max(abs(one - other) for one, other in zip(*both, strict=True))
    return f"FVU held out {sum(both[0]) / SWEEP:.3f}, differs by at most {worst:.0e}"


def listed(values: Iterable[float]) -> str:
    """Whole numbers as they are, others with three digits."""
    return ", ".join(f"{value:.3g}" for value in values)
