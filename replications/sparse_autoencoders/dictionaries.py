"""Step: sets trained, soft-frozen, frozen and untrained dictionaries side by side (claims S2, S12).

The question of Korznikov et al. 2026: how much of what an SAE is praised for needs directions that were learned? Soft-
frozen and frozen SAEs see the same data in the same order as those of the sweep's central point, at the same width, L0
and seeds. In one table stand variance explained, loss recovered (against mean ablation), cross-entropy added and KL
(`measure_language`), sparse probes (`benchmarks`), and, where the truth is known, variance explained and features
found (`measure_planted`). The null of a difference is the distance between two seeds.

Untrained dictionaries are random directions: isotropic ones with their k largest coefficients, but for probes ones of
the trained dictionary's covariance that fire as often (`codes.random_sae`).
"""

from pathlib import Path

import pandas as pd

from common.core.metrics import Metric, write_metrics
from common.core.step import run
from common.core.tables import Seeded, write_table
from common.saes.metrics import FORMULAS
from replications.sparse_autoencoders.benchmark_metrics import VIEWS
from replications.sparse_autoencoders.settings import Sweep

TRAINED = {"trained": "batch_topk", "soft": "soft", "frozen": "frozen"}  # name here -> name in the sweep
UNTRAINED = {"random": "random", "pca": "pca"}
PROBED = {"trained": "latents", "soft": "soft-frozen", "frozen": "frozen", "random": "random",
          "pca": "principal components"}  # fmt: skip
PLANTED = {"trained": "trained", "soft": "soft", "frozen": "frozen", "random": "untrained"}
PROBE = "sparse probing, mean over tasks: balanced accuracy of a probe on "
NUMBERS = {
    "explained": ("share", FORMULAS["ev"]),
    "recovered": ("share", FORMULAS["recovered_mean"]),
    "delta_ce": ("nats", FORMULAS["delta_ce"]),
    "kl": ("nats", FORMULAS["kl"]),
    "probe_k1": ("share", PROBE + "one feature"),
    "probe_k5": ("share", PROBE + "five features"),
}
COMPARED = ("explained", "recovered", "probe_k1", "probe_k5")


def dictionaries(
    *, saes: Path, probes: Path, planted: Path, sweep: Sweep, seeds: list[int], metrics: Path, table: Path
) -> None:
    """Writes `metrics.json` and one row per dictionary.

    Args:
        saes: table of `measure_language`.
        probes: table of `benchmarks`.
        planted: kinds of dictionaries on planted worlds, of `measure_planted`; in the table only.
    """
    frame = on_the_model(pd.read_csv(saes), sweep, seeds)
    for more in (probed(pd.read_csv(probes)), on_planted_worlds(pd.read_csv(planted))):
        frame = frame.merge(more, on=["kind", "seed"], how="outer", sort=False)
    frame = frame.sort_values(["kind", "seed"], key=lambda one: one.map(list(TRAINED | UNTRAINED).index)
                              if one.name == "kind" else one)  # fmt: skip
    write_metrics(metrics, summary(frame))
    write_table(table, frame)


def on_the_model(saes: pd.DataFrame, sweep: Sweep, seeds: list[int]) -> pd.DataFrame:
    """One row per kind and seed; kinds that have no seed get the first one."""
    by_name = saes.set_index("name")
    few = seeds[: sweep.control_seeds]
    rows = [
        {"kind": kind, "seed": seed, "name": f"{name}-{sweep.width}-k{sweep.sparsity}-s{seed}"}
        for kind, name in TRAINED.items()
        for seed in (few if kind == "frozen" else seeds)
    ]
    rows += [{"kind": kind, "seed": seeds[0], "name": f"{name}-{sweep.sparsity}"} for kind, name in UNTRAINED.items()]
    frame = pd.DataFrame(rows)
    own = by_name.loc[frame.pop("name")].reset_index()
    frame["l0"], frame["explained"] = own["l0"], 1 - own["fvu"]
    frame["delta_ce"], frame["kl"], frame["recovered"] = own["delta_ce"], own["kl"], own["recovered_mean"]
    return frame


def probed(probes: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of one and of five features, mean over tasks."""
    whole = probes[probes["view"] == VIEWS[0]]
    means = whole.groupby(["features", "seed", "k"])["accuracy"].mean().unstack("k")
    found = means.loc[list(PROBED.values()), [1, 5]].rename(columns={1: "probe_k1", 5: "probe_k5"}).reset_index()
    names = {features: kind for kind, features in PROBED.items()}
    return found.assign(kind=found["features"].map(names)).drop(columns="features").rename_axis(columns=None)


def on_planted_worlds(kinds: pd.DataFrame) -> pd.DataFrame:
    """Variance explained and features found in both worlds."""
    index = ["kind", "seed"]
    parts = []
    for world, own in kinds.groupby("world"):
        names = {"explained": f"{world}_explained", "recovered": f"{world}_found"}
        parts.append(own.set_index(index)[list(names)].rename(columns=names))
    found = pd.concat(parts, axis=1).reset_index()
    return found.assign(kind=found["kind"].map({there: kind for kind, there in PLANTED.items()}))


def summary(frame: pd.DataFrame) -> dict[str, Metric]:
    """Intervals over seeds for each kind that has seeds, and the paired differences."""
    found = Seeded()
    for kind, own in frame.groupby("kind", sort=False):
        for key, (unit, formula) in NUMBERS.items():
            numbers = own[key].dropna().tolist()
            if len(numbers) > 1:
                found.add(f"{key}_{kind}", numbers, unit, formula)
    for key in COMPARED:
        trained = found.found[f"{key}_trained"].per_seed or []
        seeds = [abs(a - b) for a, b in zip(trained, trained[1:] + trained[:1], strict=True)]
        found.add(f"{key}_seed_gap", seeds, "share", f"{key}: |trained minus trained with the next seed|")
        for kind in ("soft", "frozen"):
            found.minus(f"{key}_{kind}_gap", f"{key}_trained", f"{key}_{kind}")
            found.minus(f"{key}_{kind}_gap_difference", f"{key}_{kind}_gap", f"{key}_seed_gap")
    return found.found


if __name__ == "__main__":
    run(dictionaries)
