"""Step: is the error of an SAE worse than a random error of the same size (Gurnee 2024)?

On BatchTopK SAEs of the central width: all seeds, and where settings say so all sparsities and both layers. With x^ the
reconstruction and u a random unit vector, drawn anew for every SAE, draw and token,

    ratio = KL(x -> x^) / mean over draws of KL(x -> x + |x - x^| u).

The control sets half of the draws against the other half: it was not used to make what it is divided by, so that it
strays from 1 as draws do. A random direction is cheap to the model where activations hardly vary. So a direction with
the covariance of the held-out activations is a second control, set over the same random points. Held-out documents are
what is resampled.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric, Uncertainty, write_metrics
from common.core.statistics import BOOTSTRAP_DRAWS, from_draws, over_clusters, with_control
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import load_model
from common.interp.decoder import Decoder
from common.saes.index import Entry, Index, read_index
from common.saes.metrics import pathological_ratio
from common.saes.sae import Sae
from replications.sparse_autoencoders.baselines import Reconstruct
from replications.sparse_autoencoders.settings import MeasureLanguage, Sweep
from replications.sparse_autoencoders.substitution import (
    at_same_distance,
    layers_of,
    read_held_out,
    scored,
    substitute,
)

DRAWS = 4
BAR = 1.5  # "nearly everywhere" counts ratios above this
ABOUT = f"kl of the SAE over mean kl of {DRAWS} random points at the same distance"
NULL = f"mean kl of {DRAWS // 2} random points over that of {DRAWS - DRAWS // 2} others at the same distance"
SHAPED = "kl of the SAE over kl of a point at the same distance, its direction drawn with the covariance of activations"


COVARIANCE = "covariance_points: kl of such a point over mean kl of the random points"


class Pair(NamedTuple):
    """KL of what is judged and of what it is divided by, summed over the tokens of each document."""

    above: Float[np.ndarray, " document"]
    below: Float[np.ndarray, " document"]

    @property
    def ratio(self) -> float:
        """UserError if nothing was changed."""
        return pathological_ratio(float(self.above.sum()), float(self.below.sum()))


class Judged(NamedTuple):
    """One SAE, its control, and directions with the covariance of activations in the place of either side."""

    effect: Pair
    null: Pair
    shaped: Pair
    covariance: Pair


class ErrorsFiles(Files):
    manifest: Path
    """of the language model"""
    index: Path
    held_out: Path
    metrics: Path
    table: Path
    """one row per SAE"""


def measure_errors(files: ErrorsFiles, settings: MeasureLanguage, run: RunInfo) -> None:
    """Writes `metrics.json` and the table."""
    sweep, evaluation, index = settings.sweep, settings.evaluation, read_index(files.index)
    entries = compared(index, sweep, everywhere=evaluation.errors_everywhere)
    saes, kinds = {one.name: index.load(one.name) for one in entries}, {one.name: one.kind for one in entries}
    stored = load_file(files.held_out)
    bridge = load_model(files.manifest.parent, device=run.device)
    decoder = Decoder(bridge, stored["tokens"].shape[1])
    judged: dict[str, Judged] = {}
    for layer in layers_of(stored):
        chosen = {name: sae for name, sae in saes.items() if sae.about.hook == f"blocks.{layer}.hook_resid_pre"}
        if not chosen:
            continue
        small = read_held_out(stored, layer).one_per_document(evaluation.windows, evaluation.window)
        document = small.document[:, None].expand_as(small.used)[scored(small)].numpy()
        root = covariance_root(read_held_out(stored, layer).activations())
        changes: dict[str, Reconstruct] = {name: sae.reconstruct for name, sae in chosen.items()}
        for name, sae in chosen.items():
            changes |= {own(name, draw): at_same_distance(sae.reconstruct, noise(name, draw)) for draw in range(DRAWS)}
            changes[own(name, DRAWS)] = at_same_distance(sae.reconstruct, noise(name, DRAWS), root)
        found = substitute(decoder, small, changes, evaluation.batch)
        for name in chosen:
            random = np.stack([by_document(found[own(name, draw)].kl, document) for draw in range(DRAWS + 1)])
            judged[name] = set_against(by_document(found[name].kl, document), random[:-1], random[-1])
    rows = [row(name, saes[name], kinds[name], judged[name]) for name in judged]
    write_table(files.table, rows)
    write_metrics(files.metrics, summary(pd.DataFrame(rows), judged, sweep, run.seeds))


def compared(index: Index, sweep: Sweep, *, everywhere: bool) -> list[Entry]:
    """BatchTopK SAEs of the central width; unless `everywhere`, those of the central point alone."""
    kinds = ("grid", "seed", "grid seed", *(("late",) if everywhere else ()))
    found = [one for one in index.of_kinds(*kinds) if one.recipe and one.recipe.d_sae == sweep.width]
    return [one for one in found if everywhere or (one.recipe and one.recipe.sparsity == sweep.sparsity)]


def own(name: str, draw: int) -> str:
    return f"{name}:random{draw}"


def noise(name: str, draw: int) -> int:
    """The seed of the noise of one SAE and draw."""
    return zlib.crc32(own(name, draw).encode())


def by_document(kl: Float[np.ndarray, " token"], document: Int[np.ndarray, " token"]) -> Float[np.ndarray, " document"]:
    """Sums over the tokens of each document."""
    return np.bincount(np.unique(document, return_inverse=True)[1], weights=kl)


def covariance_root(x: Float[Tensor, "token d"]) -> Float[Tensor, "d d"]:
    """A root of the covariance: root root^T."""
    values, vectors = torch.linalg.eigh(x.double().T.cov())
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root.float()


def set_against(
    kl: Float[np.ndarray, " document"],
    random: Float[np.ndarray, "draw document"],
    shaped: Float[np.ndarray, " document"],
) -> Judged:
    """The SAE over the mean of all draws, half of the draws over the others, and the SAE over and beside `shaped`."""
    half, base = len(random) // 2, random.mean(0)
    null = Pair(random[:half].mean(0), random[half:].mean(0))
    return Judged(Pair(kl, base), null, Pair(kl, shaped), Pair(shaped, base))


def row(name: str, sae: Sae, kind: str, one: Judged) -> dict[str, Any]:
    """A row of the table. UserError if a reconstruction is perfect."""
    ratio = one.effect.ratio
    interval = over_documents([one.effect], mean, ABOUT)
    return {
        "name": name,
        "kind": kind,
        "hook": sae.about.hook,
        "k": sae.about.sparsity,
        "seed": sae.about.seed,
        "ratio": ratio,
        "ratio_low": interval.ci_low,
        "ratio_high": interval.ci_high,
        "null": one.null.ratio,
        "shaped": one.shaped.ratio,
    }


Statistic = Callable[[Float[np.ndarray, "pair resample"]], Float[np.ndarray, " resample"]]


def over_documents(pairs: list[Pair], statistic: Statistic, about: str, unit: str = "1") -> Metric:
    """A statistic of the ratios of all pairs, with a bootstrap over documents, the same ones for all."""
    sums = np.stack([np.stack(pair) for pair in pairs])
    count = sums.shape[2]
    dice = np.random.default_rng(0).integers(0, count, size=(BOOTSTRAP_DRAWS, count))
    picked = sums[:, :, np.concatenate([np.arange(count)[None], dice])].sum(-1)  # the first resample is the data
    if not (picked[:, 1] > 0).all():
        raise UserError("a random point did as little as none in some documents; take more held-out windows")
    values = statistic(picked[:, 0] / picked[:, 1])
    return from_draws(
        float(values[0]), values[1:], n=count, unit=unit, formula=f"{about}; documents resampled",
        uncertainty=Uncertainty(unit="documents", count=count),
    )  # fmt: skip


def mean(ratios: Float[np.ndarray, "pair resample"]) -> Float[np.ndarray, " resample"]:
    return np.asarray(ratios.mean(0))


def above(ratios: Float[np.ndarray, "pair resample"]) -> Float[np.ndarray, " resample"]:
    """Share of ratios above the bar."""
    return np.asarray((ratios > BAR).mean(0))


def excess(ratios: Float[np.ndarray, "pair resample"]) -> Float[np.ndarray, " resample"]:
    """Share above the bar in the first half of the pairs, minus that in the second half."""
    half = len(ratios) // 2
    return np.asarray(above(ratios[:half]) - above(ratios[half:]))


def compared_ratio(judged: list[Judged], seeds: list[int], side: str, about: str) -> Metric:
    """The ratio over the SAEs of all seeds together, and for each, beside random points and, for the effect itself,
    points with the covariance of activations."""

    def pooled(name: str) -> tuple[Float[np.ndarray, " item"], Float[np.ndarray, " item"]]:
        pairs = [getattr(one, name) for one in judged]
        return np.concatenate([pair.above for pair in pairs]), np.concatenate([pair.below for pair in pairs])

    controls = {"random_points": pooled("null")}
    if side == "effect":
        controls["covariance_points"] = pooled("covariance")
        about = f"{about}; of {COVARIANCE}"
    above, below = pooled(side)
    count = len(judged[0].effect.above)
    return over_clusters(
        above, np.tile(np.arange(count), len(seeds)), unit="1", formula=f"{about}; of random_points: {NULL}",
        cluster="documents", denominators=below, groups=np.repeat(seeds, count), controls=controls,
    )  # fmt: skip


def summary(frame: pd.DataFrame, judged: dict[str, Judged], sweep: Sweep, seeds: list[int]) -> dict[str, Metric]:
    """Ratios at the central point and at the later layer, by sparsity, and over all SAEs; documents are resampled."""
    late = frame["kind"] == "late"
    centre = frame[~late & (frame["k"] == sweep.sparsity)].set_index("seed").loc[seeds]["name"]
    own = [judged[name] for name in centre]
    metrics = {
        "pathological_ratio": compared_ratio(own, seeds, "effect", ABOUT),
        "pathological_ratio_shaped": compared_ratio(own, seeds, "shaped", SHAPED),
    }
    if late.any():
        own = [judged[name] for name in frame[late].set_index("seed").loc[seeds]["name"]]
        metrics["pathological_ratio_late"] = compared_ratio(own, seeds, "effect", ABOUT)
    for k in sorted({int(k) for k in frame[~late]["k"]}):
        names = frame[~late & (frame["k"] == k)]["name"]
        pairs = [judged[name].effect for name in names]
        metrics[f"pathological_ratio_k{k}"] = over_documents(pairs, mean, f"{ABOUT}, mean over {len(pairs)} SAEs")
    effects, nulls = ([getattr(one, side) for one in judged.values()] for side in ("effect", "null"))
    share = f"share of {len(judged)} SAEs (sparsities, layers, seeds) with a ratio above {BAR}: "
    metrics["pathological_share"] = with_control(
        over_documents(effects, above, share + ABOUT, "share"),
        "random_points",
        over_documents(nulls, above, share + NULL, "share"),
        over_documents([*effects, *nulls], excess, f"{share}SAEs minus controls", "share"),
    )
    return metrics


if __name__ == "__main__":
    run_step(measure_errors)
