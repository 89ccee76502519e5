"""Many equally important features (n = 80, m = 10) to equal loss: our stream against the standard recipe.

Instead: the authors' notebook, batched instances, AdamW with a constant rate, a fresh dense uniform sample of 1024
points a step. It is stopped as soon as every instance is within half a percent of our loss on a common sample.
"""

import time
from collections.abc import Iterator

import torch

from benchmarks import Row
from benchmarks.toy_models import standard_recipe
from common.toys.settings import Optimisation
from common.toys.training import train
from replications.superposition.model import evaluate
from replications.superposition.streams import batch, stream_job

DENSITIES, FEATURES, HIDDEN = [0.33, 0.2, 0.1, 0.05], 80, 10
OURS = Optimisation(
    steps=700, batch=128, learning_rate=0.02, decay="cosine", warmup=20, beta1=0.9, beta2=0.99, weight_decay=0.0,
    clip=1000.0,
)  # fmt: skip
MOST_STEPS, SLACK = 6_000, 1.005


def compare() -> Iterator[Row]:
    """One row: four densities, one seed."""
    at = torch.tensor(DENSITIES, dtype=torch.float64)
    ones = torch.ones(FEATURES, dtype=torch.float64)
    check = batch(at, FEATURES, 8192, 12345, 0)
    start = time.perf_counter()
    job = stream_job(
        "bench",
        DENSITIES,
        ones,
        HIDDEN,
        "relu",
        optimisation=OURS,
        seeds=[100],
        device="cpu",
        snapshots_at=[OURS.steps],
    )
    found = train(job, OURS)
    ours = time.perf_counter() - start
    scale = ones.float().expand(len(at), -1)
    target = evaluate(found.snapshots["W"][-1], found.snapshots["b"][-1], check, scale, "relu").loss
    start = time.perf_counter()
    reached = target

    def done(W: torch.Tensor, b: torch.Tensor) -> bool:
        nonlocal reached
        reached = evaluate(W, b, check, scale, "relu").loss
        return bool((reached <= target * SLACK).all())

    steps = standard_recipe(torch.tensor(DENSITIES), FEATURES, HIDDEN, MOST_STEPS, done)
    theirs = time.perf_counter() - start
    yield Row(
        f"n = {FEATURES}, m = {HIDDEN}, {len(at)} densities",
        ours,
        f"AdamW of the authors' notebook, {steps} steps",
        theirs,
        f"loss ratio {float((reached / target).max()):.3f} at most",
    )
