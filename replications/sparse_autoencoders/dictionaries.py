"""Step: sets trained, soft-frozen, frozen and untrained dictionaries side by side.

The question of Korznikov et al. 2026: how much of what an SAE is praised for needs directions that were learned? Soft-
frozen and frozen SAEs see the same data in the same order as those of the sweep's central point, at the same width, L0
and seeds. In one table stand variance explained, loss recovered (against mean ablation), cross-entropy added and KL
(`measure_language`), sparse probes (`probes`), and, where the truth is known, variance explained and features
found (`measure_planted`). The null of a difference is the distance between two seeds.

Untrained dictionaries are random directions: isotropic ones with their k largest coefficients, but for probes ones of
the trained dictionary's covariance that fire as often (`readouts.random_sae`).
"""

from pathlib import Path

import pandas as pd

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.saes.metrics import FORMULAS
from replications.sparse_autoencoders.probing import VIEWS
from replications.sparse_autoencoders.settings import Sweep
from replications.sparse_autoencoders.sweep import central

TRAINED = {"trained": "batch_topk", "soft": "soft", "frozen": "frozen"}  # name here -> name in the sweep
UNTRAINED = {"random": "random", "pca": "pca"}
CONTROLS = {"soft": "soft_frozen", "frozen": "frozen_decoder", "random": "random_dictionary",
            "pca": "principal_components"}  # fmt: skip
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


class DictionariesFiles(Files):
    saes: Path
    """table of `measure_language`"""
    probes: Path
    """table of `probes`"""
    planted: Path
    """kinds of dictionaries on planted worlds, of `measure_planted`; in the table only"""
    metrics: Path
    table: Path


def dictionaries(files: DictionariesFiles, settings: Sweep, run: RunInfo) -> None:
    """Writes `metrics.json` and one row per dictionary."""
    frame = on_the_model(pd.read_csv(files.saes), settings, run.seeds)
    for more in (probed(pd.read_csv(files.probes)), on_planted_worlds(pd.read_csv(files.planted))):
        frame = frame.merge(more, on=["kind", "seed"], how="outer", sort=False)
    frame = frame.sort_values(["kind", "seed"], key=lambda one: one.map(list(TRAINED | UNTRAINED).index)
                              if one.name == "kind" else one)  # fmt: skip
    write_metrics(files.metrics, summary(frame))
    write_table(files.table, frame)


def on_the_model(saes: pd.DataFrame, sweep: Sweep, seeds: list[int]) -> pd.DataFrame:
    """One row per kind and seed; kinds that have no seed get the first one."""
    by_name = saes.set_index("name")
    rows = [
        {"kind": kind, "seed": seed, "name": central(sweep, seed, name)}
        for kind, name in TRAINED.items()
        for seed in seeds
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
    """The trained dictionary beside the others, and its lead beside the distance of two seeds. Intervals over seeds."""

    def values(kind: str, key: str) -> list[float]:
        return [float(value) for value in frame[frame["kind"] == kind][key].dropna()]

    found = {}
    for key, (unit, formula) in NUMBERS.items():
        trained, others = values("trained", key), {name: values(kind, key) for kind, name in CONTROLS.items()}
        known = {name: own for name, own in others.items() if len(own) == len(trained)}  # some have no seeds
        found[key] = over_seeds(trained, unit=unit, formula=formula, controls=known)
        if key not in COMPARED:
            continue
        next_seed = [abs(a - b) for a, b in zip(trained, trained[1:] + trained[:1], strict=True)]
        for kind in ("soft", "frozen"):
            gap = [a - b for a, b in zip(trained, values(kind, key), strict=True)]
            about = f"{key}: trained minus {CONTROLS[kind]}; of next_seed: |trained minus trained with the next seed|"
            found[f"{key}_{kind}_gap"] = over_seeds(gap, unit=unit, formula=about, controls={"next_seed": next_seed})
    return found


if __name__ == "__main__":
    run_step(dictionaries)
