"""Overlap of seeds at each width, and of dictionaries that differ in sparsity (claim S10).

SAEs of one seed begin with the same rows, whatever their sparsity, layer or (for the first rows) width, and after short
training some of that is left. So two sparsities are compared twice: within a seed, where they differ in sparsity alone,
and at the central width across seeds.
"""

from itertools import combinations
from pathlib import Path

import pandas as pd

from common.records import Metric
from common.tables import Seeded
from replications.sparse_autoencoders.matching import Matcher
from replications.sparse_autoencoders.more_members import narrower
from replications.sparse_autoencoders.settings import Sweep


def pair_rows(match: Matcher, sweep_folder: Path, more_folder: Path, sweep: Sweep, seeds: list[int]) -> pd.DataFrame:
    """Overlap and mean cosine of pairs of dictionaries of one width, with those of random directions in place of the
    second one. `what`: `seeds`, `sparsity` (one seed), `seeds and sparsity`."""
    first, k = seeds[0], sweep.sparsity

    def stored(width: int, sparsity: int, seed: int) -> Path:
        there = sweep_folder if width == sweep.width or seed in seeds[: sweep.grid_seeds] else more_folder
        return there / f"batch_topk-{width}-k{sparsity}-s{seed}"

    widths = [*narrower(sweep), sweep.width]
    asked = [("seeds", width, k, one, k, other) for width in widths for one, other in combinations(seeds, 2)]
    asked += [("sparsity", w, k, first, other, first) for w in widths for other in sweep.sparsities if other != k]
    asked += [
        ("seeds and sparsity", sweep.width, k, one, other, first)
        for one in seeds[1:]
        for other in sweep.sparsities
        if other != k
    ]
    names = ("what", "width", "k", "seed", "other_k", "other_seed")
    rows = []
    for what, width, sparsity, seed, other_sparsity, other_seed in asked:
        one, other = stored(width, sparsity, seed), stored(width, other_sparsity, other_seed)
        cosine, shared = match(one, other)
        null, by_chance = match(one, other, 100 * seed + other_seed)
        about = dict(zip(names, (what, width, sparsity, seed, other_sparsity, other_seed), strict=True))
        found = {"overlap": shared, "overlap_random": by_chance, "cosine": cosine, "cosine_random": null}
        rows.append(about | {name: float(value.double().mean()) for name, value in found.items()})
    return pd.DataFrame(rows)


def pair_metrics(rows: pd.DataFrame, sweep: Sweep, seeds: list[int]) -> dict[str, Metric]:
    """Seeds at each width, the number of a seed being the mean over its pairs; what other sparsities have in common.

    Other sparsities are trained at the first seed only, so their pairs are no sample of seeds: instead of an interval
    they have their range.
    """
    seeded = Seeded()
    own = rows[rows["what"] == "seeds"]
    for width in [*narrower(sweep), sweep.width]:
        of_seed = [own[(own["width"] == width) & ((own["seed"] == s) | (own["other_seed"] == s))] for s in seeds]
        for key, unit in (("overlap", "share"), ("cosine", "1")):
            name, about = f"{key}_width_{width}", f"{key} of two seeds at width {width}"
            seeded.add(name, [float(part[key].mean()) for part in of_seed], unit, about)
            null = [float(part[f"{key}_random"].mean()) for part in of_seed]
            seeded.add(f"{name}_random", null, unit, f"{about}, random directions in place of the second one")
            seeded.minus(f"{name}_minus_random", name, f"{name}_random")
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
