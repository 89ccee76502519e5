"""Step: the pentagon gives way to two digons when one of five features becomes rarer (section 4, non-uniform).

Two branches among all restarts: `pentagon`, all five features stored, and `digons`, the four common ones stored and the
rare one dropped. Their best losses cross with different slopes, a first-order transition. The digon branch has a closed
form, 2 s^2 / 3 + v(s rho): two antipodal pairs and the variance of the feature that is dropped. The paper's figure
puts the change at about 2.5 times rarer.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import run
from common.core.tables import write_table
from replications.superposition.geometry import HALF, checked_dimensionality, norms
from replications.superposition.grid import load_grid
from replications.superposition.tables import add_pair, column_table
from replications.superposition.theory import variance
from replications.superposition.training_settings import Density

PAPER = 0.4  # 2.5 times rarer
NEAR = 1.7  # factor of the ratio over which slopes are fitted


def measure_rarer(
    *, models: Path, seeds: list[int], density: Density, metrics: Path, table: Path, columns: Path
) -> None:
    """Writes `metrics` (JSON), `table` (CSV: best loss of each branch) and `columns` (CSV: best models)."""
    grid = load_grid(models, "relu")
    shares = checked_dimensionality(grid.W)[:, :, 0]
    ratios = grid.densities.numpy()
    stored = norms(grid.W)[:, :, 0] > HALF
    loss = grid.loss[:, :, 0]
    kinds = {"pentagon": stored.all(-1), "digons": stored[..., :-1].all(-1) & ~stored[..., -1]}
    branch = {name: torch.where(mask, loss, torch.inf).amin(-1).numpy() for name, mask in kinds.items()}
    theory = np.array([2 * density**2 / 3 + variance(density * ratio) for ratio in ratios])
    best = loss.argmin(-1)[..., None, None].expand(-1, -1, 1, shares.shape[-1])
    best_share = shares.gather(2, best).squeeze(2)
    found: dict[str, Metric] = {}
    crossings = [crossing(ratios, *pair) for pair in zip(branch["pentagon"], branch["digons"], strict=True)]
    found["crossing"] = over_seeds(
        [1 / at for at, _, _ in crossings], unit="times rarer", formula="1 / rho, losses equal"
    )
    text = "d log L / d log rho where the branches cross: digons minus pentagon (control: either side of the pentagon)"
    kinks, bends = [kink for _, kink, _ in crossings], [bend for _, _, bend in crossings]
    add_pair(found, "kink", kinks, bends, "one_branch", unit="1", formula=text)
    falls = [-(one[1:] - one[:-1]) for one in best_share]
    text = "largest fall of D between neighbouring ratios, best models, the rare feature (control: the others' mean)"
    pair = ([float(one[:, -1].max()) for one in falls], [float(one[:, :-1].mean(1).max()) for one in falls])
    add_pair(found, "snap", *pair, "others", unit="dimensions", formula=text)
    last = len(ratios) - 1
    text = "loss of the branch over 2 s^2 / 3 + v(s rho) at the rarest ratio (control: pentagon at ratio 1)"
    pair = (
        [float(one[last] / theory[last]) for one in branch["digons"]],
        [float(one[0] / theory[0]) for one in branch["pentagon"]],
    )
    add_pair(found, "digon_theory", *pair, "pentagon", unit="1", formula=text)
    at = int(np.abs(np.log(ratios / PAPER)).argmin())
    text = (
        "best pentagon's loss over the digons' closed form, where the paper has the change (control: equal densities)"
    )
    pair = (
        [float(one[at] / theory[at]) for one in branch["pentagon"]],
        [float(one[0] / theory[0]) for one in branch["pentagon"]],
    )
    add_pair(found, "paper_crossing", *pair, "equal", unit="1", formula=text)
    write_metrics(metrics, found)
    rows = [
        [seed, float(ratio), name, float(branch[name][k, d]), float(theory[d]), int(kinds[name][k, d].sum())]
        for (k, seed), (d, ratio), name in itertools.product(enumerate(seeds), enumerate(ratios), kinds)
        if np.isfinite(branch[name][k, d])
    ]
    write_table(table, rows, ["seed", "ratio", "branch", "loss", "digon_theory", "restarts"], digits=8)
    frame = column_table({"relu": (grid, grid.best())}, seeds).rename(columns={"density": "ratio"})
    write_table(columns, frame.to_numpy().tolist(), list(frame.columns), digits=8)


def crossing(
    ratios: Float[np.ndarray, " ratio"], pentagon: Float[np.ndarray, " ratio"], digons: Float[np.ndarray, " ratio"]
) -> tuple[float, float, float]:
    """Ratio of equal loss; there, the slope d log L / d log rho of digons minus pentagon, and the pentagon's own bend.

    Slopes are straight fits over the ratios within a factor `NEAR`, two at least. ArithmeticError if the
    branches never cross: the restarts found only one of them.
    """
    both = np.isfinite(pentagon) & np.isfinite(digons)
    x, gap = np.log(ratios[both]), np.log(pentagon[both] / digons[both])
    places = np.flatnonzero((gap[:-1] < 0) & (gap[1:] >= 0))
    if not len(places):
        raise ArithmeticError("pentagon and digons never cross; give rarer_feature more restarts or rarer ratios")
    k = int(places[0])
    at = float(x[k] + (x[k + 1] - x[k]) * gap[k] / (gap[k] - gap[k + 1]))

    def slope(loss: Float[np.ndarray, " ratio"], *, rarer: bool = True, denser: bool = True) -> float:
        side = np.log(ratios) - at
        kept = np.flatnonzero(
            np.isfinite(loss) & ((side < 1e-9) if not denser else (side > -1e-9) if not rarer else True)
        )
        kept = kept[np.abs(side[kept]).argsort()]
        chosen = kept[: max(2, int((np.abs(side[kept]) <= np.log(NEAR)).sum()))]
        return float(np.polyfit(np.log(ratios[chosen]), np.log(loss[chosen]), 1)[0])

    kink = slope(digons) - slope(pentagon)
    return float(np.exp(at)), kink, abs(slope(pentagon, rarer=False) - slope(pentagon, denser=False))


if __name__ == "__main__":
    run(measure_rarer)
