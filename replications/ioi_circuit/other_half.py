"""Step: finds and names heads once more, on the other half of templates and names.

The rules of path_patching.py name heads on discovery prompts. Here the same rules, screens included, run from the start
on the verification half, with its own receivers, thresholds and resamples. No result enters the circuit: what is
measured is whether the names hold where neither template nor name is the same (Wang et al. 2022, section 3, use one
set).
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.ioi_circuit.batches import VERIFICATION
from replications.ioi_circuit.classes import HeadClasses
from replications.ioi_circuit.dataset import read_prompts
from replications.ioi_circuit.nodes import PLACE_OF_RECEIVER, UNNAMED
from replications.ioi_circuit.path_patching import find, load_for_period
from replications.ioi_circuit.prompt_statistics import beside_null
from replications.ioi_circuit.settings import PathPatching
from replications.ioi_circuit.sweeps import Effects, NothingToFollowError

DRAWS = 1000
"""Draws of classes dealt out among the heads with an effect."""
RECEIVERS = [name for name in PLACE_OF_RECEIVER if name != "inhibition_keys"]
"""Receiver sets by which classes are given; keys and values at S2 give one class together."""


class OtherHalfFiles(Files):
    manifest: Path
    prompts: Path
    heads: Path
    """of path patching, on the discovery half"""
    metrics: Path
    classes: Path
    """one row per receiver set and head with an effect on either half: effect and class on both"""


def other_half(files: OtherHalfFiles, settings: PathPatching, run: RunInfo) -> None:
    """Writes `metrics.json` and one row per head with an effect."""
    rows = read_prompts(files.prompts, "circuit_prompts")
    decoder = load_for_period(files.manifest, rows, settings.period, run.device)
    effects, classes = Effects(), HeadClasses()
    with torch.no_grad():
        try:
            _, effects, classes, _ = find(decoder, rows, VERIFICATION, settings)
        except NothingToFollowError:
            print("no head writes the names into the logits on this half, so none has a name")
    table = beside(pd.read_csv(files.heads), effects, classes, decoder.n_heads)
    write_metrics(files.metrics, measure(table))
    write_table(files.classes, table)


def beside(heads: pd.DataFrame, effects: Effects, classes: HeadClasses, n_heads: int) -> pd.DataFrame:
    """Every head with an effect on a receiver set on either half; no class where it has none there.

    Effects are exact where the head was swept, else to first order; missing where the receivers were not found again.
    """
    records = []
    for name in RECEIVERS:
        first = heads[f"{name}_class"].fillna("")
        second = classes.get(name, {})
        again = effects.mean_percent(name) if name in effects.values else np.full(len(heads), np.nan)
        for head in sorted({*np.flatnonzero(first != ""), *second}):
            records.append(
                {
                    "receivers": name,
                    "head": f"{head // n_heads}.{head % n_heads}",
                    "effect": heads[name].iloc[head],
                    "class": first[head],
                    "effect_again": again[head],
                    "class_again": second.get(int(head), ""),
                }
            )
    columns = ["receivers", "head", "effect", "class", "effect_again", "class_again"]
    return pd.DataFrame(records, columns=columns)


def measure(table: pd.DataFrame) -> dict[str, Metric]:
    """How many names of one half are given again on the other.

    Null: the other half's classes dealt out among the heads with an effect on the same receiver set.
    """
    generator = np.random.default_rng(0)
    sets = [np.flatnonzero(table["receivers"] == name) for name in RECEIVERS]
    sides = {
        "named_again": ("discovery", "class", "class_again"),
        "named_before": ("verification", "class_again", "class"),
    }
    metrics = {}
    for name, (where, given, asked) in sides.items():
        first, second = table[given].to_numpy(), table[asked].to_numpy()
        named = np.flatnonzero(~np.isin(first, ["", *UNNAMED]))
        null = np.zeros(DRAWS)
        for draw in range(DRAWS if len(named) else 0):
            dealt = second.copy()
            for rows in sets:
                dealt[rows] = generator.permutation(second[rows])
            null[draw] = np.mean(first[named] == dealt[named])
        metrics[name] = beside_null(
            float(np.mean(first[named] == second[named])) if len(named) else 0.0,
            max(len(named), 1),
            null,
            unit="share",
            formula=f"share of the heads named on the {where} half that the other half gives the same class",
            name="names_dealt_out",
        )
    return metrics


if __name__ == "__main__":
    run_step(other_half)
