"""Step: trains toy models on few points (Henighan et al. 2023, Superposition, Memorization, and Double Descent).

T training points of n sparse features, scaled to norm 1, in m hidden units. Full-batch AdamW with warm-up and cosine
decay, as in the follow-up paper, with its weight decay and with a strong one, the control.

Out: one safetensors file, `W` [decay size seed hidden feature], training and test loss [decay size seed]. For every
size and seed also the hidden vectors of the training points, `hidden.<size>` [decay seed hidden point]. `start.<size>`
[seed hidden point] has them before training. `constant_loss` [seed] is the test loss of the best constant answer.
"""

from pathlib import Path

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step
from common.toys.training import Job, Weights, train
from replications.superposition.model import Data, evaluate
from replications.superposition.settings import FewPoints
from replications.superposition.streams import START, sparse_points, written_loss
from replications.superposition.training import initial

TEST = 4 * 10**9  # keeps the seed of the test points apart


class TrainFiles(Files):
    models: Path


def train_double_descent(files: TrainFiles, settings: FewPoints, run: RunInfo) -> None:
    """Trains models of every size and seed; only the first `n_seeds` seeds."""
    tensors = descend(settings, run)
    with atomic(files.models) as temporary:
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, temporary)


def descend(settings: FewPoints, run: RunInfo) -> dict[str, Tensor]:
    """Trained models of both weight decays; an instance is a seed."""
    seeds, device = run.seeds[: settings.n_seeds], run.device
    starts = [
        initial(1, settings.n_hidden, settings.n_features, torch.Generator().manual_seed(START + seed))
        for seed in seeds
    ]
    W, b = (torch.cat(one).float().to(device) for one in zip(*starts, strict=True))
    importance = torch.ones(len(W), settings.n_features, device=device)
    test = draw_points(settings, settings.test_points, [TEST] * len(seeds), device)
    stacked: dict[str, list[Tensor]] = {name: [] for name in ("W", "train_loss", "test_loss")}
    hidden: dict[str, list[Tensor]] = {}
    for size in settings.points:
        points = draw_points(settings, size, [seed * 100_000 + size for seed in seeds], device)
        stacked_hidden = hidden.setdefault(f"hidden.{size}", [])
        hidden[f"start.{size}"] = [hidden_vectors(W, points)]
        for decay in (settings.optimisation.weight_decay, settings.control_decay):
            optimisation = settings.optimisation.model_copy(update={"weight_decay": decay})

            def loss(weights: Weights, step: int, points: Data = points) -> Float[Tensor, " instance"]:
                return written_loss(weights, points, importance)

            job = Job(
                name=f"{size} points, m = {settings.n_hidden}, decay {decay:g}",
                weights={"W": W, "b": b},
                loss=loss,
                measure=lambda weights: {},
                measure_at=[],
                snapshots_at=[optimisation.steps],
                rates=torch.ones(len(W), device=device),
                tokens_per_step=size,
            )
            last = {name: value[-1] for name, value in train(job, optimisation).snapshots.items()}
            stacked["W"].append(last["W"])
            for name, data in (("train_loss", points), ("test_loss", test)):
                stacked[name].append(evaluate(last["W"], last["b"], data, importance, "relu").loss)
            stacked_hidden.append(hidden_vectors(last["W"], points))
    tensors = {
        name: rearrange(torch.stack(values), "(size decay) ... -> decay size ...", decay=2)
        for name, values in stacked.items()
    }
    tensors |= {name: torch.stack(values).squeeze(0) for name, values in hidden.items()}
    return tensors | {"constant_loss": constant_loss(test)}


def constant_loss(points: Data) -> Float[Tensor, " instance"]:
    """Loss of the best constant answer, the mean of the points."""
    mean = einsum(points.x, points.weight, "instance feature sample, instance sample -> instance feature")
    error = points.x - mean[..., None]
    return einsum(error, error, points.weight, "i feature sample, i feature sample, i sample -> i")


def draw_points(settings: FewPoints, size: int, seeds: list[int], device: str) -> Data:
    """Sparse points of norm 1, one data set per seed; a point without any active feature is drawn again."""
    sets = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        kept = torch.zeros(settings.n_features, 0)
        while kept.shape[1] < size:
            drawn = sparse_points(settings.density, settings.n_features, size, generator)
            kept = torch.cat([kept, drawn[:, drawn.sum(0) > 0]], dim=1)
        sets.append(kept[:, :size] / kept[:, :size].norm(dim=0))
    x = torch.stack(sets).to(device)
    return Data(x, torch.full((len(seeds), size), 1 / size, device=device))


def hidden_vectors(
    W: Float[Tensor, "instance hidden feature"], points: Data
) -> Float[Tensor, "instance hidden sample"]:
    """h = W x of every point."""
    return einsum(W, points.x, "instance hidden feature, instance feature sample -> instance hidden sample")


if __name__ == "__main__":
    run_step(train_double_descent)
