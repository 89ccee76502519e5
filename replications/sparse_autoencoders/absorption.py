"""Step: absorption on planted trees (Chanin et al. 2024, arXiv 2409.14507; toy after Bussmann et al. 2025, 2503.17547).

The world: each of six parents is active with probability 0.3, independently. An active parent has, with probability
2/3, exactly one of its three children active; a child is never active without its parent. So 24 orthonormal features,
three of them active in a sample on average, with coefficients exp(0.25 * normal). Sizes are ours.

An SAE can save a latent by *absorption*: the parent's latent stays silent where a child is active, and the child's
latent writes both. It looks like a detector of the parent with holes.

Five architectures are trained at the L0 of the true code. A parent's latent is the one whose decoder row points most
nearly its way. `recall` is the share of samples with a child on which it fires (the parent is then always active),
`alone` that of samples with the parent and no child: a latent that fires on the second and misses the first has been
absorbed. The null shuffles samples, so that "with a child" says nothing. All numbers are means over parents on fresh
samples.
"""

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.saes.architectures.base import Batch
from common.saes.metrics import FORMULAS, cosines, fvu, l0
from common.saes.sae import Sae
from common.saes.trainer import train
from replications.sparse_autoencoders.settings import Absorption
from replications.sparse_autoencoders.sweep import recipe
from replications.sparse_autoencoders.worlds import FRESH

PARENTS, CHILDREN = 6, 3
ACTIVE, WITH_CHILD, SPREAD = 0.3, 2 / 3, 0.25
FEATURES = PARENTS * (1 + CHILDREN)
MEAN_L0 = PARENTS * ACTIVE * (1 + WITH_CHILD)
SCALE = (MEAN_L0 * float(torch.tensor(2 * SPREAD**2).exp())) ** -0.5  # brings the expected squared norm to 1

ARCHITECTURES = {"relu": "relu_bricken", "topk": "topk", "batch_topk": "batch_topk", "jumprelu": "jumprelu",
                 "matryoshka": "matryoshka"}  # fmt: skip
EVALUATED = 20_000
FORMULA = {
    "recall": "share of samples with a child on which the parent's latent fires, mean over parents",
    "alone": "share of samples with the parent and no child on which the parent's latent fires, mean over parents",
    "shuffled": "recall with samples shuffled, so that labels of children are wrong",
    "alone_shuffled": "alone with samples shuffled",
    "cosine": "cosine of a parent's direction and the decoder row nearest to it, mean over parents",
    "explained": FORMULAS["ev"],
    "l0": FORMULAS["l0"],
}


class Sample(NamedTuple):
    """Which features are active, and the scaled sum of them."""

    parent: Bool[Tensor, "sample parent"]
    child: Bool[Tensor, "sample parent child"]
    x: Float[Tensor, "sample d"]


def directions(seed: int) -> Float[Tensor, "feature d"]:
    """Orthonormal directions of a seed, parents first, then the children of each parent."""
    found: Tensor = torch.linalg.qr(
        torch.randn(FEATURES, FEATURES, generator=torch.Generator().manual_seed(7_000_003 + seed))
    )[0]
    return found


def draw(count: int, table: Float[Tensor, "feature d"], seed: int, step: int) -> Sample:
    """Samples as a function of seed and step."""
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
    parent = torch.rand(count, PARENTS, generator=generator) < ACTIVE
    some = parent & (torch.rand(count, PARENTS, generator=generator) < WITH_CHILD)
    which = torch.randint(CHILDREN, (count, PARENTS), generator=generator)
    child = (which[..., None] == torch.arange(CHILDREN)) & some[..., None]
    active = torch.cat([parent, rearrange(child, "sample parent child -> sample (parent child)")], 1)
    values = (SPREAD * torch.randn(count, FEATURES, generator=generator)).exp() * active
    return Sample(parent, child, values @ table * SCALE)


class TreeStream:
    """Batches of all seeds, one slice per seed, for `common.saes.trainer`."""

    def __init__(self, seeds: list[int], batch: int, device: str = "cpu") -> None:
        self.seeds, self.size, self.device = seeds, batch, device
        self.tables = [directions(seed) for seed in seeds]

    def __call__(self, step: int, source: str) -> Batch:
        parts = [draw(self.size, *one, step).x for one in zip(self.tables, self.seeds, strict=True)]
        x = torch.stack(parts).to(self.device)
        return Batch(x, x)


class AbsorptionFiles(Files):
    metrics: Path
    table: Path


def absorption(files: AbsorptionFiles, settings: Absorption, run: RunInfo) -> None:
    """Writes `metrics.json` and one row per architecture, seed and parent."""
    recipes = [recipe(name, FEATURES, round(MEAN_L0), seed) for name in ARCHITECTURES.values() for seed in run.seeds]
    training, checkpoint = settings.training, files.metrics.with_name(f"{files.metrics.name}.checkpoint")
    stream = TreeStream(run.seeds, training.batch, run.device)
    trained = train(recipes, stream, training, checkpoint, data="trees", device=run.device, keep=True)
    frames = []
    for name, architecture in ARCHITECTURES.items():
        for one in trained:
            if one.recipe.architecture == architecture:
                assert one.sae is not None
                seed = one.recipe.seed
                frame = judged(one.sae.to("cpu"), directions(seed), draw(EVALUATED, directions(seed), seed, FRESH))
                frames.append(frame.assign(architecture=name, seed=seed))
    rows = pd.concat(frames)
    write_metrics(files.metrics, summary(rows))
    write_table(files.table, rows)
    checkpoint.unlink(missing_ok=True)


def judged(sae: Sae, truth: Float[Tensor, "feature d"], sample: Sample) -> pd.DataFrame:
    """One row per parent. UserError where the SAE does not read these activations."""
    latents = sae.encode(sample.x)
    best = cosines(truth[:PARENTS], sae.W_dec).max(1)
    found = rates(latents, best.indices, sample)
    whole = {"l0": l0(latents), "explained": 1 - fvu(sample.x, sae.decode(latents))}
    return pd.DataFrame({"parent": range(PARENTS), "cosine": best.values.tolist(), **found, **whole})


def rates(
    latents: Float[Tensor, "sample d_sae"], best: Int[Tensor, " parent"], sample: Sample
) -> dict[str, list[float]]:
    """How often each parent's latent fires: with a child, with the parent alone, and on shuffled samples."""
    fires = latents[:, best] != 0
    with_child = sample.child.any(-1)
    order = torch.randperm(len(fires), generator=torch.Generator().manual_seed(0))
    alone = sample.parent & ~with_child
    marks = {"recall": with_child, "alone": alone, "shuffled": with_child[order], "alone_shuffled": alone[order]}
    return {name: ((fires & mark).sum(0).double() / mark.sum(0).clamp(min=1)).tolist() for name, mark in marks.items()}


def summary(rows: pd.DataFrame) -> dict[str, Metric]:
    """Means over parents of each seed, with an interval over seeds."""
    by_seed = rows.groupby(["architecture", "seed"], sort=False)[list(FORMULA)].mean()

    def values(name: str, key: str) -> list[float]:
        return [float(value) for value in by_seed.loc[name][key]]

    found: dict[str, Metric] = {}
    for name in ARCHITECTURES:
        controls = {"parent_alone": values(name, "alone"), "shuffled_samples": values(name, "shuffled")}
        found[f"{name}_recall"] = over_seeds(
            values(name, "recall"), unit="share", formula=FORMULA["recall"], controls=controls
        )
        for key in ("cosine", "explained", "l0"):
            unit = "latents" if key == "l0" else "share"
            found[f"{name}_{key}"] = over_seeds(values(name, key), unit=unit, formula=FORMULA[key])

    def missed(name: str, end: str = "") -> list[float]:
        recall = "shuffled" if end else "recall"
        return [a - b for a, b in zip(values(name, f"alone{end}"), values(name, recall), strict=True)]

    for name in ARCHITECTURES:
        found[f"{name}_missed"] = over_seeds(
            missed(name), unit="share",
            formula="alone minus recall: share of samples with the parent that its latent misses because of a child",
            controls={"shuffled_samples": missed(name, "_shuffled")}
            | ({"matryoshka": missed("matryoshka")} if name != "matryoshka" else {}),
        )  # fmt: skip

    def gain(key: str) -> list[float]:
        return [a - b for a, b in zip(values("matryoshka", key), values("batch_topk", key), strict=True)]

    found["matryoshka_gain"] = over_seeds(
        gain("recall"), unit="share", formula="recall of Matryoshka minus that of BatchTopK, same seed",
        controls={"shuffled_samples": gain("shuffled")},
    )  # fmt: skip
    return found


if __name__ == "__main__":
    run_step(absorption)
