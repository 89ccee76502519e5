"""Step: which hidden units serve several features when the model computes |x| (section 8, figure on absolute values).

A hidden unit serves the features whose input weight exceeds a quarter of its largest one; it is polysemantic if these
are two or more. Where both kinds of units exist, the paper finds that monosemantic units carry the most important
features: here, the chance that a feature with a unit of its own is more important than a served feature without one
(1/2 if kinds and importance have nothing to do with each other, the control). The sparser the features, the more units
are polysemantic: rank correlation over densities, control: densities permuted. How small models arrange weights and
cancel interference: `motif`.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import null_distribution
from common.core.step import run
from common.core.tables import write_table
from replications.superposition.geometry import FORGOTTEN
from replications.superposition.measure_neurons import SERVED, polysemantic
from replications.superposition.motif import COLUMNS, add_motif
from replications.superposition.tables import (
    PERMUTATIONS,
    add_pair,
    nearest,
    permuted_correlations,
    rank_correlation,
)

SHUFFLES = 200


def measure_absolute(
    *,
    models: Path,
    seeds: list[int],
    mixed_density: float,
    sparser_density: float,
    metrics: Path,
    table: Path,
    motif: Path,
) -> None:
    """Writes `metrics` (JSON), `table` (CSV: input weights of every hidden unit, in units of its largest) and `motif`
    (CSV: weights and interference of the best small models)."""
    stored = load_file(models)
    densities, W1 = stored["relu.densities"], stored["relu.W1"]
    dense, sparse = int(densities.argmax()), int(densities.argmin())
    control = nearest(densities, float(stored["linear.densities"][0]))
    count, loss = polysemantic(W1), stored["relu.loss"]
    found: dict[str, Metric] = {}
    text = f"hidden units with two or more input weights above {SERVED} of the largest"
    pair = (count[:, dense], count[:, sparse])
    add_pair(found, "dense_polysemantic", *pair, "sparse", unit="units", formula=f"{text}, densest")
    add_pair(found, "sparse_polysemantic", *pair[::-1], "dense", unit="units", formula=f"{text}, sparsest")
    sparsity = -densities.double().numpy()
    rank = [rank_correlation(one.double().numpy(), sparsity) for one in count]
    null = [permuted_correlations(one.double().numpy(), sparsity, seed) for one, seed in zip(count, seeds, strict=True)]
    text = "rank correlation over densities of sparsity with polysemantic units"
    means = [float(np.mean(one)) for one in null]
    add_pair(found, "polysemantic_rank", rank, means, "permuted", unit="1", formula=text)
    found["polysemantic_rank_permuted"] = null_distribution(
        np.concatenate(null), unit="1", formula=f"{text}, densities permuted {PERMUTATIONS} times per seed"
    )
    pair = (loss[:, control], stored["linear.loss"][:, 0])
    add_pair(found, "error", *pair, "linear", unit="1", formula="held-out loss over that of the answer 0")
    text = "P(a feature with a unit of its own is more important than one without)"
    for name, density in (("own_unit_importance", mixed_density), ("own_unit_importance_sparser", sparser_density)):
        at = W1[:, nearest(densities, density)]
        nulls = [shuffled(one, seed) for one, seed in zip(at, seeds, strict=True)]
        pair = (torch.tensor([own_unit_is_important(one) for one in at]), torch.tensor(nulls))
        add_pair(found, name, *pair, "shuffled", unit="1", formula=text)
    write_table(motif, add_motif(found, stored, seeds), COLUMNS, digits=8)
    write_metrics(metrics, found)
    rows = []
    for (s, seed), (d, density) in itertools.product(enumerate(seeds), enumerate(densities.tolist())):
        linear = float(stored["linear.loss"][s, 0]) if d == control else float("nan")
        scaled = W1[s, d] / W1[s, d].abs().amax(-1, keepdim=True).clamp(min=FORGOTTEN)
        rows += [
            [seed, density, j, i, float(scaled[j, i]), int(count[s, d]), float(loss[s, d]), linear]
            for j, i in itertools.product(range(W1.shape[-2]), range(W1.shape[-1]))
            if abs(float(scaled[j, i])) > FORGOTTEN
        ]
    names = ["seed", "density", "unit", "feature", "weight", "polysemantic", "error", "error_linear"]
    write_table(table, rows, names, digits=8)


def kinds(W1: Float[Tensor, "hidden feature"]) -> tuple[Bool[Tensor, " feature"], Bool[Tensor, " feature"]]:
    """Features that some monosemantic unit serves, and features that only polysemantic units serve."""
    size = W1.abs()
    largest = size.amax(-1, keepdim=True)
    serves = (size > SERVED * largest) & (largest > FORGOTTEN)
    own = (serves & (serves.sum(-1, keepdim=True) == 1)).any(0)
    return own, serves.any(0) & ~own


def own_unit_is_important(W1: Float[Tensor, "hidden feature"]) -> float:
    """Chance that a random feature with a unit of its own comes before (has a smaller index than) one without."""
    return before(*kinds(W1))


def before(own: Bool[Tensor, " feature"], shared: Bool[Tensor, " feature"]) -> float:
    """Share of pairs (own, shared) in which the own one is more important; 1/2 if there are no pairs."""
    first, second = own.nonzero(), shared.nonzero()
    return float((first < second.T).double().mean()) if len(first) and len(second) else 0.5


def shuffled(W1: Float[Tensor, "hidden feature"], seed: int) -> float:
    """The same with kinds dealt at random among the served features, mean of many deals."""
    own, shared = kinds(W1)
    served = (own | shared).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    chances = []
    for _ in range(SHUFFLES):
        dealt = torch.zeros_like(own)
        dealt[served[torch.randperm(len(served), generator=generator)[: int(own.sum())]]] = True
        chances.append(before(dealt, (own | shared) & ~dealt))
    return sum(chances) / SHUFFLES


if __name__ == "__main__":
    run(measure_absolute)
