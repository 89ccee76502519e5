"""Step: trains BatchTopK SAEs on planted worlds and asks whether the variance they explain shows what they found.

Korznikov et al. 2026 (arXiv 2602.14111), section on synthetic data. With 3,200 features in 100 dimensions an SAE as
wide as the world explains 0.71 of the variance. It finds 9 % of the features, the frequent ones. Where all are equally
frequent it explains 0.67 and finds 0.1 %. Found is a feature with a decoder row of cosine above 0.8.

Worlds of each seed, all with the same training: `hard` (log-uniform frequencies), `equal` (as many features and
dimensions, equal frequencies), `easy` (few features). `hard_longer` is the hard one again, with several times the
steps. In the hard world other sparsities are trained beside that of the true code. Untrained rows keep their k largest
coefficients, rescaled to fit, or are read by matching pursuit, as are centres of clusters of the data. Everything is
measured on fresh samples, with thresholds in place of the batch. AuxK is off. In runs this short it lowers the biases
of dead latents, and fewer of them live. Many rows that read the input overshoot a small error.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.saes.architectures.base import random_rows
from common.saes.metrics import FORMULAS, cosines, fvu, l0, moments, principal
from common.saes.sae import Sae
from common.saes.trainer import train
from replications.sparse_autoencoders.baselines import Reconstruct, components, untrained
from replications.sparse_autoencoders.clusters import SAMPLES, centres, pursuit
from replications.sparse_autoencoders.settings import Planted, World
from replications.sparse_autoencoders.sweep import recipe
from replications.sparse_autoencoders.worlds import FRESH, Stream, codes, directions

FOUND = 0.8  # cosine, as in the paper
FREQUENT = 0.05  # share of the features that counts as frequent
CHUNK = 5000
LONGER = "hard_longer"
UNITS = {"l0": "latents", "mmcs": "1"}
FORMULA = {
    "explained": FORMULAS["ev"],
    "recovered": f"recovered: share of true features with a decoder row of cosine above {FOUND}",
    "recovered_frequent": f"recovered, of the {FREQUENT:.0%} most frequent features",
    "recovered_rest": "recovered, of the other features",
    "mmcs": FORMULAS["mmcs"],
    "alive": "share of latents that fire on some fresh sample",
    "true_alive": f"share of these whose row has a cosine above {FOUND} with a true feature",
    "l0": FORMULAS["l0"],
}
CONTROLS = {
    "explained": ("untrained", "principal_components", "untrained_pursuit", "clusters"),
    "recovered": ("untrained", "clusters", "equal_frequencies", "easy_world"),
    "mmcs": ("untrained", "clusters"),
}

OTHER_WORLDS = {"equal_frequencies": "equal", "easy_world": "easy"}  # controls of the hard one


class PlantedFiles(Files):
    metrics: Path
    features: Path
    """one row per world, seed and true feature"""
    kinds: Path
    """one row per world, kind of dictionary, k and seed"""


def planted(files: PlantedFiles, settings: Planted, run: RunInfo) -> None:
    """Writes `metrics.json` and the tables."""
    rows: list[dict[str, Any]] = []
    features: list[pd.DataFrame] = []
    left: list[Path] = []
    for name, world in worlds(settings).items():
        sparsities = [world.active, *(settings.sparsities if name == "hard" else [])]
        recipes = [
            recipe("batch_topk", world.features, k, seed, auxiliary=False) for k in sparsities for seed in run.seeds
        ]
        left.append(files.metrics.with_name(f"{files.metrics.name}.{name}"))
        times = (settings.longer or 1) if name == LONGER else 1
        training = settings.training.model_copy(update={"steps": times * settings.training.steps})
        stream = Stream(world, run.seeds * len(sparsities), settings.training.batch, run.device)
        data = world.model_dump_json()
        for one in train(recipes, stream, training, left[-1], data=data, device=run.device, keep=True):
            assert one.sae is not None
            k, seed = one.recipe.sparsity, one.recipe.seed
            judged = Judge(world, seed, settings.evaluation)
            about = {"world": name, "seed": seed, "k": k}
            rows.append({**about, "kind": "trained", **judged.sae(one.sae.to("cpu"))})
            if k == world.active:
                rows += [{**about, "kind": kind, **own} for kind, own in judged.others(round(k)).items()]
                features.append(judged.features(one.sae.W_dec.cpu()).assign(world=name, seed=seed))
    write_metrics(files.metrics, summary(pd.DataFrame(rows), settings))
    write_table(files.kinds, pd.DataFrame(rows))
    write_table(files.features, pd.concat(features))
    for path in left:
        path.unlink(missing_ok=True)


def worlds(settings: Planted) -> dict[str, World]:
    """By name; `equal` differs from `hard` in its frequencies alone, `hard_longer` in nothing but its training."""
    equal = settings.hard.model_copy(update={"frequencies": "equal"})
    again = {LONGER: settings.hard} if settings.longer else {}
    return {"easy": settings.easy, "hard": settings.hard, "equal": equal, **again}


class Judge:
    """Fresh samples of one world and seed, and what dictionaries make of them."""

    def __init__(self, world: World, seed: int, samples: int) -> None:
        self.world, self.seed, self.samples = world, seed, samples
        self.truth = directions(world, seed)
        self.x = Stream(world, [seed], samples).samples(seed, samples, FRESH)

    def sae(self, sae: Sae) -> dict[str, float]:
        """All numbers of a trained dictionary."""
        sums, active, fired = [], [], torch.zeros(sae.d_sae, dtype=torch.bool)
        for x in torch.split(self.x, CHUNK):
            latents = sae.encode(x)
            sums.append(moments(x, sae.decode(latents)))
            active.append(l0(latents) * len(x))
            fired |= (latents != 0).any(0)
        total = sum(sums[1:], sums[0])
        return {
            "explained": 1 - total.fvu,
            "l0": sum(active) / self.samples,
            "alive": float(fired.double().mean()),
            "true_alive": float((cosines(self.truth, sae.W_dec).max(0).values > FOUND)[fired].double().mean()),
            **self.rows(sae.W_dec),
        }

    def others(self, k: int) -> dict[str, dict[str, float]]:
        """Codes of k numbers that need no SAE."""
        more = Stream(self.world, [self.seed], SAMPLES).samples(self.seed, SAMPLES, FRESH + 1)
        start, (mean, axes) = self.start(), principal(more)
        found = centres(more - mean, self.world.features)
        return {
            name: {"explained": self.explained(code), "l0": k, **({} if rows is None else self.rows(rows))}
            for name, code, rows in (
                ("untrained", untrained(more, mean, start, k), start),
                ("principal_components", components(mean, axes[:, :k]), None),
                ("untrained_pursuit", pursuit(start, mean, k).reconstruct, start),
                ("clusters", pursuit(found, mean, k).reconstruct, found),
            )
        }

    def explained(self, reconstruct: Reconstruct) -> float:
        x = self.x[: 2 * CHUNK]
        return 1 - fvu(x, reconstruct(x))

    def start(self) -> Float[Tensor, "d_sae d"]:
        """An untrained dictionary: other rows than any training starts with."""
        return random_rows(self.world.features, self.world.d, torch.Generator().manual_seed(9_000_011 + self.seed))

    def rows(self, W_dec: Float[Tensor, "d_sae d"]) -> dict[str, float]:
        """What the rows have found."""
        best = cosines(self.truth, W_dec).max(1).values
        found, frequent = best > FOUND, self.frequent()
        shares = {"": found, "_frequent": found[frequent], "_rest": found[~frequent]}
        return {"mmcs": float(best.mean())} | {
            f"recovered{name}": float(own.double().mean()) for name, own in shares.items()
        }

    def frequent(self) -> Bool[Tensor, " feature"]:
        """Frequencies rise with the index."""
        return torch.arange(self.world.features) >= round((1 - FREQUENT) * self.world.features)

    def features(self, W_dec: Float[Tensor, "d_sae d"]) -> pd.DataFrame:
        """One row per true feature."""
        code = codes(self.world, self.samples, self.seed, FRESH)
        counts = torch.bincount(code.features, minlength=self.world.features) / self.samples
        near = [cosines(self.truth, rows).max(1).values.numpy() for rows in (W_dec, self.start())]
        return pd.DataFrame({"frequency": counts.numpy(), "cosine": near[0], "random_cosine": near[1]})


def summary(rows: pd.DataFrame, settings: Planted) -> dict[str, Metric]:
    """Intervals over seeds, each with a world of its own."""
    known = worlds(settings)

    def values(world: str, key: str, kind: str = "trained") -> list[float]:
        own = rows[(rows["world"] == world) & (rows["kind"] == kind) & (rows["k"] == known[world].active)]
        return [float(value) for value in own[key]]

    def control(world: str, key: str, name: str) -> list[float]:
        other = OTHER_WORLDS.get(name)
        return values(other, key) if other else values(world, key, name)

    return {
        f"{world}_{key}": over_seeds(
            values(world, key),
            unit=UNITS.get(key, "share"),
            formula=formula,
            controls={
                name: control(world, key, name)
                for name in CONTROLS.get(key, ())
                if world == "hard" or name not in OTHER_WORLDS
            },
        )
        for world in known
        for key, formula in FORMULA.items()
    }


if __name__ == "__main__":
    run_step(planted)
