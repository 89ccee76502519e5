"""Step: reads the delay, the circuit and the progress measures off the trained transformers.

Every control goes through the same reading, with its own strongest frequencies. They are the network before training,
at the moment when it has just memorised, its twins without weight decay and with random answers. One trained on most
pairs generalises with hardly a delay; it is read, too, but no claim faces it. Moments: *memorised* is the first
snapshot that knows the trained pairs. *Before* is the last one at which fewer than half of the new pairs are answered,
those held out together with their mirror.
"""

from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from replications.grokking.circuit import (
    FORMULAS,
    UNITS,
    final_snapshot,
    frequency_table,
    neuron_table,
    permuted_error,
    read,
    spectra_table,
    values,
)
from replications.grokking.fourier import key_frequencies, overlap, strongest
from replications.grokking.progress import compare
from replications.grokking.settings import Measure
from replications.grokking.task import task
from replications.grokking.train import CURVES
from replications.grokking.transformer import Weights, member

ARMS = ("grokking", "large_share", "no_decay", "random_answers")


class MeasureFiles(Files):
    grokking: Path
    large_share: Path
    no_decay: Path
    random_answers: Path
    """networks of the arms"""
    delay: Path
    circuit: Path
    progress: Path
    """metrics of the three parts"""
    curves: Path
    measures: Path
    frequencies: Path
    neurons: Path
    spectra: Path
    """tables of the figures; `spectra` is of the first seed"""


def measure(files: MeasureFiles, settings: Measure) -> None:
    """Writes the metrics of the parts `delay`, `circuit` and `progress`, and the tables that the figures draw."""
    arms, reading = {arm: load_file(getattr(files, arm)) for arm in ARMS}, settings.reading
    main = arms["grokking"]
    seeds, kept = main["seeds"].tolist(), main["snapshots"]
    at = torch.isin(main["steps"], kept)
    all_keys, circuits, progress = [], [], []
    tables: dict[Path, list[pd.DataFrame]] = {
        path: [] for path in (files.measures, files.frequencies, files.neurons, files.spectra)
    }
    for place, seed in enumerate(seeds):
        one = task(settings.training.prime, settings.arms.grokking.fraction, seed)
        known, answered = (main[f"accuracy_{name}"][at, place] for name in ("train", "unseen"))
        memorised, before = moments(known, answered, reading.learned)
        end = final_snapshot(main, place)
        own, free, random, most = (
            _snapshots(arms[arm], place) for arm in ("grokking", "no_decay", "random_answers", "large_share")
        )
        networks = {
            name: read(member(weights, when), one)
            for name, weights, when in (
                ("grokked", own, end), ("untrained", own, 0), ("memorised", own, memorised), ("no_decay", free, -1),
                ("random_answers", random, -1), ("large_share", most, -1),
            )
        }  # fmt: skip
        last, count = networks["grokked"], len(keys := key_frequencies(networks["grokked"].cosines, reading.key))
        all_keys.append((keys, strongest(last.embedding, count)))
        circuits.append({name: values(network, count, reading) for name, network in networks.items()})
        circuits[-1]["permuted"] = {"phase_error": permuted_error(last)}
        twin_keys = strongest(networks["no_decay"].cosines, count)
        compared, along = compare(own, free, one, keys, twin_keys, kept.tolist(), (memorised, before))
        progress.append(compared)
        marks = {"seed": seed, "memorised": int(kept[memorised]), "before": int(kept[before])}
        tables[files.measures].append(along.assign(**marks))
        if place == 0:
            tables[files.spectra].append(spectra_table(last, networks["memorised"]))
        for name, network in networks.items():
            tables[files.frequencies].append(frequency_table(network, keys).assign(network=name, seed=seed))
            tables[files.neurons].append(neuron_table(network).assign(network=name, seed=seed))
    write_metrics(files.delay, delay_metrics(arms, reading.learned))
    write_metrics(files.circuit, {**circuit_metrics(circuits), **key_metrics(all_keys)})
    write_metrics(files.progress, progress_metrics(progress))
    write_table(files.curves, pd.concat([_curves(found).assign(arm=arm) for arm, found in arms.items()]))
    for path, parts in tables.items():
        write_table(path, pd.concat(parts))


def first_learned(
    accuracy: Float[Tensor, "point seed"], steps: Int[Tensor, " point"], learned: float
) -> Float[Tensor, " seed"]:
    """First measured step at which the accuracy is at least `learned`; the last step where it never is."""
    reached = accuracy >= learned
    reached[-1] = True
    return steps[reached.int().argmax(0)].float()


def delays(
    train: Float[Tensor, "point seed"],
    test: Float[Tensor, "point seed"],
    steps: Int[Tensor, " point"],
    learned: float,
    *,
    control: bool = False,
) -> Float[Tensor, " seed"]:
    """First step at which the held-out pairs are answered over that for the trained ones.

    Where the held-out pairs never are, the delay is unknown, and what counts is what hurts the claim: 0 for the effect,
    for a control the last step over the step at which the trained pairs are known, which the delay exceeds.
    """
    ratio = first_learned(test, steps, learned) / first_learned(train, steps, learned).clamp(min=1)
    counted = train if control else test
    return torch.where((counted >= learned).any(0), ratio, 0.0)


def moments(known: Float[Tensor, " snapshot"], answered: Float[Tensor, " snapshot"], learned: float) -> tuple[int, int]:
    """Places of the snapshots *memorised* and *before* (never before the former)."""
    first = torch.nonzero(known >= learned)[:, 0]
    memorised = int(first[0]) if len(first) else len(known) - 1
    half = torch.nonzero(answered >= 0.5)[:, 0]
    before = int(half[0]) - 1 if len(half) else len(answered) - 1
    return memorised, max(memorised, before)


def delay_metrics(arms: dict[str, Weights], learned: float) -> dict[str, Metric]:
    """How late held-out pairs are answered, and how many are in the end."""
    ratio = {
        arm: delays(found["accuracy_train"], found["accuracy_test"], found["steps"], learned, control=arm != "grokking")
        for arm, found in arms.items()
    }
    unseen, known = (
        {arm: found[f"accuracy_{name}"][-1] for arm, found in arms.items()} for name in ("unseen", "train")
    )
    formula = f"first step with test accuracy >= {learned} / first step with training accuracy >= {learned}"
    answered = "share of held-out pairs, mirror held out too, answered rightly after the last step"
    return {
        "ratio": _seeds(ratio["grokking"], formula, large_share=ratio["large_share"]),
        "ratio_large_share": _seeds(ratio["large_share"], formula),
        "accuracy_no_decay": _seeds(unseen["no_decay"], answered, "share", weight_decay=unseen["grokking"]),
        "accuracy_random": _seeds(unseen["random_answers"], answered, "share", true_answers=unseen["grokking"]),
        "known_random": _seeds(known["random_answers"], "share of trained pairs known after the last step", "share"),
        "known_no_decay": _seeds(known["no_decay"], "share of trained pairs known after the last step", "share"),
    }


def circuit_metrics(each: list[dict[str, dict[str, float]]]) -> dict[str, Metric]:
    """Values of the grokked networks beside all controls; apart those of the networks trained on most pairs."""
    found = {}
    for name, formula in FORMULAS.items():
        columns = {key: [one[key][name] for one in each] for key in each[0] if name in each[0][key]}
        unit = UNITS.get(name, "share")
        if most := columns.pop("large_share", None):
            found[f"{name}_large_share"] = over_seeds(most, unit=unit, formula=f"{formula}; trained on most pairs")
        found[name] = over_seeds(columns.pop("grokked"), unit=unit, formula=formula, controls=columns)
    return found


def key_metrics(each: list[tuple[list[int], list[int]]]) -> dict[str, Metric]:
    """How many key frequencies there are, and how far they are the same in other networks and in the embedding."""
    rest = [
        sum(overlap(keys, other) for at, (other, _) in enumerate(each) if at != place) / (len(each) - 1)
        for place, (keys, _) in enumerate(each)
    ]
    same = {"same_network": [overlap(*both) for both in each]}
    formula = "intersection over union of two sets of key frequencies; control: of logits and embedding of one network"
    return {
        "key_count": over_seeds([float(len(keys)) for keys, _ in each], unit="1", formula="number of key frequencies"),
        "key_overlap": over_seeds(rest, unit="share", formula=formula, controls=same),
    }


def progress_metrics(each: list[dict[str, dict[str, float]]]) -> dict[str, Metric]:
    """How far excluded loss rises, and how much earlier restricted loss falls than held-out loss."""
    found = {}
    for name, (formula, unit) in PROGRESS.items():
        columns = {key: [one[name][key] for one in each] for key in each[0][name]}
        found[name] = over_seeds(columns.pop("key"), unit=unit, formula=formula, controls=columns)
    return found


PROGRESS = {
    "excluded_rise": (
        "excluded loss on trained pairs before half of the new pairs are answered - when memorised",
        "nats",
    ),
    "restricted_lead": ("step at which held-out loss has halved / step at which restricted loss has halved", "1"),
}


def _seeds(values: Float[Tensor, " seed"], formula: str, unit: str = "1", **controls: Float[Tensor, " seed"]) -> Metric:
    listed = {name: control.tolist() for name, control in controls.items()}
    return over_seeds(values.tolist(), unit=unit, formula=formula, controls=listed)


def _snapshots(found: Weights, place: int) -> Weights:
    start = "weights."
    return {name.removeprefix(start): value[:, place] for name, value in found.items() if name.startswith(start)}


def _curves(found: Weights) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"step": found["steps"], **{name: found[name][:, place] for name in CURVES}}).assign(seed=seed)
        for place, seed in enumerate(found["seeds"].tolist())
    ]
    return pd.concat(parts)


if __name__ == "__main__":
    run_step(measure)
