"""Step: trains toy models on few points (Henighan et al. 2023, Superposition, Memorization, and Double Descent).

T training points of n sparse features, scaled to norm 1, in m = 2 hidden units; full-batch AdamW with warm-up and
cosine decay, as in the follow-up paper, with its weight decay and with a strong one, the control (of very many points,
each step takes some in turn). Then a sweep over (T, m): models with several numbers of hidden units.

Out: one safetensors file, `W` [decay size seed hidden feature], `b`, training and test loss [decay size seed], and for
every size and seed the hidden vectors of the training points, `hidden.<size>` [decay seed hidden point], and
`start.<size>` [seed hidden point], the same before training. Of the sweep: `widths.W`, `widths.b`, `widths.train_loss`
and `widths.test_loss`, with an axis `width` after `seed`; a model narrower than the widest has rows of zeros.
"""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from common.core.files import atomic
from common.core.step import run
from common.toys.training import Job, Weights, train
from replications.superposition.few_points import Points, draw_points, evaluate_points, hidden_vectors
from replications.superposition.streams import START, with_gradient
from replications.superposition.training import initial
from replications.superposition.training_settings import DescentTraining, Device, FewPoints, WidthTraining

TEST = 4 * 10**9  # keeps the seed of the test points apart


def train_double_descent(
    *, training: DescentTraining, widths: WidthTraining, seeds: list[int], device: Device, out: Path
) -> None:
    """Trains and writes `out`; only the first `n_seeds` seeds."""
    found = descend(training, [training.n_hidden], seeds, device)
    sweep = descend(widths, widths.widths, seeds, device)
    for name in ("W", "b", "train_loss", "test_loss"):
        pattern = "decay size (seed width) ... -> decay size seed width ..."
        found[f"widths.{name}"] = rearrange(sweep[name], pattern, width=len(widths.widths))
    with atomic(out) as temporary:
        save_file({name: value.contiguous().cpu() for name, value in found.items()}, temporary)


def descend(training: FewPoints, widths: list[int], seeds: list[int], device: Device) -> dict[str, Tensor]:
    """Models of every width, size and seed, for both weight decays; instance = (seed, width), seed slowest.

    Models of all widths train in one batch: rows of zeros up to the greatest width stay zero, since neither the loss
    nor the weight decay moves them.
    """
    seeds = seeds[: training.n_seeds]
    starts = [_start(width, max(widths), training.n_features, seed) for seed in seeds for width in widths]
    W, b = (torch.cat(one).float().to(device) for one in zip(*starts, strict=True))
    importance = torch.ones(len(W), training.n_features, device=device)
    test = _points(training, training.test_points, [TEST], device)
    stacked: dict[str, list[Tensor]] = {name: [] for name in ("W", "b", "train_loss", "test_loss")}
    hidden: dict[str, list[Tensor]] = {}
    before: dict[str, Tensor] = {}
    decays = (training.optimisation.weight_decay, training.control_decay)
    for size in training.points:
        points = _points(training, size, [seed * 100_000 + size for seed in seeds], device)
        before[f"start.{size}"] = hidden_vectors(W, points)
        for decay in decays:
            settings = training.optimisation.model_copy(update={"weight_decay": decay})

            def loss(weights: Weights, step: int, points: Points = points) -> Float[Tensor, " instance"]:
                with torch.no_grad():
                    batch = points.turn(step, training.chunks)
                    found = evaluate_points(weights["W"], weights["b"], batch, importance)
                return with_gradient(found.loss, weights, {"W": found.grad_W, "b": found.grad_b})

            rates, steps = torch.ones(len(W), device=device), settings.steps
            name = f"{size} points, m = {', '.join(map(str, widths))}, decay {decay:g}"
            job = Job(name, {"W": W, "b": b}, loss, lambda weights: {}, [], [steps], rates, size)
            trained = train(job, settings)
            one_W, one_b = trained.snapshots["W"][-1], trained.snapshots["b"][-1]
            stacked["W"].append(one_W)
            stacked["b"].append(one_b)
            stacked["train_loss"].append(evaluate_points(one_W, one_b, points, importance).loss)
            stacked["test_loss"].append(evaluate_points(one_W, one_b, test, importance).loss)
            hidden.setdefault(f"hidden.{size}", []).append(hidden_vectors(one_W, points))
    found = {
        name: rearrange(torch.stack(values), "(size decay) ... -> decay size ...", decay=len(decays))
        for name, values in stacked.items()
    }
    return found | {name: torch.stack(values) for name, values in hidden.items()} | before


def _start(width: int, widest: int, n_features: int, seed: int) -> tuple[Tensor, Tensor]:
    W, b = initial(1, width, n_features, torch.Generator().manual_seed(START + seed))
    return pad(W, (0, 0, 0, widest - width)), b


def _points(training: FewPoints, size: int, seeds: list[int], device: Device) -> Points:
    return draw_points(training.n_features, training.density, size, seeds, chunk=training.chunk, device=device)


if __name__ == "__main__":
    run(train_double_descent)
