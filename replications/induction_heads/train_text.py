"""Step: trains all seeds of one kind of language model on natural text in one batched job, measured all along.

Olsson et al. 2022, small models: attention-only models of one to three layers with plain and smeared keys, and one with
MLPs. All arms see as many tokens, and every seed the same batches in every arm. Out: one arm file (see `arm.py`).
"""

from pathlib import Path

from safetensors.torch import load_file

from common.core.step import Files, RunInfo, run_step
from common.data.bpe import stretches
from common.toys.settings import Architecture
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
    known = known.to(run.device)
    task = Task(
        shape=shape,
        text=text,
        batch=lambda seed, step: stretches(stream, training.optimisation.batch, tokens.length, seed, step),
        measure=lambda weights: track_text(weights, held, once, known, shape),
    )
    name, seeds = f"text, {files.models.stem}", run.seeds[: settings.arm.seeds]
    trained = train_models(name, task, seeds, training, training.optimisation, rate=1.0, device=run.device)
    save_arm(files.models, trained)


if __name__ == "__main__":
    run_step(train_text)
