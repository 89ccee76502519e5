"""Training two-layer models: our engine against a plain loop over TransformerLens' native model, and batched seeds.

Both sides see the same batches from the same initial weights and use AdamW with the same clipping and warm-up; the last
losses are compared. Shapes are those of the arm with added positions in `replications/induction_heads`, the one that
the native model can hold. The separate runs are the same engine, one seed at a time.
"""

import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks import Row
from common.toys.settings import Architecture, Optimisation
from common.toys.training import Job, Trained, learning_rate, train
from common.toys.transformer import Weights, forward, initial_weights, token_losses
from tests.bridging import load_in_bridge

SHAPE = Architecture(
    n_layers=2, keys="plain", positions="standard", mlp="none", d_model=64, n_heads=8, d_head=16, d_vocab=48, n_ctx=48
)
SETTINGS = Optimisation(
    steps=60, batch=32, learning_rate=0.005, warmup=20, beta1=0.9, beta2=0.98, weight_decay=0.01, clip=1.0
)
SEEDS = [0, 1, 2, 3, 4]


def compare() -> Iterator[Row]:
    """Two rows: one seed against the plain loop, and five batched seeds against five separate runs."""
    trained([0], steps=3)  # the first calls of both sides are slower
    plain_loop(0, steps=3)
    start = time.perf_counter()
    ours = float(trained([0]).losses[-1, 0])
    middle = time.perf_counter()
    theirs = plain_loop(0)
    end = time.perf_counter()
    tokens = SETTINGS.steps * SETTINGS.batch * SHAPE.n_ctx
    yield Row(
        f"training two layers, {tokens / (middle - start):,.0f} tokens/s",
        middle - start,
        f"plain loop, TransformerLens native model, {tokens / (end - middle):,.0f} tokens/s",
        end - middle,
        f"last losses {ours:.4f} and {theirs:.4f}",
    )
    start = time.perf_counter()
    together = trained(SEEDS).losses[-1]
    middle = time.perf_counter()
    apart = torch.cat([trained([seed]).losses[-1] for seed in SEEDS])
    end = time.perf_counter()
    yield Row(
        f"training {len(SEEDS)} seeds in one batch ({(middle - start) / (end - middle):.2f} of the time)",
        middle - start,
        "the same engine, one seed after the other",
        end - middle,
        f"last losses differ by at most {float((together - apart).abs().max()):.0e}",
    )


def batch(seed: int, step: int) -> Tensor:
    """Uniform tokens: what is learned does not matter here."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    return torch.randint(SHAPE.d_vocab, (SETTINGS.batch, SHAPE.n_ctx), generator=generator)


def trained(seeds: list[int], steps: int = SETTINGS.steps) -> Trained:
    """Our engine on all seeds at once."""

    def loss(weights: Weights, step: int) -> Tensor:
        tokens = torch.stack([batch(seed, step) for seed in seeds])
        return token_losses(forward(weights, tokens, SHAPE), tokens).mean((1, 2))

    job = Job(
        name="benchmark",
        weights=initial_weights(SHAPE, seeds),
        loss=loss,
        measure=lambda weights: {},
        measure_at=[],
        snapshots_at=[steps],
        rates=torch.ones(len(seeds)),
        tokens_per_step=len(seeds) * SETTINGS.batch * SHAPE.n_ctx,
    )
    return train(job, SETTINGS.model_copy(update={"steps": steps}))


def plain_loop(seed: int, steps: int = SETTINGS.steps) -> float:
    """What a TransformerLens user writes; the last loss."""
    model = load_in_bridge(initial_weights(SHAPE, [seed]), SHAPE)
    parameters = [parameter for name, parameter in model.named_parameters() if not name.endswith("bias")]
    optimiser = torch.optim.AdamW(
        parameters,
        lr=SETTINGS.learning_rate,
        betas=(SETTINGS.beta1, SETTINGS.beta2),
        weight_decay=SETTINGS.weight_decay,
    )
    for step in range(steps):
        tokens = batch(seed, step)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(SETTINGS, step)
        logits = model(tokens)
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, SETTINGS.clip)
        optimiser.step()
    return float(loss)
