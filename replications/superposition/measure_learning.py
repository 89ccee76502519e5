"""Step: jumps between levels of dimensionality while a model learns, and the stages of an octahedron (section 5).

`levels`: in windows of one percent of training, after the first twentieth, the largest change of any feature's D_i,
how much faster the loss falls in that window than in its neighbourhood, and both together: the largest change among
windows in which the loss falls more than `STEEP` times as fast as around them. Control: the linear model. `geometry`:
early, the members of a correlated set share one direction, as in principal components; late, all six features form an
octahedron whose antipodes belong to different sets. Controls: the end against the beginning, and independent features.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import run
from common.core.tables import write_table
from replications.superposition.geometry import checked_dimensionality, norms
from replications.superposition.tables import add_pair, orders

SKIPPED = 0.05  # of training, in which weights leave their random start
AROUND = 5  # windows on either side that give the local trend
STEEP = 3.0  # times the local trend: the loss drops


def measure_learning(*, models: Path, seeds: list[int], metrics: Path, table: Path, stages: Path) -> None:
    """Writes `metrics` (JSON), `table` (CSV: D_i over training) and `stages` (CSV: the octahedra over training)."""
    if not models.is_file():
        raise UserError(f"{models} does not exist; run `make superposition` to train its models")
    tensors = {name: value.double() for name, value in load_file(models).items()}
    found: dict[str, Metric] = {}
    rows = []
    jumps = {}
    for activation in ("relu", "linear"):
        shares = checked_dimensionality(tensors[f"levels.{activation}.W"][:, :, 0])
        loss = tensors[f"levels.{activation}.loss"][:, :, 0]
        jumps[activation] = [largest_jump(shares[:, k], loss[:, k]) for k in range(len(seeds))]
        last = len(shares) - 1
        rows += [
            [activation, seed, t / last, i, float(shares[t, k, i]), float(loss[t, k])]
            for k, seed in enumerate(seeds)
            for t in range(len(shares))
            for i in range(shares.shape[-1])
        ]
    texts = {
        "jump": ("dimensions", "largest change of a D_i within one percent of training"),
        "drop": ("1", f"fall of the loss where D_i changes most, over the median of the {2 * AROUND} windows around"),
        "jump_at_drop": (
            "dimensions",
            f"largest change of a D_i where the loss falls {STEEP:g} times as fast",
        ),
    }
    for k, (name, (unit, text)) in enumerate(texts.items()):
        relu, linear = ([one[k] for one in jumps[activation]] for activation in ("relu", "linear"))
        add_pair(found, name, relu, linear, "linear", unit=unit, formula=text)
    write_table(table, rows, ["activation", "seed", "time", "feature", "dimensionality", "loss"], digits=8)

    W = {kind: tensors[f"geometry.{kind}.W"] for kind in ("correlated", "independent")}
    together = {kind: within_sets(one).mean(-1) for kind, one in W.items()}  # mean over copies
    early = int(together["correlated"].mean(1).argmax())
    found["early"] = over_seeds(
        [early / (len(together["correlated"]) - 1)] * len(seeds), unit="share", formula="of training"
    )
    text = "mean cosine within sets, where it is largest (control: at the end)"
    pair = (together["correlated"][early], together["correlated"][-1])
    add_pair(found, "together", *pair, "end", unit="1", formula=text)
    across = across_sets(W["correlated"][-1]).mean(-1)
    null = [
        float(across_sets(torch.cat([one[..., order] for order in orders(6, k)])).mean())
        for k, one in enumerate(W["independent"][-1])
    ]
    text = "features whose antipode belongs to the other set, at the end (independent features: sets at random)"
    add_pair(found, "across", across, null, "independent", unit="share", formula=text)
    gap = (checked_dimensionality(W["correlated"][-1]) - 0.5).abs().amax(-1).mean(-1)
    found["octahedron_gap"] = over_seeds(
        gap.tolist(), unit="dimensions", formula="max |D_i - 1/2| at the end, mean over starts"
    )
    write_metrics(metrics, found)
    rows = [
        [
            kind,
            seed,
            t / (len(one) - 1),
            float(together[kind][t, k]),
            float(tensors[f"geometry.{kind}.loss"][t, k].mean()),
        ]
        for kind, one in W.items()
        for k, seed in enumerate(seeds)
        for t in range(len(one))
    ]
    write_table(stages, rows, ["kind", "seed", "time", "within_sets", "loss"], digits=8)


def largest_jump(
    shares: Float[Tensor, "snapshot feature"], loss: Float[Tensor, " snapshot"]
) -> tuple[float, float, float]:
    """The largest change of any D_i in one window, the fall of the loss there over the local trend, and the largest
    change among windows whose fall is more than `STEEP` times the local trend (0 if there is none)."""
    start = max(1, round(SKIPPED * (len(shares) - 1)))
    change = (shares[1:] - shares[:-1]).abs().amax(-1)[start:]
    fall = (loss[:-1] - loss[1:])[start:]
    around = [torch.cat([fall[max(0, k - AROUND) : k], fall[k + 1 : k + 1 + AROUND]]) for k in range(len(fall))]
    steepness = fall / torch.stack([one.median() for one in around]).clamp(min=1e-6 * loss[-1])
    at = int(change.argmax())
    return float(change[at]), float(steepness[at]), float(torch.where(steepness > STEEP, change, 0.0).max())


def within_sets(W: Float[Tensor, "*batch 3 6"]) -> Float[Tensor, "*batch"]:
    """Mean cosine between different members of a set; two sets of three neighbours."""
    cosines = _cosines(W)
    own = torch.arange(6) >= 3
    inside = (own[:, None] == own[None, :]) & ~torch.eye(6, dtype=torch.bool)
    return cosines[..., inside].mean(-1)


def across_sets(W: Float[Tensor, "*batch 3 6"]) -> Float[Tensor, "*batch"]:
    """Share of features whose most opposite feature is in the other set."""
    other = _cosines(W).argmin(-1)
    return ((other >= 3) != (torch.arange(6) >= 3)).double().mean(-1)


def _cosines(W: Float[Tensor, "*batch 3 6"]) -> Float[Tensor, "*batch 6 6"]:
    unit = W / norms(W).clamp(min=1e-12)[..., None, :]
    return unit.mT @ unit


if __name__ == "__main__":
    run(measure_learning)
