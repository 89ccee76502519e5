"""Many equally important features (n = 80, m = 10) to equal loss: our stream against the standard recipe.

Instead: the authors' notebook, batched instances, AdamW with a constant rate, a fresh dense uniform sample of 1024
points a step. It is stopped as soon as every instance is within half a percent of our loss on a common sample.
"""

import time
from collections.abc import Iterator

import torch

from benchmarks import Row
from common.network_settings import Optimisation
from common.training import train
from replications.superposition.model import Data, evaluate
from replications.superposition.streams import batch, stream_job
from replications.superposition.training import initial

DENSITIES, FEATURES, HIDDEN = [0.33, 0.2, 0.1, 0.05], 80, 10
OURS = Optimisation(
    steps=700, batch=128, learning_rate=0.02, decay="cosine", warmup=20, beta1=0.9, beta2=0.99, weight_decay=0.0,
    clip=1000.0,
)  # fmt: skip
BATCH, CHECK_EVERY, MOST_STEPS, SLACK = 1024, 100, 6_000, 1.005


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
    reached, steps = standard_recipe(check, target * SLACK)
    theirs = time.perf_counter() - start
    yield Row(
        f"n = {FEATURES}, m = {HIDDEN}, {len(at)} densities",
        ours,
        f"AdamW of the authors' notebook, {steps} steps",
        theirs,
        f"loss ratio {float((reached / target).max()):.3f} at most",
    )


def standard_recipe(check: Data, target: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Trains until every instance reaches its target; losses and the number of steps."""
    generator = torch.Generator().manual_seed(0)
    starts = initial(len(DENSITIES), HIDDEN, FEATURES, generator)
    parameters = [one.float().requires_grad_() for one in starts]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3)
    scale = torch.ones(len(DENSITIES), FEATURES)
    density = torch.tensor(DENSITIES)[:, None]
    reached, step = target, 0
    for step in range(1, MOST_STEPS + 1):
        active = torch.rand(BATCH, len(DENSITIES), FEATURES, generator=generator) < density
        x = torch.rand(BATCH, len(DENSITIES), FEATURES, generator=generator) * active
        hidden = torch.einsum("bif,imf->bim", x, parameters[0])
        output = (torch.einsum("bim,imf->bif", hidden, parameters[0]) + parameters[1]).relu()
        optimiser.zero_grad()
        ((output - x) ** 2).mean((0, 2)).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % CHECK_EVERY == 0:
            reached = evaluate(parameters[0].detach(), parameters[1].detach(), check, scale, "relu").loss
            if bool((reached <= target).all()):
                break
    return reached, step
