"""Five features in a plane to the same loss: batched quasi-Newton on a fixed sample, against the standard recipe.

Instead: the recipe of the authors' notebook with its batched instances: AdamW, a fresh dense uniform sample of 1024
points a step. It is stopped as soon as its best instance is within one percent of our best loss on a common sample.
"""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks import Row
from replications.superposition.grid import train_grid
from replications.superposition.model import evaluate, sample
from replications.superposition.settings import Effort
from replications.superposition.training import initial

DENSITY, FEATURES, HIDDEN, RESTARTS = 0.05, 5, 2, 20
BATCH, CHECK_EVERY, MOST_STEPS, SLACK = 1024, 100, 10_000, 1.01


def compare() -> Iterator[Row]:
    """One row: best of twenty restarts at the density of the pentagon."""
    ones = torch.ones(1, FEATURES, dtype=torch.float64)
    check = sample(DENSITY, FEATURES, 16384, 12345)
    start = time.perf_counter()
    effort = Effort(restarts=RESTARTS, samples=4096, evaluation_samples=16384, steps=150)
    grid = train_grid([DENSITY], ones, HIDDEN, "relu", effort=effort, seeds=[100], device="cpu")
    ours = time.perf_counter() - start
    best = grid.best()
    target = float(evaluate(best.W[0, 0], best.b[0, 0], check, ones, "relu").loss)
    start = time.perf_counter()
    importance = torch.ones(RESTARTS, FEATURES, dtype=torch.float64)
    reached = float("inf")

    def done(W: Tensor, b: Tensor) -> bool:
        nonlocal reached
        reached = float(evaluate(W.double(), b.double(), check, importance, "relu").loss.min())
        return reached <= target * SLACK

    steps = standard_recipe(torch.full((RESTARTS,), DENSITY), FEATURES, HIDDEN, MOST_STEPS, done)
    theirs = time.perf_counter() - start
    yield Row(
        f"n = 5, m = 2, best of {RESTARTS} restarts",
        ours,
        f"AdamW of the authors' notebook, {steps} steps",
        theirs,
        f"losses {target:.5f} and {reached:.5f}",
    )


def standard_recipe(
    density: Tensor, features: int, hidden: int, most_steps: int, done: Callable[[Tensor, Tensor], bool]
) -> int:
    """Trains one instance per entry of `density` until `done` says so of their weights; the number of steps."""
    generator = torch.Generator().manual_seed(0)
    W, b = (one.float().requires_grad_() for one in initial(len(density), hidden, features, generator))
    optimiser = torch.optim.AdamW([W, b], lr=1e-3)
    step = 0
    for step in range(1, most_steps + 1):
        active = torch.rand(BATCH, len(density), features, generator=generator) < density[:, None]
        x = torch.rand(BATCH, len(density), features, generator=generator) * active
        output = (torch.einsum("bim,imf->bif", torch.einsum("bif,imf->bim", x, W), W) + b).relu()
        optimiser.zero_grad()
        ((output - x) ** 2).mean((0, 2)).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % CHECK_EVERY == 0 and done(W.detach(), b.detach()):
            break
    return step
