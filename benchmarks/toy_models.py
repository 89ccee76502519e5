"""Five features in a plane to the same loss: batched quasi-Newton on a fixed sample, against the standard recipe.

Instead: the recipe of the authors' notebook with its batched instances, AdamW and a fresh sample of 1024 points a step.
The learning rate is the one of `RATES` that is there in the fewest steps (found beforehand and not timed). It is
stopped as soon as its best instance is within one percent of our best loss on a common sample.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks import Task
from replications.superposition.grid import train_grid
from replications.superposition.model import evaluate, sample
from replications.superposition.settings import Effort
from replications.superposition.training import initial

DENSITY, FEATURES, HIDDEN, RESTARTS = 0.05, 5, 2, 20
BATCH, CHECK_EVERY, MOST_STEPS, SLACK = 1024, 50, 4_000, 1.01
RATES = (0.001, 0.003, 0.01, 0.03)


def tasks() -> Iterator[Task]:
    """One task: best of twenty restarts at the density of the pentagon."""
    ones = torch.ones(1, FEATURES, dtype=torch.float64)
    check = sample(DENSITY, FEATURES, 16384, 12345)
    effort = Effort(restarts=RESTARTS, samples=4096, evaluation_samples=16384, steps=150)

    def ours() -> float:
        best = train_grid([DENSITY], ones, HIDDEN, "relu", effort=effort, seeds=[100], device="cpu").best()
        return float(evaluate(best.W[0, 0], best.b[0, 0], check, ones, "relu").loss)

    target = ours()

    def loss(W: Tensor, b: Tensor) -> float:
        importance = torch.ones(RESTARTS, FEATURES, dtype=torch.float64)
        return float(evaluate(W.double(), b.double(), check, importance, "relu").loss.min())

    def theirs(rate: float) -> tuple[int, float]:
        generator = torch.Generator().manual_seed(0)
        W, b = (one.float().requires_grad_() for one in initial(RESTARTS, HIDDEN, FEATURES, generator))
        optimiser = torch.optim.AdamW([W, b], lr=rate, fused=True)
        reached = float("inf")
        for step in range(1, MOST_STEPS + 1):
            active = torch.rand(BATCH, RESTARTS, FEATURES, generator=generator) < DENSITY
            x = torch.rand(BATCH, RESTARTS, FEATURES, generator=generator) * active
            output = (torch.einsum("bim,imf->bif", torch.einsum("bif,imf->bim", x, W), W) + b).relu()
            optimiser.zero_grad()
            ((output - x) ** 2).mean((0, 2)).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if step % CHECK_EVERY == 0 and (reached := loss(W.detach(), b.detach())) <= target * SLACK:
                break
        return step, reached

    tried = {rate: theirs(rate) for rate in RATES}
    best = min(tried, key=lambda rate: (tried[rate][1] > target * SLACK, tried[rate][0]))
    yield Task(
        f"n = 5, m = 2, best of {RESTARTS} restarts to equal loss",
        ours,
        f"AdamW (fused) of the authors' notebook at its best rate {best}, {tried[best][0]} steps",
        lambda: theirs(best),
        lambda mine, other: f"losses {mine:.5f} and {other[1]:.5f}",
    )
