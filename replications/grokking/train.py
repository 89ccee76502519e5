"""Step: trains the one-layer transformers of Nanda et al. 2023, all seeds of one arm in one batched job.

Arms: `grokking` (few pairs, weight decay), `no_decay` (the same pairs without weight decay), `random_answers` (the same
pairs, answers drawn at random), `large_share` (most pairs). Full batch, AdamW with betas 0.9 and 0.98 and 10 steps of
warm-up, as in the authors' code. Out: one safetensors file with the curves of the arm and snapshots of its weights.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step
from common.toys.settings import Optimisation
from common.toys.training import Job
from common.toys.training import train as train_job
from replications.grokking.settings import TrainArm
from replications.grokking.task import Task, task
from replications.grokking.transformer import Weights, forward_all, initial, losses

WARMUP = 10
DENSE, DENSE_UNTIL = 4, 160  # losses are measured at every fourth step up to here: memorising takes some 60 steps
LOOSE = 1e6  # gradients are not clipped
CURVES = ("loss_train", "loss_test", "accuracy_train", "accuracy_test", "accuracy_unseen")


def points(steps: int, every: int) -> list[int]:
    """The steps before which losses are measured."""
    return sorted({*range(0, min(DENSE_UNTIL, steps), DENSE), *range(0, steps, every), steps})


def curve_values(logits: Tensor, tasks: list[Task]) -> Weights:
    """What `CURVES` names, [instance] each, from the logits [instance pair answer] of all pairs."""
    answers = torch.stack([one.answers for one in tasks])
    loss, right = losses(logits, answers), (logits.argmax(-1) == answers).double()
    sets = {
        "train": torch.stack([one.trained for one in tasks]),
        "test": torch.stack([~one.trained for one in tasks]),
        "unseen": torch.stack([one.unseen for one in tasks]),
    }
    values = {"loss": loss, "accuracy": right}
    found = {}
    for name in CURVES:
        value, part = name.split("_")
        found[name] = ((values[value] * sets[part]).sum(-1) / sets[part].sum(-1).clamp(min=1)).float()
    return found


class TrainFiles(Files):
    models: Path
    """`seeds`, `steps`, the curves at these [point seed], `snapshots` (steps), `weights.*` at these [snapshot seed]"""


def train(files: TrainFiles, settings: TrainArm, run: RunInfo) -> None:
    """Trains one network per seed."""
    torch.set_flush_denormal(True)  # without weight decay gradients fall below 1e-38, where the processor is slow
    arm, shape = settings.arm, settings.training
    tasks = [
        Task(*(part.to(run.device) for part in task(shape.prime, arm.fraction, seed, arm.random_answers)))
        for seed in run.seeds
    ]
    pairs = torch.stack([one.pairs[one.trained] for one in tasks])
    answers = torch.stack([one.answers[one.trained] for one in tasks])
    starts = [initial(shape.prime, shape.d_model, shape.n_heads, seed) for seed in run.seeds]

    def loss(weights: Weights, _: int) -> Float[Tensor, " seed"]:
        found = forward_all(weights, pairs)
        each = [losses(one.logits, own).mean() for one, own in zip(found, answers, strict=True)]
        return torch.stack(each).float()

    def measure(weights: Weights) -> Weights:
        found = forward_all(weights, torch.stack([one.pairs for one in tasks]))
        return curve_values(torch.stack([one.logits for one in found]), tasks)

    at = points(arm.steps, shape.measure_every)
    kept = sorted({*range(0, arm.steps, arm.snapshot_every), arm.steps})
    job = Job(
        name=f"grokking, share {arm.fraction:g}, decay {arm.weight_decay:g}, random {arm.random_answers}",
        weights={key: torch.stack([start[key] for start in starts]).to(run.device) for key in starts[0]},
        loss=loss,
        measure=measure,
        measure_at=at,
        snapshots_at=kept,
        rates=torch.ones(len(tasks), device=run.device),
        tokens_per_step=answers.numel(),
    )
    how = Optimisation(
        steps=arm.steps, batch=shape.prime**2, learning_rate=shape.learning_rate, warmup=WARMUP, beta1=0.9,
        beta2=0.98, weight_decay=arm.weight_decay, clip=LOOSE,
    )  # fmt: skip
    done = train_job(job, how)
    found = {"seeds": torch.tensor(run.seeds), "steps": torch.tensor(at), "snapshots": torch.tensor(kept)}
    found |= done.measured | {f"weights.{key}": value for key, value in done.snapshots.items()}
    with atomic(files.models) as temporary:
        save_file({key: value.cpu().contiguous() for key, value in found.items()}, temporary)


if __name__ == "__main__":
    run_step(train)
