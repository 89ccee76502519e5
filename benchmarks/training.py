"""Training five seeds of a two-layer model: our engine, all in one batch, against a plain PyTorch module for each.

The peer is a module without hooks: fused attention, fused AdamW, gradients clipped by torch. Both sides see the same
batches from the same initial weights, with the same rates and warm-up; the last losses are compared. Shapes are those
of the arm with added positions in `replications/induction_heads`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm, scaled_dot_product_attention

from benchmarks import Task
from common.toys.settings import Architecture, Optimisation
from common.toys.training import Job, learning_rate, train
from common.toys.transformer import EPSILON, Weights, forward, initial_weights, token_losses

SHAPE = Architecture(
    n_layers=2, keys="plain", positions="standard", mlp="none", d_model=64, n_heads=8, d_head=16, d_vocab=48, n_ctx=48
)
SETTINGS = Optimisation(
    steps=20, batch=32, learning_rate=0.005, warmup=10, beta1=0.9, beta2=0.98, weight_decay=0.01, clip=1.0
)
SEEDS = [0, 1, 2, 3, 4]


def tasks() -> Iterator[Task]:
    """One task: five seeds."""
    together(3)  # the first calls are slower
    apart(3)
    tokens = SETTINGS.batch * SHAPE.n_ctx
    yield Task(
        f"training {len(SEEDS)} seeds of a two-layer model, {SETTINGS.steps} steps of {tokens} tokens",
        together,
        "a plain PyTorch module (fused attention, fused AdamW), one seed after the other",
        apart,
        lambda mine, other: f"last losses differ by at most {float((mine - other).abs().max()):.0e}",
    )


def batch(seed: int, step: int) -> Tensor:
    """Uniform tokens: what is learned does not matter here."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    return torch.randint(SHAPE.d_vocab, (SETTINGS.batch, SHAPE.n_ctx), generator=generator)


def together(steps: int = SETTINGS.steps) -> Tensor:
    """Our engine on all seeds at once; their last losses."""

    def loss(weights: Weights, step: int) -> Tensor:
        tokens = torch.stack([batch(seed, step) for seed in SEEDS])
        return token_losses(forward(weights, tokens, SHAPE), tokens).mean((1, 2))

    job = Job(
        name="benchmark",
        weights=initial_weights(SHAPE, SEEDS),
        loss=loss,
        measure=lambda weights: {},
        measure_at=[],
        snapshots_at=[],
        rates=torch.ones(len(SEEDS)),
        tokens_per_step=len(SEEDS) * SETTINGS.batch * SHAPE.n_ctx,
    )
    return train(job, SETTINGS.model_copy(update={"steps": steps})).losses[-1]


class Model(nn.Module):
    """The same model as a user would write it, from one instance of our initial weights."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        given = {name: value[0] for name, value in weights.items()}
        self.embed, self.pos = nn.Parameter(given["embed.W_E"]), nn.Parameter(given["pos_embed.W_pos"])
        self.unembed = nn.Parameter(given["unembed.W_U"])
        self.qkv, self.out = nn.ParameterList(), nn.ParameterList()
        for layer in range(SHAPE.n_layers):
            parts = [given[f"blocks.{layer}.attn.W_{letter}"].movedim(0, 1).flatten(1) for letter in "QKV"]
            self.qkv.append(nn.Parameter(torch.cat(parts, 1)))
            self.out.append(nn.Parameter(given[f"blocks.{layer}.attn.W_O"].flatten(0, 1)))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed[tokens] + self.pos
        for qkv, out in zip(self.qkv, self.out, strict=True):
            q, k, v = (layer_norm(x, x.shape[-1:], eps=EPSILON) @ qkv).chunk(3, -1)
            q, k, v = (part.unflatten(-1, (SHAPE.n_heads, SHAPE.d_head)).transpose(1, 2) for part in (q, k, v))
            x = x + scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2) @ out
        return layer_norm(x, x.shape[-1:], eps=EPSILON) @ self.unembed


def apart(steps: int = SETTINGS.steps) -> Tensor:
    """The plain module, one seed after the other; the last losses."""
    last = []
    for seed in SEEDS:
        model = Model(initial_weights(SHAPE, [seed]))
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=SETTINGS.learning_rate, betas=(SETTINGS.beta1, SETTINGS.beta2),
            weight_decay=SETTINGS.weight_decay, fused=True,
        )  # fmt: skip
        for step in range(steps):
            tokens = batch(seed, step)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(SETTINGS, step)
            loss = cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS.clip)
            optimiser.step()
        last.append(loss.detach())
    return torch.stack(last)
