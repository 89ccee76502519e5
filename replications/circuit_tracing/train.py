"""Step: trains the two-hop transformers, one per seed, in one batched job.

The loss is the cross entropy of the answer behind the relation plus that of the class's own word behind the name. The
text "Dallas, Texas" would teach this. So the algorithm is known: the class is looked up at the last name, and moved to
the relation, where the answer is looked up. Without the class word the model answers trained prompts by heart.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from common.core.errors import UserError
from common.core.files import atomic
from common.core.settings import Strict
from common.core.step import Files, RunInfo, run_step
from common.toys.training import Job
from common.toys.training import train as train_job
from common.toys.transformer import Weights, forward, initial_weights
from replications.circuit_tracing.settings import Model, Task
from replications.circuit_tracing.task import LAST, LENGTH, RELATION, tables
from replications.circuit_tracing.toy import architecture


class Trained(Strict):
    """Task and models."""

    task: Task
    model: Model


class TrainFiles(Files):
    models: Path
    """weights [seed ...], `seeds`, `accuracy` on trained and on held-out prompts [2 seed]"""


def train(files: TrainFiles, settings: Trained, run: RunInfo) -> None:
    """Trains and says how many prompts are answered."""
    shape, how = architecture(settings.model, settings.task), settings.model.optimisation
    each = [tables(settings.task, seed) for seed in run.seeds]

    def stacked(field: str, held_out: bool) -> Tensor:
        return torch.stack([getattr(one, field)[one.held_out == held_out] for one in each]).to(run.device)

    prompts, correct, words = (stacked(name, False) for name in ("prompts", "correct", "word"))

    def loss(weights: Weights, step: int) -> Float[Tensor, " seed"]:
        draw = torch.Generator().manual_seed(step)
        chosen = torch.randint(prompts.shape[1], (how.batch,), generator=draw)
        logits = forward(weights, prompts[:, chosen], shape)
        answered = zip(logits, correct[:, chosen], words[:, chosen], strict=True)
        return torch.stack([
            cross_entropy(one[:, RELATION], answer) + cross_entropy(one[:, LAST], word)
            for one, answer, word in answered
        ])  # fmt: skip

    def measure(weights: Weights) -> Weights:
        sets = [(prompts, correct), (stacked("prompts", True), stacked("correct", True))]
        right = [(forward(weights, x, shape)[:, :, -1].argmax(-1) == y).float().mean(1) for x, y in sets]
        return {"accuracy": torch.stack(right)}

    weights = {name: value.to(run.device) for name, value in initial_weights(shape, run.seeds).items()}
    rates = torch.ones(len(run.seeds), device=run.device)
    job = Job("two-hop", weights, loss, measure, [how.steps], [how.steps], rates, how.batch * LENGTH * len(run.seeds))
    done = train_job(job, how)
    found = {name: value[0] for name, value in done.snapshots.items()}
    found |= {"accuracy": done.measured["accuracy"][0], "seeds": torch.tensor(run.seeds)}
    print(f"answered: {found['accuracy'].tolist()} (trained, held out; by seed)", flush=True)
    with atomic(files.models) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in found.items()}, temporary)


def load_models(path: Path) -> tuple[Weights, Float[Tensor, "set seed"], list[int]]:
    """Weights of all seeds, accuracies and seeds. UserError if the file is missing."""
    if not path.exists():
        raise UserError(f"{path} does not exist; run `make circuit_tracing`")
    stored = load_file(path)
    return stored, stored.pop("accuracy"), [int(seed) for seed in stored.pop("seeds")]


if __name__ == "__main__":
    run_step(train)
