"""Step: makes one data set per seed and fits a linear probe to it, and another to the same data with shuffled labels.

Points are x ~ N(0, 1); the label is the sign of x · w + noise for a hidden unit direction w. The probe is least squares
on the labels, whose expected solution is proportional to w. All seeds are solved in one batched call.

Replace this by the data and the model of your paper; name the paper, the equations and every deviation here.
"""

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import run


def data(
    seed: int, n_features: int, samples: int, noise: float
) -> tuple[Float[Tensor, "sample feature"], Float[Tensor, " sample"], Float[Tensor, " feature"]]:
    """Points, labels in {-1, 1}, and the hidden unit direction of one seed."""
    draw = torch.Generator().manual_seed(seed)
    direction = torch.randn(n_features, generator=draw, dtype=torch.float64)
    direction = direction / direction.norm()
    points = torch.randn(samples, n_features, generator=draw, dtype=torch.float64)
    shift = noise * torch.randn(samples, generator=draw, dtype=torch.float64)
    return points, torch.where(points @ direction + shift > 0, 1.0, -1.0).double(), direction


def train(
    *, n_features: int, samples: int, noise: float, seeds: list[int], device: Literal["cpu", "cuda"], out: Path
) -> None:
    """Writes `out`: the hidden directions, the probes, and the probes of the shuffled labels, [seed feature] each."""
    sets = [data(seed, n_features, samples, noise) for seed in seeds]
    points, labels, directions = (torch.stack(items).to(device) for items in zip(*sets, strict=True))
    orders = [torch.randperm(samples, generator=torch.Generator().manual_seed(10_000 + seed)) for seed in seeds]
    shuffled = torch.stack([row[order.to(device)] for row, order in zip(labels, orders, strict=True)])
    both = torch.stack([labels, shuffled], dim=-1)
    probes = torch.linalg.lstsq(points, both).solution
    found = {"direction": directions, "probe": probes[..., 0], "shuffled": probes[..., 1]}
    with atomic(out) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in found.items()}, temporary)


if __name__ == "__main__":
    run(train)
