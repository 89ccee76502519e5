"""Step: trains toy models on few points (Henighan et al. 2023, Superposition, Memorization, and Double Descent).

T training points of n sparse features, scaled to norm 1, in m = 2 hidden units; full-batch AdamW with warm-up and
cosine decay, as in the follow-up paper, with its weight decay and with a strong one, the control.

Out: one safetensors file, `W` [decay size seed hidden feature], `b`, training and test loss [decay size seed], and for
every size and seed the hidden vectors of the training points, `hidden.<size>` [decay seed hidden point], and
`start.<size>` [seed hidden point], the same before training.
"""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from common.cli import run
from common.files import atomic
from common.training import Job, train
from replications.superposition.model import Data, evaluate
from replications.superposition.streams import START, sparse_points, written_loss
from replications.superposition.training import initial
from replications.superposition.training_settings import DescentTraining, Device

TEST = 4 * 10**9  # keeps the seed of the test points apart


def train_double_descent(*, training: DescentTraining, seeds: list[int], device: Device, out: Path) -> None:
    """Trains and writes `out`; only the first `n_seeds` seeds."""
    used = seeds[: training.n_seeds]
    starts = [initial(1, training.n_hidden, training.n_features, _generator(START + seed)) for seed in used]
    W, b = (torch.cat(one).float().to(device) for one in zip(*starts, strict=True))
    importance = torch.ones(len(used), training.n_features, device=device)
    test = points(training, training.test_points, [TEST]).x.to(device)
    weight = torch.full((1, training.test_points), 1 / training.test_points, device=device)
    found: dict[str, list[Tensor]] = {name: [] for name in ("W", "b", "train_loss", "test_loss")}
    hidden: dict[str, list[Tensor]] = {}
    before: dict[str, Tensor] = {}
    decays = (training.optimisation.weight_decay, training.control_decay)
    for decay in decays:
        settings = training.optimisation.model_copy(update={"weight_decay": decay})
        for size in training.points:
            data = points(training, size, [seed * 100_000 + size for seed in used])
            data = Data(data.x.to(device), data.weight.to(device))

            def loss(weights: dict[str, Tensor], step: int, data: Data = data) -> Float[Tensor, " instance"]:
                return written_loss(weights, data, importance, "relu")

            rates, start = torch.ones(len(used), device=device), {"W": W, "b": b}
            steps = settings.steps
            job = Job(f"{size} points, decay {decay:g}", start, loss, lambda weights: {}, [], [steps], rates, size)
            trained = train(job, settings)
            one_W, one_b = trained.snapshots["W"][-1], trained.snapshots["b"][-1]
            found["W"].append(one_W)
            found["b"].append(one_b)
            found["train_loss"].append(evaluate(one_W, one_b, data, importance, "relu").loss)
            found["test_loss"].append(evaluate(one_W, one_b, Data(test, weight), importance, "relu").loss)
            hidden.setdefault(f"hidden.{size}", []).append(one_W @ data.x)
            before[f"start.{size}"] = W @ data.x
    stacked = {
        name: rearrange(torch.stack(values), "(decay size) ... -> decay size ...", decay=len(decays))
        for name, values in found.items()
    }
    stacked |= {name: torch.stack(values) for name, values in hidden.items()} | before
    with atomic(out) as temporary:
        save_file({name: value.contiguous().cpu() for name, value in stacked.items()}, temporary)


def points(training: DescentTraining, size: int, seeds: list[int]) -> Data:
    """Sparse points of norm 1, one data set per seed; a point without any active feature is drawn again."""
    sets = []
    for seed in seeds:
        generator = _generator(seed)
        kept = torch.zeros(training.n_features, 0)
        while kept.shape[1] < size:
            drawn = sparse_points(training.density, training.n_features, size, generator)
            kept = torch.cat([kept, drawn[:, drawn.sum(0) > 0]], dim=1)
        sets.append(kept[:, :size] / kept[:, :size].norm(dim=0))
    return Data(torch.stack(sets), torch.full((len(seeds), size), 1 / size))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    run(train_double_descent)
