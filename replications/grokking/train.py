"""Step: trains the one-layer transformers of Nanda et al. 2023, five seeds of each arm in one batched job.

Arms: `grokking` (few pairs, weight decay), `no_decay` (the same pairs without weight decay), `random_answers` (the same
pairs, answers drawn at random), `large_share` (most pairs). Full batch, AdamW with betas 0.9 and 0.98 and 10 steps of
warm-up, as in the authors' code. Out: one safetensors file with the curves of every arm and snapshots of its weights.
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
from replications.grokking.settings import Training
from replications.grokking.task import Task, task
from replications.grokking.transformer import Weights, forward, initial, losses, member

WARMUP = 10
DENSE_UNTIL = 100  # losses are measured at every second step up to here: memorising takes a few dozen steps
LOOSE = 1e6  # gradients are not clipped
CURVES = ("loss_train", "loss_test", "accuracy_train", "accuracy_test", "accuracy_unseen")


def points(steps: int, every: int) -> list[int]:
    """The steps before which losses are measured."""
    return sorted({*range(0, min(DENSE_UNTIL, steps), 2), *range(0, steps, every), steps})


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


def train_arm(
    name: str,
    tasks: list[Task],
    seeds: list[int],
    shape: Training,
    how: Optimisation,
    snapshots: list[int],
    device: str,
) -> Weights:
    """Trains one network per task. Returns `steps`, the curves [point instance] and `weights.*` [snapshot instance]."""
    tasks = [Task(*(part.to(device) for part in one)) for one in tasks]
    inputs = [(one.pairs[one.trained], one.answers[one.trained]) for one in tasks]
    starts = [initial(shape.prime, shape.d_model, shape.n_heads, seed) for seed in seeds]

    def loss(weights: Weights, _: int) -> Tensor:
        apart = {key: value.unbind() for key, value in weights.items()}
        each = []
        for at, (pairs, answers) in enumerate(inputs):
            logits = forward({key: value[at] for key, value in apart.items()}, pairs).logits
            each.append(losses(logits, answers).mean())
        return torch.stack(each).float()

    def measure(weights: Weights) -> Weights:
        return curve_values(torch.stack([forward(member(weights, at), one.pairs).logits
                                         for at, one in enumerate(tasks)]), tasks)  # fmt: skip

    at = points(how.steps, shape.measure_every)
    job = Job(
        name=f"grokking {name}",
        weights={key: torch.stack([start[key] for start in starts]).to(device) for key in starts[0]},
        loss=loss,
        measure=measure,
        measure_at=at,
        snapshots_at=snapshots,
        rates=torch.ones(len(seeds), device=device),
        tokens_per_step=sum(len(answers) for _, answers in inputs),
    )
    done = train_job(job, how)
    found = {"steps": torch.tensor(at), **done.measured}
    found |= {f"weights.{key}": value for key, value in done.snapshots.items()}
    return {key: value.cpu().contiguous() for key, value in found.items()}


class TrainFiles(Files):
    models: Path
    """`seeds`; `<arm>.steps`, `<arm>.snapshots` (their steps), `<arm>.loss_train` and the like, `<arm>.weights.*`"""


def train(files: TrainFiles, settings: Training, run: RunInfo) -> None:
    """Trains all arms and seeds."""
    torch.set_flush_denormal(True)  # without weight decay gradients fall below 1e-38, where the processor is slow
    decay = Optimisation(
        steps=settings.steps, batch=settings.prime**2, learning_rate=settings.learning_rate, warmup=WARMUP, beta1=0.9,
        beta2=0.98, weight_decay=settings.weight_decay, clip=LOOSE,
    )  # fmt: skip
    free = decay.model_copy(update={"weight_decay": 0.0})
    short = decay.model_copy(update={"steps": settings.large_share_steps})
    along = sorted({*range(0, settings.steps, settings.snapshot_every), settings.steps})
    arms = {
        "grokking": (settings.fraction, False, decay, along),
        "no_decay": (settings.fraction, False, free, along),
        "random_answers": (settings.fraction, True, decay, [settings.steps]),
        "large_share": (settings.large_share, False, short, [short.steps]),
    }
    found: Weights = {"seeds": torch.tensor(run.seeds)}
    for name, (fraction, random, how, snapshots) in arms.items():
        tasks = [task(settings.prime, fraction, seed, random_answers=random) for seed in run.seeds]
        trained = train_arm(name, tasks, run.seeds, settings, how, snapshots, run.device)
        found |= {f"{name}.{key}": value for key, value in trained.items()}
        found[f"{name}.snapshots"] = torch.tensor(snapshots)
    with atomic(files.models) as temporary:
        save_file(found, temporary)


if __name__ == "__main__":
    run_step(train)
