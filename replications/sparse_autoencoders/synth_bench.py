"""Step: architectures side by side on SynthSAEBench's world (Chanin et al. 2026, arXiv 2602.14687), scaled down.

Two questions of the paper. Does the architecture that explains most variance find the best features? There matching
pursuit explains 0.835 and has the worst F1 (0.446). And does Matryoshka absorb less than BatchTopK (Bussmann et al.
2025, 2503.17547)? An SAE can save a latent by *absorption* (Chanin et al. 2024, 2409.14507). The latent of a parent
stays silent where a child is active, and the child's latent writes both. So the parent's looks like a detector with
holes.

Every seed has a world of its own; the SAEs of a seed differ in architecture alone, at one width and L0. F1 is that of a
living latent as detector of the feature nearest to its row. A root's latent is the one whose row is nearest to it.
`alone` is the share of the samples with the root and no child in which it fires. `recall` is that with a child,
`missed` the first minus the second. Two nulls: children shuffled over the samples of their root, and children of
another root where the first has none. Any active feature may silence a latent. `false_positives` is the share of the
samples without the root in which its latent fires: a latent that fires anywhere misses nothing. Untrained rows are read
in two ways: by the k largest coefficients of a batch, as a BatchTopK SAE before its first step; by matching pursuit. So
are rows that are samples of the data, and centres of their clusters: does any dictionary run ahead that way? True rows
are those of the most frequent features, read as a BatchTopK SAE reads: what they miss owes nothing to training.
"""

from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.saes.architectures import ARCHITECTURES
from common.saes.architectures.base import Progress
from common.saes.metrics import FORMULAS, cosines, detection, fvu, l0, recovery
from common.saes.recipe import ArchitectureName
from common.saes.sae import Sae
from common.saes.trainer import first_weights, train
from replications.sparse_autoencoders.clusters import centres, pursuit
from replications.sparse_autoencoders.forest import BRANCHES, ForestStream
from replications.sparse_autoencoders.settings import SynthBench
from replications.sparse_autoencoders.sweep import recipe
from replications.sparse_autoencoders.worlds import FRESH, Codes

NAMES = {"l1": "relu_april", "topk": "topk", "batch_topk": "batch_topk", "jumprelu": "jumprelu",
         "matryoshka": "matryoshka", "matching_pursuit": "matching_pursuit"}  # fmt: skip
FORMULA = {
    "f1": FORMULAS["f1"],
    "mcc": FORMULAS["mcc"],
    "explained": FORMULAS["ev"],
    "l0": FORMULAS["l0"],
    "alive": "share of latents that fire on some fresh sample",
    "uniqueness": FORMULAS["uniqueness"],
    "recall": "share of samples with a child on which the root's latent fires, mean over roots",
    "alone": "share of samples with the root and no child on which the root's latent fires, mean over roots",
    "missed": "alone minus recall",
    "shuffled": "missed, with children shuffled over the samples of their root",
    "foreign": "missed because of a child of another root, on samples with the root and no child of its own",
    "false_positives": "share of samples without the root on which the root's latent fires, mean over roots",
    "ahead": "ev minus f1: how far the variance explained runs ahead of the features found",
}
UNITS = {"l0": "latents", "mcc": "1", "f1": "1", "ahead": "1"}
UNTRAINED: dict[str, ArchitectureName] = {"untrained": "batch_topk", "untrained_pursuit": "matching_pursuit"}
"""How rows that no training has seen are read"""
OTHER_ROWS = ("data_rows", "kmeans_rows")  # that no SAE was trained for, read by matching pursuit
NULLS = (*UNTRAINED, *OTHER_ROWS)
COMPARED = ("explained", "f1", "mcc", "ahead")  # with all other architectures and these rows
SEEN = 8  # batches that k-means and the choice of samples see


class SynthBenchFiles(Files):
    metrics: Path
    table: Path
    """one row per architecture and seed"""


def synth_bench(files: SynthBenchFiles, settings: SynthBench, run: RunInfo) -> None:
    """Writes `metrics.json` and the table."""
    recipes = [recipe(one, settings.d_sae, settings.sparsity, seed) for one in NAMES.values() for seed in run.seeds]
    training, checkpoint = settings.training, files.metrics.with_name(f"{files.metrics.name}.checkpoint")
    stream = ForestStream(settings.forest, run.seeds, training.batch, run.device)
    data = settings.forest.model_dump_json()
    trained = train(recipes, stream, training, checkpoint, data=data, device=run.device, keep=True)
    judges = {seed: Judge(stream, seed, settings) for seed in run.seeds}
    names = {architecture: name for name, architecture in NAMES.items()}
    rows = []
    for one in trained:
        assert one.sae is not None
        found = judges[one.recipe.seed].sae(one.sae.to("cpu"))
        rows.append({"name": names[one.recipe.architecture], "seed": one.recipe.seed, **found})
    for name, architecture in UNTRAINED.items():
        for seed in run.seeds:
            found = judges[seed].sae(untrained(stream, architecture, seed, settings))
            rows.append({"name": name, "seed": seed, **found})
    for seed in run.seeds:
        for name, sae in other_rows(stream, seed, settings).items():
            rows.append({"name": name, "seed": seed, **judges[seed].sae(sae)})
    frame = pd.DataFrame(rows)
    write_metrics(files.metrics, summary(frame))
    write_table(files.table, frame)
    checkpoint.unlink(missing_ok=True)


def untrained(
    stream: ForestStream,
    architecture: ArchitectureName,
    seed: int,
    settings: SynthBench,
    rows: Float[Tensor, "d_sae d"] | None = None,
) -> Sae:
    """An SAE before its first step, with the given rows, or random ones that no training starts with.

    A BatchTopK SAE has the threshold of its first batch.
    """
    own = recipe(architecture, settings.d_sae, settings.sparsity, seed + 1_000_003)
    [x] = stream.batch([seed], 0).x.cpu()
    weights = {name: value[0] for name, value in first_weights([own], stream.batch([seed], 0), "cpu").items()}
    if rows is not None:
        weights |= {name: rows for name in ("W_enc", "W_dec") if name in weights}
    z = (x - weights["b_dec"]) @ weights.get("W_enc", weights["W_dec"]).mT
    level = z.flatten().topk(settings.sparsity * len(z)).values[-1:].double()
    none = torch.zeros(1)
    return ARCHITECTURES[architecture].export(weights, own, Progress(none.long()[None], none, none, level))


def other_rows(stream: ForestStream, seed: int, settings: SynthBench) -> dict[str, Sae]:
    """Matching pursuit over samples of the data, and over centres of their clusters; true rows, read as BatchTopK."""
    start = untrained(stream, "matching_pursuit", seed, settings)
    x = torch.cat([stream.batch([seed], step).x[0].cpu() for step in range(SEEN)]) - start.b_dec
    truth = stream.worlds[seed].directions[: settings.d_sae]  # by falling probability
    return {
        "data_rows": pursuit(torch.nn.functional.normalize(x[: settings.d_sae]), start.b_dec, settings.sparsity),
        "kmeans_rows": pursuit(centres(x, settings.d_sae), start.b_dec, settings.sparsity),
        "true_rows": untrained(stream, "batch_topk", seed, settings, truth),
    }


class Judge:
    """Fresh samples of one seed's world, and what SAEs make of them."""

    def __init__(self, stream: ForestStream, seed: int, settings: SynthBench) -> None:
        self.truth, self.roots = stream.worlds[seed].directions, settings.forest.roots
        self.x, code = stream.samples(seed, settings.evaluation, FRESH)
        self.active = active(code, settings.evaluation, settings.forest.features)
        self.shuffle = torch.Generator().manual_seed(seed)

    def sae(self, sae: Sae) -> dict[str, float]:
        """All numbers of one SAE."""
        latents = sae.encode(self.x)
        cosine = cosines(self.truth, sae.W_dec)
        near = recovery(self.truth, sae.W_dec)
        return {
            "f1": detection(latents, self.active, cosine.argmax(0)),
            "mcc": near.mcc,
            "explained": 1 - fvu(self.x, sae.decode(latents)),
            "l0": l0(latents),
            "alive": float((latents != 0).any(0).double().mean()),
            "uniqueness": near.uniqueness,
            **self.absorption(latents[:, cosine[: self.roots].argmax(1)] != 0),
        }

    def absorption(self, fires: Bool[Tensor, "sample root"]) -> dict[str, float]:
        """How often each root's latent fires: alone, with a child, with children shuffled or another root's, and
        without its root; means over roots."""
        nodes = self.active[:, self.roots : self.roots * (1 + BRANCHES)]
        children = nodes.reshape(len(nodes), self.roots, BRANCHES).any(2)
        rates = []
        for root in range(self.roots):
            here = self.active[:, root]
            child, own = children[here, root], fires[here, root].double()
            order = torch.randperm(len(child), generator=self.shuffle)
            others = [other[~child] for at, other in enumerate(children[here].mT) if at != root]
            foreign = torch.stack([silenced(own[~child], other) for other in others]).nanmean()
            false = fires[~here, root].double().mean()
            rates.append([own[~child].mean(), own[child].mean(), silenced(own, child[order]), foreign, false])
        alone, recall, shuffled, foreign, false = torch.tensor(rates, dtype=torch.float64).nanmean(0).tolist()
        return {"alone": alone, "recall": recall, "missed": alone - recall, "shuffled": shuffled, "foreign": foreign,
                "false_positives": false}  # fmt: skip


def silenced(fires: Float[Tensor, " sample"], child: Bool[Tensor, " sample"]) -> Float[Tensor, ""]:
    """By how much a latent fires less where a child is active; NaN where all samples are of one kind."""
    return fires[~child].mean() - fires[child].mean()


def active(code: Codes, samples: int, features: int) -> Bool[Tensor, "sample feature"]:
    """Which true features are active."""
    found = torch.zeros(samples, features, dtype=torch.bool)
    found[code.rows, code.features] = code.values > 0
    return found


def summary(frame: pd.DataFrame) -> dict[str, Metric]:
    """Each number of each architecture over seeds, and the two comparisons: of matching pursuit with all others, and of
    what BatchTopK and Matryoshka miss."""

    def values(name: str, key: str) -> list[float]:
        return [float(value) for value in frame[frame["name"] == name][key]]

    def over(name: str, key: str, **controls: list[float]) -> Metric:
        return over_seeds(values(name, key), unit=UNITS.get(key, "share"), formula=FORMULA[key], controls=controls)

    frame = frame.assign(ahead=frame["explained"] - frame["f1"])
    found = {f"{name}_{key}": over(name, key) for name in NAMES for key in FORMULA}
    for key in COMPARED:
        others = {name: values(name, key) for name in (*NAMES, *NULLS) if name != "matching_pursuit"}
        found[f"matching_pursuit_{key}"] = over("matching_pursuit", key, **others)
    found["batch_topk_missed"] = over(
        "batch_topk", "missed", matryoshka=values("matryoshka", "missed"),
        shuffled_children=values("batch_topk", "shuffled"), foreign_child=values("batch_topk", "foreign"),
        untrained=values("untrained", "missed"), true_rows=values("true_rows", "missed"),
    )  # fmt: skip
    return found


if __name__ == "__main__":
    run_step(synth_bench)
