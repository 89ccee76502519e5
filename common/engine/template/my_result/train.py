"""Step: makes one data set per seed and fits a linear probe to it, and another to the same data with shuffled labels.

Points are x ~ N(0, 1); the label is the sign of x · w + noise for a hidden unit direction w. The probe is least squares
on the labels, whose expected solution is proportional to w. All seeds are solved in one batched call.

Replace this by the data and the model of your paper; name the paper, the equations and every deviation here.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step
from replications.my_result.settings import Data


def data(
    seed: int, settings: Data
) -> tuple[Float[Tensor, "sample feature"], Float[Tensor, " sample"], Float[Tensor, " feature"]]:
    """Points, labels in {-1, 1}, and the hidden unit direction of one seed."""
    draw = torch.Generator().manual_seed(seed)
    direction = torch.randn(settings.n_features, generator=draw, dtype=torch.float64)
    direction = direction / direction.norm()
    points = torch.randn(settings.samples, settings.n_features, generator=draw, dtype=torch.float64)
    shift = settings.noise * torch.randn(settings.samples, generator=draw, dtype=torch.float64)
    return points, torch.where(points @ direction + shift > 0, 1.0, -1.0).double(), direction


class TrainFiles(Files):
    probes: Path
    """hidden directions, probes, and probes of the shuffled labels, [seed feature] each"""


def train(files: TrainFiles, settings: Data, run: RunInfo) -> None:
    """Fits the probes of all seeds."""
    sets = [data(seed, settings) for seed in run.seeds]
    points, labels, directions = (torch.stack(items).to(run.device) for items in zip(*sets, strict=True))
    draws = [torch.Generator().manual_seed(10_000 + seed) for seed in run.seeds]
    orders = [torch.randperm(settings.samples, generator=draw) for draw in draws]
    shuffled = torch.stack([row[order.to(run.device)] for row, order in zip(labels, orders, strict=True)])
    both = torch.stack([labels, shuffled], dim=-1)
    probes = torch.linalg.lstsq(points, both).solution
    found = {"direction": directions, "probe": probes[..., 0], "shuffled": probes[..., 1]}
    with atomic(files.probes) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in found.items()}, temporary)


if __name__ == "__main__":
    run_step(train)
