"""Five features in a plane to the same loss: batched quasi-Newton on a fixed sample, against the standard recipe.

Instead: the recipe of the authors' notebook with its batched instances: AdamW, a fresh dense uniform sample of 1024
points a step. It is stopped as soon as its best instance is within one percent of our best loss on a common sample.
"""

import time
from collections.abc import Iterator

import torch

from benchmarks import Row
from replications.superposition.grid import train_grid
from replications.superposition.model import Data, evaluate, sample
from replications.superposition.training import initial
from replications.superposition.training_settings import Effort

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
    reached, steps = standard_recipe(check, target * SLACK)
    theirs = time.perf_counter() - start
    yield Row(
        f"n = 5, m = 2, best of {RESTARTS} restarts",
        ours,
        f"AdamW of the authors' notebook, {steps} steps",
        theirs,
        f"losses {target:.5f} and {reached:.5f}",
    )


def standard_recipe(check: Data, target: float) -> tuple[float, int]:
    """Trains `RESTARTS` instances until one reaches `target`; its loss and the number of steps."""
    generator = torch.Generator().manual_seed(0)
    parameters = [one.float().requires_grad_() for one in initial(RESTARTS, HIDDEN, FEATURES, generator)]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3)
    importance = torch.ones(RESTARTS, FEATURES, dtype=torch.float64)
    reached = float("inf")
    for step in range(1, MOST_STEPS + 1):
        active = torch.rand(BATCH, RESTARTS, FEATURES, generator=generator) < DENSITY
        x = torch.rand(BATCH, RESTARTS, FEATURES, generator=generator) * active
        hidden = torch.einsum("bif,imf->bim", x, parameters[0])
        output = (torch.einsum("bim,imf->bif", hidden, parameters[0]) + parameters[1]).relu()
        optimiser.zero_grad()
        ((output - x) ** 2).mean((0, 2)).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % CHECK_EVERY == 0:
            W, b = (one.detach().double() for one in parameters)
            reached = float(evaluate(W, b, check, importance, "relu").loss.min())
            if reached <= target:
                break
    return reached, step
