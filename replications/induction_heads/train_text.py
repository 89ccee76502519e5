"""Step: trains all seeds of one kind of language model on natural text, measured as the arms on synthetic data are.

Olsson et al. 2022, small models: attention-only models of one to three layers and one with MLPs, at widths and lengths
that the scale allows. In-context gain and head scores come from one-shot repeats of random tokens, which are never
trained on; losses by index from held-out documents. Out: one arm file (see `arm.py`).
"""

from pathlib import Path

from safetensors.torch import load_file

from common.core.step import Files, RunInfo, run_step
from common.data.bpe import stretches
from common.toys.settings import Architecture
from replications.induction_heads.arm import save_arm
from replications.induction_heads.data import TRACKING, HeldOut, check, one_shot, unigram_oracle
from replications.induction_heads.repeats import completes_a_pair
from replications.induction_heads.settings import Text, Tokens, TrainText
from replications.induction_heads.train import Task, train_models


class TrainTextFiles(Files):
    tokens: Path
    """training stream and held-out documents"""
    models: Path


def train_text(files: TrainTextFiles, settings: TrainText, run: RunInfo) -> None:
    """Trains the first `n_seeds` seeds of the run on the stream of tokens."""
    tokens, training = settings.tokens, settings.training
    stored = load_file(files.tokens)
    stream, documents = stored["train"].long(), stored["held_out"].long()
    text = repeats_like(tokens)
    check(text)
    shape = Architecture(
        **settings.arm.model_dump(), keys="plain", positions="shortformer", d_vocab=tokens.d_vocab, n_ctx=tokens.length
    )
    task = Task(
        shape=shape,
        text=text,
        batch=lambda seed, step: stretches(stream, training.optimisation.batch, tokens.length, seed, step),
        once=one_shot(text, tokens.held_out, TRACKING),
        reading=HeldOut(documents, completes_a_pair(documents), unigram_oracle(documents)),
    )
    name, seeds = f"text, {files.models.stem}", run.seeds[: training.n_seeds]
    trained = train_models(name, task, seeds, training, training.optimisation, rate=1.0, device=run.device)
    save_arm(files.models, trained)


def repeats_like(tokens: Tokens) -> Text:
    """One-shot repeats of random tokens as long as the documents' sequences: first copies in the first half."""
    length = tokens.length
    return Text(
        length=length, d_vocab=tokens.d_vocab, shortest=2, longest=length // 2,
        shortest_block=max(2, length // 8), longest_block=length // 4,
    )  # fmt: skip


if __name__ == "__main__":
    run_step(train_text)
