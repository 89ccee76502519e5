"""Step: do two dictionaries that differ only in their seed hold the same latents? (Paulo and Belrose 2025, 2501.16615.)

Latents of two SAEs are matched one to one (Hungarian algorithm), once by decoder cosine and once by encoder cosine. A
latent is *shared* if both matchings give it the same partner and its decoder cosine is above 0.7. The dictionaries are
those of the sweep's central point: same data in the same order, other initial weights. The number of a seed is the mean
over the other seeds.

Null: the other dictionary replaced by random directions with the covariance of its decoder rows, encoder equal to the
decoder, so that both matchings have a chance to agree. Beside it stand dictionaries of the later layer. How sharing
goes with the firing rate is the rank correlation of cosine and density; its null permutes the densities.

The table of pairs has the same for seeds at each width and for some architectures, and for dictionaries that differ in
sparsity. SAEs of one seed begin with the same rows, whatever their sparsity, layer or (for the first rows) width, and
after short training some of that is left. So two sparsities are compared twice: within a seed, where they differ in
sparsity alone, and at the central width across seeds.
"""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from scipy.stats import spearmanr
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.saes.index import Index, read_index
from common.saes.saelens import SPARSITY
from replications.sparse_autoencoders.matching import Matcher
from replications.sparse_autoencoders.settings import Sweep
from replications.sparse_autoencoders.sweep import SEEDED_ARCHITECTURES, central, narrower, seeded_architectures

PERMUTATIONS = 20


class OverlapFiles(Files):
    index: Path
    metrics: Path
    latents: Path
    """one row per latent and seed"""
    pairs: Path
    """one row per pair of dictionaries"""


def overlap(files: OverlapFiles, settings: Sweep, run: RunInfo) -> None:
    """Writes `metrics.json` and the tables."""
    index, seeds = read_index(files.index), run.seeds
    own, late = ([index.path(central(settings, seed, kind)) for seed in seeds] for kind in ("batch_topk", "late"))
    density = [load_file(folder / SPARSITY)["sparsity"].double() for folder in own]
    match = Matcher()
    values: dict[str, list[float]] = {}
    frames = []
    for place, seed in enumerate(seeds):
        found = [match(own[place], other) for at, other in enumerate(own) if at != place]
        cosine = torch.stack([pair[0] for pair in found]).mean(0)
        share = torch.stack([pair[1].double() for pair in found]).mean(0)
        null = [match(own[place], other, 100 * seed + at) for at, other in enumerate(own) if at != place]
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(len(cosine), generator=generator) for _ in range(PERMUTATIONS)]
        permuted = [correlation(cosine, density[place][order]) for order in orders]
        numbers = {
            "overlap": float(share.mean()),
            "overlap_random": float(torch.stack([pair[1].double() for pair in null]).mean()),
            "overlap_late": float(match(own[place], late[(place + 1) % len(seeds)])[1].double().mean()),
            "cosine": float(cosine.mean()),
            "cosine_random": float(torch.stack([pair[0] for pair in null]).mean()),
            "rate_correlation": correlation(cosine, density[place]),
            "rate_correlation_permuted": float(np.mean(permuted)),
        }
        for name, value in numbers.items():
            values.setdefault(name, []).append(value)
        random = torch.stack([pair[0] for pair in null]).mean(0)
        frames.append(
            pd.DataFrame(
                {"seed": seed, "latent": range(len(cosine)), "log10_density": density[place], "cosine": cosine}
                | {"shared": share, "random_cosine": random}
            )
        )
    rows = pair_rows(match, index, settings, seeds)
    write_metrics(files.metrics, summary(values) | pair_metrics(rows, settings, seeds))
    write_table(files.latents, pd.concat(frames))
    write_table(files.pairs, rows)


def correlation(cosine: Float[Tensor, " d_sae"], log_density: Float[Tensor, " d_sae"]) -> float:
    """Spearman's rank correlation, 0 if either is constant."""
    ranked = spearmanr(cosine.numpy(), log_density.numpy()).statistic if bool((cosine != cosine[0]).any()) else np.nan
    return 0.0 if np.isnan(ranked) else float(ranked)


def summary(values: dict[str, list[float]]) -> dict[str, Metric]:
    """Intervals over seeds; the pairs of seeds are not independent, each seed enters all pairs with the others."""
    overlapping = {"random_directions": values["overlap_random"], "later_layer": values["overlap_late"]}
    return {
        "overlap": over_seeds(
            values["overlap"], unit="share", controls=overlapping,
            formula="share of latents with the same partner by decoder and by encoder (Hungarian) and cosine above 0.7",
        ),
        "cosine": over_seeds(
            values["cosine"], unit="1", controls={"random_directions": values["cosine_random"]},
            formula="mean decoder cosine of the one-to-one matching",
        ),
        "rate_correlation": over_seeds(
            values["rate_correlation"], unit="1",
            controls={"permuted_densities": values["rate_correlation_permuted"]},
            formula="Spearman correlation of a latent's decoder cosine and its density",
        ),
    }  # fmt: skip


def pair_rows(match: Matcher, index: Index, sweep: Sweep, seeds: list[int]) -> pd.DataFrame:
    """Overlap and mean cosine of pairs of dictionaries of one width, with those of random directions in place of the
    second one. `what`: `seeds`, `sparsity` (one seed), `seeds and sparsity`, and `seeds of <architecture>`."""
    first, k = seeds[0], sweep.sparsity

    def stored(width: int, sparsity: int, seed: int, architecture: str = "batch_topk") -> Path:
        return index.path(f"{architecture}-{width}-k{sparsity}-s{seed}")

    widths = [*narrower(sweep), sweep.width]
    asked = [("seeds", width, k, one, k, other) for width in widths for one, other in combinations(seeds, 2)]
    asked += [("sparsity", w, k, first, other, first) for w in widths for other in sweep.sparsities if other != k]
    asked += [
        ("seeds and sparsity", sweep.width, k, one, other, first)
        for one in seeds[1:]
        for other in sweep.sparsities
        if other != k
    ]
    asked += [
        (f"seeds of {name}", sweep.width, k, one, k, other)
        for name in seeded_architectures(sweep)
        for one, other in combinations(seeds, 2)
    ]
    names = ("what", "width", "k", "seed", "other_k", "other_seed")
    rows = []
    for what, width, sparsity, seed, other_sparsity, other_seed in asked:
        architecture = what.partition(" of ")[2] or "batch_topk"
        one = stored(width, sparsity, seed, architecture)
        other = stored(width, other_sparsity, other_seed, architecture)
        cosine, shared = match(one, other)
        null, by_chance = match(one, other, 100 * seed + other_seed)
        about = dict(zip(names, (what, width, sparsity, seed, other_sparsity, other_seed), strict=True))
        found = {"overlap": shared, "overlap_random": by_chance, "cosine": cosine, "cosine_random": null}
        rows.append(about | {name: float(value.double().mean()) for name, value in found.items()})
    return pd.DataFrame(rows)


def pair_metrics(rows: pd.DataFrame, sweep: Sweep, seeds: list[int]) -> dict[str, Metric]:
    """Seeds at each width and for other architectures, the number of a seed being the mean over its pairs; what other
    sparsities have in common.

    Other sparsities are trained at the first seed only, so their pairs are no sample of seeds: instead of an interval
    they have their range.
    """
    sets = {f"width_{width}": rows[(rows["what"] == "seeds") & (rows["width"] == width)]
            for width in [*narrower(sweep), sweep.width]}  # fmt: skip
    sets |= {
        SEEDED_ARCHITECTURES[name]: rows[rows["what"] == f"seeds of {name}"] for name in seeded_architectures(sweep)
    }

    def of_seeds(which: str, key: str) -> list[float]:
        own = sets[which]
        return [float(own[(own["seed"] == s) | (own["other_seed"] == s)][key].mean()) for s in seeds]

    def less(key: str) -> list[float]:
        return [a - b for a, b in zip(of_seeds("l1", key), of_seeds("topk", key), strict=True)]

    found = {}
    for key, unit in (("overlap", "share"), ("cosine", "1")):
        for which in sets:
            found[f"{key}_{which}"] = over_seeds(
                of_seeds(which, key), unit=unit, formula=f"{key} of two seeds, {which.replace('_', ' ')}",
                controls={"random_directions": of_seeds(which, f"{key}_random")},
            )  # fmt: skip
        if {"l1", "topk"} <= sets.keys():
            found[f"{key}_l1_minus_topk"] = over_seeds(
                less(key), unit=unit, formula=f"{key} of two seeds, L1 minus TopK",
                controls={"random_directions": less(f"{key}_random")},
            )  # fmt: skip
    for what in ("sparsity", "seeds and sparsity"):
        values = rows[rows["what"] == what]["overlap"].tolist()
        found[f"overlap_{what.replace(' ', '_')}"] = Metric(
            value=sum(values) / len(values),
            ci_low=min(values),
            ci_high=max(values),
            uncertainty=None,
            n=len(values),
            unit="share",
            formula=f"overlap of dictionaries of one width that differ in {what}, mean over pairs; "
            "the bounds are the lowest and the highest pair, not a confidence interval",
        )
    return found


if __name__ == "__main__":
    run_step(overlap)
