"""Step: is the error of an SAE worse than other errors of the same size (Gurnee 2024)?

On the main SAEs of all seeds, where there is a grid on its other sparsities, and on those of the second layer. With x^
the reconstruction and u a random unit vector, drawn anew for every SAE, draw and token,

    ratio = KL(x -> x^) / mean over draws of KL(x -> x + |x - x^| u).

Other directions stand in the place of the SAE's error, over the same random points, at the same distance:

- random ones (half of the draws over the others);
- random ones that keep the norm of the reconstruction and its cosine with x: reconstructions are shorter than x;
- random ones with the covariance of the activations: a direction in which they hardly vary is cheap to the model;
- the SAE's own error on another token: what its errors have in common, whatever the token;
- the error of as many principal components as latents are active, which also depends on the token.

Seeds and held-out documents are resampled.
"""

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import load_model
from common.interp.decoder import Decoder
from common.saes.index import read_index
from common.saes.metrics import pathological_ratio, principal
from common.saes.sae import Sae
from common.saes.stream import Activations
from replications.sparse_autoencoders.baselines import PCA_SAMPLE, Reconstruct, components
from replications.sparse_autoencoders.crossed import Ratio, by_document, over_seeds_and_documents
from replications.sparse_autoencoders.settings import MeasureLanguage, Sweep
from replications.sparse_autoencoders.substitution import (
    along_error,
    at_same_distance,
    at_same_norm,
    error_of_another_token,
    layers_of,
    read_held_out,
    scored,
    substitute,
)

DRAWS = 4
ABOUT = f"kl of the SAE over mean kl of {DRAWS} random points at the same distance"
NULL = f"mean kl of {DRAWS // 2} random points over that of {DRAWS - DRAWS // 2} others at the same distance"
OTHERS = "of the others: kl of a point in that direction over mean kl of the random points"


class Pair(NamedTuple):
    """KL of what is judged and of what it is divided by, summed over the tokens of each document."""

    above: Float[np.ndarray, " document"]
    below: Float[np.ndarray, " document"]

    @property
    def ratio(self) -> float:
        """UserError if nothing was changed."""
        return pathological_ratio(float(self.above.sum()), float(self.below.sum()))


class Judged(NamedTuple):
    """One SAE, and other directions in the place of its error."""

    effect: Pair
    random_points: Pair
    same_norm_points: Pair
    covariance_points: Pair
    other_token_errors: Pair
    principal_errors: Pair


OTHER_ERRORS = Judged._fields[2:]


class ErrorsFiles(Files):
    manifest: Path
    """of the language model"""
    index: Path
    main: Path
    """manifest of the training activations"""
    second: Path | None = None
    """that of the second layer"""
    held_out: Path
    metrics: Path
    table: Path
    """one row per SAE"""


def measure_errors(files: ErrorsFiles, settings: MeasureLanguage, run: RunInfo) -> None:
    """Writes `metrics.json` and the table."""
    sweep, evaluation, index = settings.sweep, settings.evaluation, read_index(files.index)
    entries = [
        one for one in index.of_kinds("main", "grid", "second") if one.recipe and one.recipe.d_sae == sweep.width
    ]
    saes, kinds = {one.name: index.load(one.name) for one in entries}, {one.name: one.kind for one in entries}
    stored = load_file(files.held_out)
    bridge = load_model(files.manifest.parent, device=run.device)
    decoder = Decoder(bridge, stored["tokens"].shape[1])
    judged: dict[str, Judged] = {}
    manifests = [path for path in (files.main, files.second) if path]
    for layer, manifest in zip(layers_of(stored), manifests, strict=True):
        chosen = {name: sae for name, sae in saes.items() if sae.about.hook == f"blocks.{layer}.hook_resid_pre"}
        small = read_held_out(stored, layer).one_per_document(evaluation.windows, evaluation.window)
        document = small.document[:, None].expand_as(small.used)[scored(small)].numpy()
        root = covariance_root(read_held_out(stored, layer).activations())
        mean, axes = principal(Activations(manifest.parent).first(PCA_SAMPLE))
        changes: dict[str, Reconstruct] = {name: sae.reconstruct for name, sae in chosen.items()}
        for name, sae in chosen.items():
            pca = components(mean, axes[:, : round(sae.about.sparsity)])
            changes |= {
                f"{name}:{draw}": at_same_distance(sae.reconstruct, noise(name, draw)) for draw in range(DRAWS)
            } | {
                f"{name}:same_norm_points": at_same_norm(sae.reconstruct, noise(name, DRAWS + 1)),
                f"{name}:covariance_points": at_same_distance(sae.reconstruct, noise(name, DRAWS), root),
                f"{name}:other_token_errors": error_of_another_token(sae.reconstruct, noise(name, DRAWS + 2)),
                f"{name}:principal_errors": along_error(sae.reconstruct, pca),
            }
        found = substitute(decoder, small, changes, evaluation.batch)
        kl = {name: by_document(effect.kl, document) for name, effect in found.items()}
        for name in chosen:
            random = np.stack([kl[f"{name}:{draw}"] for draw in range(DRAWS)])
            judged[name] = set_against(kl[name], random, **{other: kl[f"{name}:{other}"] for other in OTHER_ERRORS})
    rows = [row(name, saes[name], kinds[name], judged[name]) for name in judged]
    write_table(files.table, rows)
    write_metrics(files.metrics, summary(pd.DataFrame(rows), judged, sweep, run.seeds))


def noise(name: str, draw: int) -> int:
    """The seed of the noise of one SAE and draw."""
    return zlib.crc32(f"{name}:random{draw}".encode())


def covariance_root(x: Float[Tensor, "token d"]) -> Float[Tensor, "d d"]:
    """A root of the covariance: root root^T."""
    values, vectors = torch.linalg.eigh(x.double().T.cov())
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root.float()


def set_against(
    kl: Float[np.ndarray, " document"],
    random: Float[np.ndarray, "draw document"],
    **others: Float[np.ndarray, " document"],
) -> Judged:
    """All over the mean of the random draws, but half of the draws over the others."""
    half, base = len(random) // 2, random.mean(0)
    null = Pair(random[:half].mean(0), random[half:].mean(0))
    return Judged(Pair(kl, base), null, **{name: Pair(other, base) for name, other in others.items()})


def row(name: str, sae: Sae, kind: str, one: Judged) -> dict[str, Any]:
    """A row of the table. UserError if a reconstruction is perfect."""
    ratio = one.effect.ratio
    about = {"name": name, "kind": kind, "hook": sae.about.hook, "k": sae.about.sparsity, "seed": sae.about.seed}
    own = over_documents([one])
    others = {key: getattr(one, key).ratio for key in Judged._fields[1:]}
    return {**about, "ratio": ratio, "ratio_low": own.ci_low, "ratio_high": own.ci_high, **others}


def over_documents(judged: list[Judged]) -> Metric:
    """The ratio of SAEs of several seeds together, beside its controls."""

    def pooled(name: str) -> Ratio:
        pairs: list[Pair] = [getattr(one, name) for one in judged]
        above, below = (np.stack(side)[:, None] for side in zip(*pairs, strict=True))
        return Ratio(above, below)

    effect, *others = (pooled(name) for name in Judged._fields)
    return over_seeds_and_documents(
        effect, dict(zip(Judged._fields[1:], others, strict=True)), n=effect.above.size, unit="1",
        formula=f"{ABOUT}; of random_points: {NULL}; {OTHERS}",
    )  # fmt: skip


def summary(frame: pd.DataFrame, judged: dict[str, Judged], sweep: Sweep, seeds: list[int]) -> dict[str, Metric]:
    """Ratios of the main SAEs, of that of the second layer, and by sparsity."""

    def of(kind: str) -> list[Judged]:
        own = frame[frame["kind"] == kind].set_index("seed")["name"]
        return [judged[own[seed]] for seed in seeds if seed in own.index]

    metrics = {"pathological_ratio": over_documents(of("main"))}
    if sweep.second:
        metrics["pathological_ratio_second_layer"] = over_documents(of("second"))
    grid = frame[frame["kind"] == "grid"]
    return metrics | {
        f"pathological_ratio_k{k:.0f}": over_documents([judged[name]])
        for k, name in zip(grid["k"], grid["name"], strict=True)
    }


if __name__ == "__main__":
    run_step(measure_errors)
