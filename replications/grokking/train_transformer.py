"""Step: trains the one-layer transformers of Nanda et al. 2023, one batched job per arm.

Arms: `late` (small share of the pairs, weight decay), `prompt` (large share, weight decay), `free` (small share, no
weight decay). Full batch, AdamW with 10 steps of warm-up, as in the authors' code. Out: one safetensors file with
losses and accuracies along training of every arm, and snapshots of the weights of `late`.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step
from common.toys.settings import Optimisation
from common.toys.training import Job
from common.toys.training import train as train_job
from replications.grokking.model import Task, task
from replications.grokking.settings import Transformer
from replications.grokking.transformer import Weights, all_pairs, initial_transformer, logits, losses, split

WARMUP = 10
DENSE_UNTIL = 400  # losses are measured ten times as often up to here: memorising takes a few hundred steps
LOOSE = 1e6  # gradients are not clipped


def points(steps: int, every: int) -> list[int]:
    """The steps before which losses are measured."""
    return sorted({*range(0, min(DENSE_UNTIL, steps), max(1, every // 10)), *range(0, steps, every), steps})


def chosen(tasks: Task, prime: int) -> tuple[Tensor, Tensor]:
    """Inputs [instance pair 2] and answers [instance pair] of the pairs trained on; as many in every instance."""
    count = int(tasks.trained[0].sum())
    index = tasks.trained.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    return all_pairs(prime).to(index.device)[index], tasks.answers.gather(1, index)


def arm(
    name: str,
    fraction: float,
    seeds: list[int],
    shape: Transformer,
    snapshots: list[int],
    settings: Optimisation,
    device: str,
) -> tuple[Weights, Weights]:
    """Trains all seeds of one arm. Returns what was measured along training, and the snapshots."""
    prime = shape.prime
    each = [task(prime, fraction, seed, False) for seed in seeds]
    tasks = Task(*(torch.cat(parts).to(device) for parts in zip(*each, strict=True)))
    inputs, answers = chosen(tasks, prime)
    grid = all_pairs(prime).to(device).expand(len(seeds), -1, -1)
    starts = [initial_transformer(prime, shape.d_model, shape.n_heads, seed) for seed in seeds]

    def measure(weights: Weights) -> Weights:
        found = logits(weights, grid)
        loss, right = losses(found, tasks.answers), (found.argmax(-1) == tasks.answers).double()
        values = {"loss": split(loss, tasks.trained), "accuracy": split(right, tasks.trained)}
        return {f"{key}_{part}": pair[at].float() for key, pair in values.items() for at, part in enumerate(PARTS)}

    at = points(settings.steps, shape.measure_every)
    done = train_job(
        Job(
            name=f"grokking transformer {name}",
            weights={key: torch.cat([start[key] for start in starts]).to(device) for key in starts[0]},
            loss=lambda weights, _: losses(logits(weights, inputs), answers).mean(-1).float(),
            measure=measure,
            measure_at=at,
            snapshots_at=snapshots,
            rates=torch.ones(len(seeds), device=device),
            tokens_per_step=answers.numel(),
        ),
        settings,
    )
    measured = {key: value.cpu().contiguous() for key, value in done.measured.items()}
    return {"steps": torch.tensor(at), **measured}, {key: value.cpu() for key, value in done.snapshots.items()}


PARTS = ("train", "test")


class TrainFiles(Files):
    models: Path
    """`<arm>.steps`, `<arm>.loss_train` and the like; `weights.*` and `snapshots` (their steps) of the arm `late`"""


def train_transformer(files: TrainFiles, settings: Transformer, run: RunInfo) -> None:
    """Trains all arms and seeds."""
    decay = Optimisation(
        steps=settings.steps, batch=settings.prime**2, learning_rate=settings.learning_rate, warmup=WARMUP, beta1=0.9,
        beta2=0.98, weight_decay=settings.weight_decay, clip=LOOSE,
    )  # fmt: skip
    free = decay.model_copy(update={"weight_decay": 0.0})
    kept = sorted({*range(0, settings.steps, settings.snapshot_every), settings.steps})
    found: Weights = {"snapshots": torch.tensor(kept), "seeds": torch.tensor(run.seeds)}
    for name, fraction, how in (
        ("late", settings.late_fraction, decay), ("prompt", settings.prompt_fraction, decay),
        ("free", settings.late_fraction, free),
    ):  # fmt: skip
        snapshots = kept if name == "late" else []
        curves, weights = arm(name, fraction, run.seeds, settings, snapshots, how, run.device)
        found |= {f"{name}.{key}": value for key, value in curves.items()}
        found |= {f"weights.{key}": value.contiguous() for key, value in weights.items()} if snapshots else {}
    with atomic(files.models) as temporary:
        save_file(found, temporary)


if __name__ == "__main__":
    run_step(train_transformer)
