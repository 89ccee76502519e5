"""Step: trains toy models on few points (Henighan et al. 2023, Superposition, Memorization, and Double Descent).

T training points of n sparse features, scaled to norm 1, in m hidden units; full-batch AdamW with warm-up and cosine
decay, as in the follow-up paper, with its weight decay and with a strong one, the control (of very many points, each
step takes some in turn). Part `double_descent` has m = 2, part `widths` sweeps over (T, m).

Out: one safetensors file, `W` [decay size seed width hidden feature], `b`, training and test loss [decay size seed
width], and for every size and seed the hidden vectors of the training points, `hidden.<size>` [decay seed width hidden
point], and `start.<size>` [seed width hidden point], the same before training. A model narrower than the widest has
rows of zeros.
"""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from common.core.files import atomic
from common.core.step import Files, RunInfo, run_step
from common.toys.training import Job, Weights, train
from replications.superposition.few_points import Points, draw_points, evaluate_points, hidden_vectors
from replications.superposition.settings import FewPoints
from replications.superposition.streams import START, with_gradient
from replications.superposition.training import initial

TEST = 4 * 10**9  # keeps the seed of the test points apart


class TrainFiles(Files):
    models: Path


def train_double_descent(files: TrainFiles, settings: FewPoints, run: RunInfo) -> None:
    """Trains models of every width, size and seed; only the first `n_seeds` seeds."""
    tensors = descend(settings, run)
    with atomic(files.models) as temporary:
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, temporary)


def descend(settings: FewPoints, run: RunInfo) -> dict[str, Tensor]:
    """Trained models of both weight decays; instance = (seed, width), seed slowest.

    Models of all widths train in one batch: rows of zeros up to the greatest width stay zero, since neither the loss
    nor the weight decay moves them.
    """
    seeds, device, widths = run.seeds[: settings.n_seeds], run.device, settings.widths
    starts = [_start(width, max(widths), settings.n_features, seed) for seed in seeds for width in widths]
    W, b = (torch.cat(one).float().to(device) for one in zip(*starts, strict=True))
    importance = torch.ones(len(W), settings.n_features, device=device)
    test = _points(settings, settings.test_points, [TEST], device)
    stacked: dict[str, list[Tensor]] = {name: [] for name in ("W", "b", "train_loss", "test_loss")}
    hidden: dict[str, list[Tensor]] = {}
    before: dict[str, Tensor] = {}
    decays = (settings.optimisation.weight_decay, settings.control_decay)
    for size in settings.points:
        points = _points(settings, size, [seed * 100_000 + size for seed in seeds], device)
        before[f"start.{size}"] = hidden_vectors(W, points)
        for decay in decays:
            optimisation = settings.optimisation.model_copy(update={"weight_decay": decay})

            def loss(weights: Weights, step: int, points: Points = points) -> Float[Tensor, " instance"]:
                with torch.no_grad():
                    batch = points.turn(step, settings.chunks)
                    at = evaluate_points(weights["W"], weights["b"], batch, importance)
                return with_gradient(at.loss, weights, {"W": at.grad_W, "b": at.grad_b})

            job = Job(
                name=f"{size} points, m = {', '.join(map(str, widths))}, decay {decay:g}",
                weights={"W": W, "b": b},
                loss=loss,
                measure=lambda weights: {},
                measure_at=[],
                snapshots_at=[optimisation.steps],
                rates=torch.ones(len(W), device=device),
                tokens_per_step=size,
            )
            trained = train(job, optimisation)
            last_W, last_b = trained.snapshots["W"][-1], trained.snapshots["b"][-1]
            stacked["W"].append(last_W)
            stacked["b"].append(last_b)
            stacked["train_loss"].append(evaluate_points(last_W, last_b, points, importance).loss)
            stacked["test_loss"].append(evaluate_points(last_W, last_b, test, importance).loss)
            hidden.setdefault(f"hidden.{size}", []).append(hidden_vectors(last_W, points))
    pattern, axes = "(size decay) (seed width) ... -> decay size seed width ...", {"width": len(widths)}
    tensors = {
        name: rearrange(torch.stack(values), pattern, decay=len(decays), **axes) for name, values in stacked.items()
    }
    for name, values in hidden.items():
        tensors[name] = rearrange(torch.stack(values), "decay (seed width) ... -> decay seed width ...", **axes)
    for name, value in before.items():
        tensors[name] = rearrange(value, "(seed width) ... -> seed width ...", **axes)
    return tensors


def _start(width: int, widest: int, n_features: int, seed: int) -> tuple[Tensor, Tensor]:
    W, b = initial(1, width, n_features, torch.Generator().manual_seed(START + seed))
    return pad(W, (0, 0, 0, widest - width)), b


def _points(settings: FewPoints, size: int, seeds: list[int], device: str) -> Points:
    return draw_points(settings.n_features, settings.density, size, seeds, chunk=settings.chunk, device=device)


if __name__ == "__main__":
    run_step(train_double_descent)
