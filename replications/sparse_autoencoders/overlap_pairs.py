"""Overlap of seeds at each width and for some architectures, and of dictionaries that differ in sparsity (claim S10).

SAEs of one seed begin with the same rows, whatever their sparsity, layer or (for the first rows) width, and after short
training some of that is left. So two sparsities are compared twice: within a seed, where they differ in sparsity alone,
and at the central width across seeds.
"""

from itertools import combinations
from pathlib import Path

import pandas as pd

from common.core.metrics import Metric
from common.core.tables import Seeded
from replications.sparse_autoencoders.matching import Matcher
from replications.sparse_autoencoders.more_members import OVER_SEEDS, narrower, over_seeds
from replications.sparse_autoencoders.settings import Sweep


def pair_rows(match: Matcher, sweep_folder: Path, more_folder: Path, sweep: Sweep, seeds: list[int]) -> pd.DataFrame:
    """Overlap and mean cosine of pairs of dictionaries of one width, with those of random directions in place of the
    second one. `what`: `seeds`, `sparsity` (one seed), `seeds and sparsity`, and `seeds of <architecture>`."""
    first, k = seeds[0], sweep.sparsity

    def stored(width: int, sparsity: int, seed: int, architecture: str = "batch_topk") -> Path:
        own = architecture == "batch_topk"
        swept = seed in seeds[: sweep.grid_seeds if own else 1] or (own and width == sweep.width)
        there = sweep_folder if swept else more_folder
        return there / f"{architecture}-{width}-k{sparsity}-s{seed}"

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
        for name in over_seeds(sweep)
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
    seeded = Seeded()
    sets = {f"width_{width}": rows[(rows["what"] == "seeds") & (rows["width"] == width)]
            for width in [*narrower(sweep), sweep.width]}  # fmt: skip
    sets |= {OVER_SEEDS[name]: rows[rows["what"] == f"seeds of {name}"] for name in over_seeds(sweep)}
    for which, own in sets.items():
        of_seed = [own[(own["seed"] == s) | (own["other_seed"] == s)] for s in seeds]
        for key, unit in (("overlap", "share"), ("cosine", "1")):
            name, about = f"{key}_{which}", f"{key} of two seeds, {which.replace('_', ' ')}"
            seeded.add(name, [float(part[key].mean()) for part in of_seed], unit, about)
            null = [float(part[f"{key}_random"].mean()) for part in of_seed]
            seeded.add(f"{name}_random", null, unit, f"{about}, random directions in place of the second one")
            seeded.minus(f"{name}_minus_random", name, f"{name}_random")
    if {"l1", "topk"} <= sets.keys():
        for key in ("overlap", "cosine"):
            seeded.minus(f"{key}_l1_minus_topk", f"{key}_l1", f"{key}_topk")
            seeded.minus(f"{key}_l1_minus_topk_random", f"{key}_l1_random", f"{key}_topk_random")
            seeded.minus(f"{key}_l1_minus_topk_difference", f"{key}_l1_minus_topk", f"{key}_l1_minus_topk_random")
    found = seeded.found
    for what in ("sparsity", "seeds and sparsity"):
        values = rows[rows["what"] == what]["overlap"].tolist()
        found[f"overlap_{what.replace(' ', '_')}"] = Metric(
            value=sum(values) / len(values),
            ci_low=min(values),
            ci_high=max(values),
            n=len(values),
            unit="share",
            formula=f"overlap of dictionaries of one width that differ in {what}, mean over pairs; "
            "the bounds are the lowest and the highest pair, not a confidence interval",
        )
    return found
