"""Step: what the latents of a natural class of tokens miss (`token_classes`; Chanin et al. 2024, SAEBench).

Classes of tokens on the training activations: probe and main latents on half of the documents, everything else on the
other half. Beside the SAE stand random classes of equal token frequencies, and an untrained dictionary
(`readouts.random_sae`), which has hardly any full absorption because none of its latents points at a class: a low
number alone is no merit.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.data.models import load_tokenizer
from common.saes.index import read_index
from common.saes.sae import Sae
from common.saes.stream import Activations
from replications.sparse_autoencoders.readouts import random_sae
from replications.sparse_autoencoders.settings import MeasureLatents, Supplement
from replications.sparse_autoencoders.sweep import central
from replications.sparse_autoencoders.token_classes import (
    LEAST_F1,
    Discriminants,
    Half,
    classes,
    coded,
    measured,
    prepared,
    random_class,
)

NUMBERS = ("recall", "frequent", "rare", "absorbed", "f1", "main")
ARMS = {"": ("trained", "natural"), "random_classes": ("trained", "random"),
        "untrained_dictionary": ("untrained", "natural")}  # fmt: skip


class NaturalFiles(Files):
    manifest: Path
    """of the language model"""
    early: Path
    index: Path
    metrics: Path
    classes: Path
    """one row per class, seed and dictionary"""


def natural_absorption(files: NaturalFiles, settings: MeasureLatents, run: RunInfo) -> None:
    """Writes `metrics.json` and the table."""
    data, index = Activations(files.early.parent), read_index(files.index)
    tokenizer = load_tokenizer(files.manifest.parent)
    vocabulary = [tokenizer.decode([number]) for number in range(len(tokenizer))]
    frame = pd.concat(
        [
            token_rows(data, vocabulary, index.load(central(settings.sweep, seed)), settings.supplement, seed)
            for seed in track(run.seeds, "classes")
        ]
    )
    write_metrics(files.metrics, absorption_metrics(frame))
    write_table(files.classes, frame)


@torch.inference_mode()
def token_rows(data: Activations, vocabulary: list[str], sae: Sae, sizes: Supplement, seed: int) -> pd.DataFrame:
    """One row per class (natural or random) and dictionary (trained or untrained)."""
    dice = np.random.default_rng(seed)
    document, names = data.document, torch.unique(data.document)
    chosen = torch.from_numpy(dice.permutation(len(names))[: len(names) // 2])
    first = torch.isin(document, names[chosen])
    places = [where.nonzero()[: sizes.tokens, 0] for where in (first, ~first)]
    fit, test = (Half(data.rows(place), data.token_id[place]) for place in places)
    count = torch.bincount(torch.cat([fit.token, test.token]), minlength=len(vocabulary))
    natural_ones = {name: {one for one in own if count[one] > 0} for name, own in classes(vocabulary).items()}
    discriminants = Discriminants(fit)
    codes = {
        "trained": coded(sae, fit, test),
        "untrained": coded(random_sae(sae, fit.x[: sizes.reference], 100 * seed), fit, test),
    }
    rows: list[dict[str, Any]] = []
    for name, own in natural_ones.items():
        for group, members in (("natural", own), ("random", random_class(sorted(own), count, dice))):
            if not members or (one := prepared(members, fit, test, discriminants, sizes.least)) is None:
                continue
            for kind, code in codes.items():
                if group == "natural" or kind == "trained":
                    found = measured(one, code, fit, test)._asdict()
                    rows.append({"seed": seed, "dictionary": kind, "classes": group, "class": name, **found})
    return pd.DataFrame(rows)


def usable(own: pd.DataFrame) -> pd.DataFrame:
    """The rows of classes that the probe finds (of the best one if it finds none), and those of their random twins."""
    natural_ones = own[(own["classes"] == "natural") & (own["dictionary"] == "trained")]
    good = natural_ones[natural_ones["f1"] >= LEAST_F1]
    kept = good if len(good) else natural_ones.nlargest(1, "f1")
    return own[own["class"].isin(kept["class"])]


def absorption_metrics(frame: pd.DataFrame) -> dict[str, Metric]:
    """Means over usable classes for each seed, beside random classes and an untrained dictionary."""
    frame = frame.assign(gap=frame["frequent"] - frame["rare"])
    by_seed = [usable(own) for _, own in frame.groupby("seed", sort=False)]
    kept = {
        arm: [own[(own["dictionary"] == dictionary) & (own["classes"] == group)] for own in by_seed]
        for arm, (dictionary, group) in ARMS.items()
    }

    def metric(values: dict[str, list[float]], unit: str, formula: str) -> Metric:
        return over_seeds(values.pop(""), unit=unit, formula=formula, controls=values)

    about = f"mean over classes whose probe has F1 >= {LEAST_F1}, or their twins: "
    found = {}
    for name in (*NUMBERS, "gap"):
        means = {
            arm: [0.0 if part[name].isna().all() else float(part[name].mean()) for part in parts]
            for arm, parts in kept.items()
        }
        found[name] = metric(means, "1" if name == "main" else "share", about + name)
    counts = {arm: [float(len(part)) for part in parts] for arm, parts in kept.items()}
    return found | {"classes": metric(counts, "1", "number of these classes")}


if __name__ == "__main__":
    run_step(natural_absorption)
