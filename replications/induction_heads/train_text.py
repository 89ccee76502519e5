"""Step: trains all seeds of one kind of language model on natural text in one batched job, measured all along.

Olsson et al. 2022, small models: attention-only models of one to three layers with plain and smeared keys, and one with
MLPs. All arms see as many tokens, and every seed the same batches in every arm. Out: one arm file (see `arm.py`).

Shortformer positions start as sinusoids (Press et al. 2020), with wavelengths from two tokens to the whole context.
They are twice as large as the normalised residual stream that they are added to. Random positions, or wavelengths of
thousands of tokens, give previous-token heads so slowly that these runs would end before any induction head
(METHODS.md).
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.step import Files, RunInfo, run_step
from common.data.bpe import stretches
from common.toys.settings import Architecture
from common.toys.transformer import initial_weights
from replications.induction_heads.arm import save_arm
from replications.induction_heads.data import TRACKING, check
from replications.induction_heads.settings import TrainText
from replications.induction_heads.text_evaluation import (
    random_repeats_of,
    repeats_like,
    stretches_of,
    track_text,
    usual_tokens,
)
from replications.induction_heads.train import Task, train_models

POSITION_SIZE = 2.0  # root mean square of a component
SHORTEST_WAVE = 2.0  # tokens


class TrainTextFiles(Files):
    tokens: Path
    """training stream and held-out stretches"""
    models: Path


def train_text(files: TrainTextFiles, settings: TrainText, run: RunInfo) -> None:
    """Trains the first `arm.seeds` seeds of the run on the stream of tokens."""
    tokens, training = settings.tokens, settings.training
    stored = load_file(files.tokens)
    stream = stored["train"].long()
    known = usual_tokens(stream, tokens.d_vocab)
    text = repeats_like(tokens, len(known))
    check(text)
    shape = Architecture(
        **settings.arm.model_dump(exclude={"seeds"}),
        positions="shortformer",
        d_vocab=tokens.d_vocab,
        n_ctx=tokens.length,
    )
    held = stretches_of(stored["held_out"].long().to(run.device), settings.contexts)
    once = random_repeats_of(known, text, tokens.repeats, TRACKING).to(run.device)
    known, seeds = known.to(run.device), run.seeds[: settings.arm.seeds]
    positions = sinusoids(shape.n_ctx, shape.d_model).expand(len(seeds), -1, -1).clone()
    task = Task(
        shape=shape,
        text=text,
        start={**initial_weights(shape, seeds), "pos_embed.W_pos": positions},
        batch=lambda seed, step: stretches(stream, training.optimisation.batch, tokens.length, seed, step),
        measure=lambda weights: track_text(weights, held, once, known, shape),
    )
    trained = train_models(f"text, {files.models.stem}", task, seeds, training, device=run.device)
    save_arm(files.models, trained)


def sinusoids(length: int, d_model: int) -> Float[Tensor, "pos d_model"]:
    """Sine and cosine of every position, wavelengths in geometric progression up to `length` tokens."""
    pairs = d_model // 2
    waves = SHORTEST_WAVE * (length / SHORTEST_WAVE) ** (torch.arange(pairs) / pairs)
    angles = 2 * math.pi * torch.arange(length)[:, None] / waves
    return POSITION_SIZE * math.sqrt(2) * torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)


if __name__ == "__main__":
    run_step(train_text)
