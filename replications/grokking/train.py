"""Step: trains all networks in two jobs, one with and one without weight decay.

Conditions: every share of the pairs in `fractions`; the same with random answers at `side_fraction`; no weight decay at
`side_fraction`. One instance per condition and seed. Out: one safetensors file with accuracies along training and the
final weights.
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
from replications.grokking.model import Task, accuracies, initial, loss, task
from replications.grokking.settings import Training

DENSE = 2  # accuracy is measured at every second step ...
DENSE_UNTIL = 200  # ... up to here,
SPARSE = 10  # then at every tenth
LOOSE = 1e6  # gradients are not clipped

Condition = tuple[float, bool]  # share trained on, random labels


def points(steps: int) -> list[int]:
    """The steps before which accuracy is measured."""
    late = range(DENSE_UNTIL, steps, SPARSE)
    return sorted({*range(0, min(DENSE_UNTIL, steps), DENSE), *late, steps})


def arm(
    name: str,
    conditions: list[Condition],
    seeds: list[int],
    prime: int,
    width: int,
    settings: Optimisation,
    device: str,
) -> dict[str, Tensor]:
    """Trains every condition with every seed; instances are ordered by condition, then seed."""
    tasks = [task(prime, fraction, seed, random) for fraction, random in conditions for seed in seeds]
    both = Task(*(torch.cat(parts).to(device) for parts in zip(*tasks, strict=True)))
    starts = [initial(prime, width, seed) for _ in conditions for seed in seeds]
    at = points(settings.steps)
    done = train_job(
        Job(
            name=name,
            weights={key: torch.cat([start[key] for start in starts]).to(device) for key in starts[0]},
            loss=lambda weights, _: loss(weights, both),
            measure=lambda weights: accuracies(weights, both),
            measure_at=at,
            snapshots_at=[settings.steps],
            rates=torch.ones(len(tasks), device=device),
            tokens_per_step=len(tasks) * prime**2,
        ),
        settings,
    )
    count = len(seeds)
    return {
        "steps": torch.tensor(at),
        "fraction": torch.tensor([fraction for fraction, _ in conditions]).repeat_interleave(count),
        "random": torch.tensor([random for _, random in conditions]).repeat_interleave(count).int(),
        "seed": torch.tensor(seeds).repeat(len(conditions)),
        **{key: value.float().cpu() for key, value in done.measured.items()},
        **{key: value[-1].cpu() for key, value in done.snapshots.items()},
    }


class TrainFiles(Files):
    models: Path
    """accuracies along training and final weights; `decay.*` and `free.*`, with and without weight decay"""


def train(files: TrainFiles, settings: Training, run: RunInfo) -> None:
    """Trains the networks of all conditions and seeds."""
    decay = Optimisation(
        steps=settings.steps, batch=settings.prime**2, learning_rate=settings.learning_rate, warmup=0, beta1=0.9,
        beta2=0.98, weight_decay=settings.weight_decay, clip=LOOSE,
    )  # fmt: skip
    side = settings.side_fraction
    arms = {
        "decay": (decay, [*((fraction, False) for fraction in settings.fractions), (side, True)]),
        "free": (decay.model_copy(update={"weight_decay": 0.0}), [(side, False)]),
    }
    found = {
        f"{name}.{key}": value.contiguous()
        for name, (chosen, conditions) in arms.items()
        for key, value in arm(
            f"grokking {name}", conditions, run.seeds, settings.prime, settings.width, chosen, run.device
        ).items()
    }
    with atomic(files.models) as temporary:
        save_file(found, temporary)


if __name__ == "__main__":
    run_step(train)
