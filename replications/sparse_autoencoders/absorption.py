"""Step: trains five architectures on planted trees at the L0 of the true code, and asks what a parent's latent misses.

Claim S3. A parent's latent is the one whose decoder row points most nearly its way. `recall` is the share of samples
with a child on which it fires (the parent is then always active), `alone` that of samples with the parent and no child:
a latent that fires on the second and misses the first has been absorbed. The null shuffles samples, so that "with a
child" says nothing. All numbers are means over parents on fresh samples.
"""

from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import run
from common.core.tables import Seeded, write_table
from common.saes.metrics import FORMULAS, cosines, fvu, l0
from common.saes.recipe import Training
from common.saes.sae import Sae
from common.saes.trainer import train
from replications.sparse_autoencoders.members import recipe
from replications.sparse_autoencoders.trees import FEATURES, MEAN_L0, PARENTS, Sample, TreeStream, directions, draw
from replications.sparse_autoencoders.worlds import FRESH

ARCHITECTURES = {"relu": "relu_bricken", "topk": "topk", "batch_topk": "batch_topk", "jumprelu": "jumprelu",
                 "matryoshka": "matryoshka"}  # fmt: skip
EVALUATED = 20_000
FORMULA = {
    "recall": "share of samples with a child on which the parent's latent fires, mean over parents",
    "alone": "share of samples with the parent and no child on which the parent's latent fires, mean over parents",
    "shuffled": "recall with samples shuffled, so that labels of children are wrong",
    "cosine": "cosine of a parent's direction and the decoder row nearest to it, mean over parents",
    "explained": FORMULAS["ev"],
    "l0": FORMULAS["l0"],
}


def absorption(
    *,
    training: Training,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    checkpoint: Path,
    metrics: Path,
    table: Path,
) -> None:
    """Writes `metrics.json` and one row per architecture, seed and parent."""
    recipes = [recipe(name, FEATURES, round(MEAN_L0), seed) for name in ARCHITECTURES.values() for seed in seeds]
    stream = TreeStream(seeds, training.batch, device)
    trained = train(recipes, stream, training, checkpoint, data="trees", device=device, keep=True)
    frames = []
    for name, architecture in ARCHITECTURES.items():
        for one in trained:
            if one.recipe.architecture == architecture:
                assert one.sae is not None
                seed = one.recipe.seed
                frame = judged(one.sae.to("cpu"), directions(seed), draw(EVALUATED, directions(seed), seed, FRESH))
                frames.append(frame.assign(architecture=name, seed=seed))
    rows = pd.concat(frames)
    write_metrics(metrics, summary(rows))
    write_table(table, rows)
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
    marks = {"recall": with_child, "alone": sample.parent & ~with_child, "shuffled": with_child[order]}
    return {name: ((fires & mark).sum(0).double() / mark.sum(0).clamp(min=1)).tolist() for name, mark in marks.items()}


def summary(rows: pd.DataFrame) -> dict[str, Metric]:
    """Means over parents of each seed, with an interval over seeds, and the paired differences of the claims."""
    by_seed = rows.groupby(["architecture", "seed"], sort=False)[list(FORMULA)].mean()
    found = Seeded()
    for name in ARCHITECTURES:
        for key, formula in FORMULA.items():
            unit = "latents" if key == "l0" else "share"
            found.add(f"{name}_{key}", by_seed.loc[name][key].tolist(), unit, formula)
    differences = {
        "relu_recall_minus_alone": ("relu_recall", "relu_alone"),
        "batch_topk_recall_minus_alone": ("batch_topk_recall", "batch_topk_alone"),
        "matryoshka_recall_minus_shuffled": ("matryoshka_recall", "matryoshka_shuffled"),
        "matryoshka_gain": ("matryoshka_recall", "batch_topk_recall"),
        "matryoshka_gain_shuffled": ("matryoshka_shuffled", "batch_topk_shuffled"),
        "matryoshka_gain_difference": ("matryoshka_gain", "matryoshka_gain_shuffled"),
    }
    for name, (left, right) in differences.items():
        found.minus(name, left, right)
    return found.found


if __name__ == "__main__":
    run(absorption)
