"""Step: trains all seeds of one kind of language model on natural text, measured as the arms on synthetic data are.

Olsson et al. 2022, small models: attention-only models of one to three layers and one with MLPs, at widths and lengths
that the scale allows. In-context gain and head scores come from one-shot repeats of random tokens, which are never
trained on; losses by index from held-out documents. Out: one arm file (see `arm.py`).
"""

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file

from common.core.step import run
from common.data.bpe import stretches
from common.toys.settings import Architecture
from common.toys.training import Job, train
from common.toys.transformer import Weights, forward, initial_weights, token_losses
from replications.induction_heads.arm import ArmResult, save_arm
from replications.induction_heads.arm_settings import Text
from replications.induction_heads.data import TRACKING, HeldOut, check, one_shot, unigram_oracle
from replications.induction_heads.evaluation import track
from replications.induction_heads.repeats import completes_a_pair
from replications.induction_heads.text_settings import TextArm, TextTraining, Tokens


def train_text(
    *,
    name: str,
    corpus: Path,
    arm: TextArm,
    tokens: Tokens,
    training: TextTraining,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    out: Path,
) -> None:
    """Trains the first `n_seeds` of `seeds` on the stream in `corpus` and writes `out`."""
    stored = load_file(corpus)
    stream, documents = stored["train"].long(), stored["held_out"].long()
    text = repeats_like(tokens)
    check(text)
    shape = Architecture(
        **arm.model_dump(), keys="plain", positions="shortformer", d_vocab=tokens.d_vocab, n_ctx=tokens.length
    )
    chosen, optimisation = seeds[: training.n_seeds], training.optimisation
    once = one_shot(text, tokens.held_out, TRACKING).to(device)
    read = HeldOut(documents, completes_a_pair(documents), unigram_oracle(documents)).to(device)

    def loss(weights: Weights, step: int) -> torch.Tensor:
        batch = torch.stack([stretches(stream, optimisation.batch, tokens.length, seed, step) for seed in chosen])
        batch = batch.to(device)
        return token_losses(forward(weights, batch, shape), batch).mean((1, 2))

    at = sorted({*range(0, optimisation.steps, training.measure_every), optimisation.steps})
    kept = sorted({step for step in training.snapshots if step <= optimisation.steps} | {optimisation.steps})
    job = Job(
        name=f"text, {name}",
        weights={key: value.to(device) for key, value in initial_weights(shape, chosen).items()},
        loss=loss,
        measure=lambda weights: track(weights, once, read, shape),
        measure_at=at,
        snapshots_at=kept,
        rates=torch.ones(len(chosen), device=device),
        tokens_per_step=len(chosen) * optimisation.batch * tokens.length,
    )
    save_arm(out, ArmResult(shape, text, chosen, at, kept, train(job, optimisation)))


def repeats_like(tokens: Tokens) -> Text:
    """One-shot repeats of random tokens as long as the documents' sequences: first copies in the first half."""
    length = tokens.length
    return Text(
        length=length, d_vocab=tokens.d_vocab, shortest=2, longest=length // 2,
        shortest_block=max(2, length // 8), longest_block=length // 4,
    )  # fmt: skip


if __name__ == "__main__":
    run(train_text)
