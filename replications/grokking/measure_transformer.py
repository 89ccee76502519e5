"""Step: reads the delay, the Fourier basis and the progress measures off the trained transformers.

Two moments matter: *memorised*, the first snapshot at which the pairs trained on are known, and *before the drop*, the
last one before half of the other pairs are answered rightly. Key frequencies are those of the final logits. Controls: a
large share of the pairs; no weight decay; the memorised snapshot, read with its own best frequencies (the same
selection); as many frequencies that are not key; the key frequencies of one network read in two ways.
"""

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from replications.grokking.measure import delays
from replications.grokking.model import Task, task
from replications.grokking.progress import (
    cosine_shares,
    embedding_shares,
    excluded,
    key_frequencies,
    neuron_shares,
    others,
    overlap,
    restricted,
    strongest,
)
from replications.grokking.settings import MeasureTransformer
from replications.grokking.transformer import Weights, all_pairs, logits, losses, neurons, split

ARMS = ("late", "prompt", "free")
DRAWS = 20  # of frequencies that are not key
FEW = 6  # frequencies whose share of the embedding's power is asserted


class Read(NamedTuple):
    """One network at one snapshot: shares of the frequencies in logits and embedding, and of the neurons' best ones."""

    logits: Float[Tensor, " frequency"]
    embedding: Float[Tensor, " frequency"]
    neurons: Float[Tensor, " neuron"]


def read(weights: Weights) -> Read:
    """Reads the Fourier basis of one network (instance axis of length 1)."""
    pairs = all_pairs(weights["W_U"].shape[-1])[None]
    return Read(
        cosine_shares(logits(weights, pairs)[0]),
        embedding_shares(weights["W_E"][0, :-1]),
        neuron_shares(neurons(weights, pairs)[0][0]),
    )


def two_losses(weights: Weights, one: Task, frequencies: list[int]) -> tuple[float, float]:
    """Restricted loss on the held-out pairs and excluded loss on the pairs trained on, of one network."""
    found = logits(weights, all_pairs(weights["W_U"].shape[-1])[None])[0]
    kept, left = (part(found, frequencies)[None] for part in (restricted, excluded))
    return (
        float(split(losses(kept, one.answers), one.trained)[1]),
        float(split(losses(left, one.answers), one.trained)[0]),
    )


def moments(
    accuracy_train: Float[Tensor, " snapshot"], accuracy_test: Float[Tensor, " snapshot"], learned: float
) -> tuple[int, int]:
    """Places of the snapshots *memorised* and *before the drop* (never before the former)."""
    known = torch.nonzero(accuracy_train >= learned)[:, 0]
    memorised = int(known[0]) if len(known) else len(accuracy_train) - 1
    right = torch.nonzero(accuracy_test >= 0.5)[:, 0]
    before = int(right[0]) - 1 if len(right) else len(accuracy_test) - 1
    return memorised, max(memorised, before)


class MeasureFiles(Files):
    models: Path
    metrics: Path
    curves: Path
    progress: Path
    frequencies: Path


def measure_transformer(files: MeasureFiles, settings: MeasureTransformer) -> None:
    """Writes the metrics of the part `transformer` and the tables of its figures."""
    learned, pure = settings.judging.learned, settings.judging.pure
    key, late_fraction = settings.transformer.key, settings.transformer.late_fraction
    found = load_file(files.models)
    seeds, kept = found["seeds"].tolist(), found["snapshots"].tolist()
    ratios = {arm: _delays(found, arm, learned) for arm in ("late", "prompt")}
    final = {arm: found[f"{arm}.accuracy_test"][-1].tolist() for arm in ("free", "late")}
    at = [found["late.steps"].tolist().index(step) for step in kept]
    sets, values, rows, tables = [], [], [], []
    for place, seed in enumerate(seeds):
        named = ((name.removeprefix("weights."), value) for name, value in found.items() if name.startswith("weights."))
        own = {name: value[:, place, None] for name, value in named}
        one = task(own["W_U"].shape[-1], late_fraction, seed, False)
        accuracy = [found[f"late.accuracy_{part}"][at, place] for part in ("train", "test")]
        memorised, before = moments(accuracy[0], accuracy[1], learned)
        early, last = (read(_at(own, when)) for when in (memorised, -1))
        keys = key_frequencies(last.logits, key)
        sets.append(keys)
        rises = _rises(own, one, keys, memorised, before)
        again = overlap(keys, strongest(last.embedding, len(keys)))
        values.append(
            {"delay": (ratios["late"][place], ratios["prompt"][place])}
            | {"test_accuracy_no_decay": (final["free"][place], final["late"][place])}
            | {"embedding_few": (_sum(last.embedding, FEW), _sum(early.embedding, FEW))}
            | {"logits_explained": (float(last.logits[torch.tensor(keys) - 1].sum()), _sum(early.logits, len(keys)))}
            | {"pure_neurons": (_share(last.neurons, pure), _share(early.neurons, pure))}
            | {"excluded_rise": rises[0], "restricted_fall": rises[1], "key_overlap": (0.0, again)}
        )
        rows.append(_progress(own, one, keys, kept).assign(seed=seed, memorised=kept[memorised], before=kept[before]))
        tables += [_shares(early, seed, "memorised", keys), _shares(last, seed, "end", keys)]
    for place, one_seed in enumerate(values):
        rest = [overlap(sets[place], other) for index, other in enumerate(sets) if index != place]
        one_seed["key_overlap"] = (sum(rest) / len(rest), one_seed["key_overlap"][1])
    written = {"key_frequencies": over_seeds([float(len(one)) for one in sets], unit="1", formula=FORMULAS["key"])}
    for name, (control, unit) in CONTROLS.items():
        effect, other = ([one[name][side] for one in values] for side in (0, 1))
        written[name] = over_seeds(effect, unit=unit, formula=FORMULAS[name], controls={control: other})
    write_metrics(files.metrics, written)
    lines = [_curves(found, arm, seeds) for arm in ARMS]
    for path, frames in ((files.curves, lines), (files.progress, rows), (files.frequencies, tables)):
        write_table(path, pd.concat(frames))


CONTROLS = {  # of each metric: its control and its unit
    "delay": ("large_share", "1"),
    "test_accuracy_no_decay": ("weight_decay", "share"),
    "embedding_few": ("memorised", "share"),
    "logits_explained": ("memorised", "share"),
    "pure_neurons": ("memorised", "share"),
    "excluded_rise": ("other_frequencies", "nats"),
    "restricted_fall": ("other_frequencies", "nats"),
    "key_overlap": ("same_network", "share"),
}
FORMULAS = {
    "key": "number of key frequencies",
    "delay": "first step with test accuracy at the mark / first step with training accuracy at the mark",
    "test_accuracy_no_decay": "share of held-out pairs answered rightly after the last step",
    "embedding_few": f"share of the {FEW} strongest frequencies in the power of W_E",
    "logits_explained": "share of the variance of the logits: sum over key k of cos(w_k (a + b - c))",
    "pure_neurons": "share of neurons with most of their variance in waves of one frequency",
    "excluded_rise": "excluded loss before the drop - excluded loss when memorised",
    "restricted_fall": "restricted loss when memorised - restricted loss before the drop",
    "key_overlap": "intersection over union of two sets of key frequencies",
}


def _at(own: Weights, when: int) -> Weights:
    return {name: value[when] for name, value in own.items()}


def _sum(shares: Float[Tensor, " frequency"], count: int) -> float:
    return float(shares.topk(min(count, len(shares))).values.sum())


def _share(best: Float[Tensor, " neuron"], least: float) -> float:
    return float((best >= least).double().mean())


def _delays(found: Weights, arm: str, learned: float) -> list[float]:
    train, test, steps = (found[f"{arm}.{key}"] for key in ("accuracy_train", "accuracy_test", "steps"))
    each: list[float] = delays(train, test, steps, learned).tolist()
    return each


def _rises(own: Weights, one: Task, keys: list[int], memorised: int, before: int) -> list[tuple[float, float]]:
    """Rise of the excluded and fall of the restricted loss between the two moments: key frequencies, others."""

    def change(frequencies: list[int]) -> tuple[float, float]:
        first, then = (two_losses(_at(own, when), one, frequencies) for when in (memorised, before))
        return then[1] - first[1], first[0] - then[0]

    controls = [change(drawn) for drawn in others(own["W_U"].shape[-1], keys, DRAWS)]
    means = [sum(part) / DRAWS for part in zip(*controls, strict=True)]
    return list(zip(change(keys), means, strict=True))


def _progress(own: Weights, one: Task, keys: list[int], kept: list[int]) -> pd.DataFrame:
    pairs = [two_losses(_at(own, when), one, keys) for when in range(len(kept))]
    return pd.DataFrame(pairs, columns=["restricted", "excluded"]).assign(step=kept)


def _shares(one: Read, seed: int, moment: str, keys: list[int]) -> pd.DataFrame:
    frequency = range(1, len(one.embedding) + 1)
    table = pd.DataFrame({"frequency": frequency, "embedding": one.embedding, "logits": one.logits})
    return table.assign(seed=seed, moment=moment, key=[number in keys for number in frequency])


def _curves(found: Weights, arm: str, seeds: list[int]) -> pd.DataFrame:
    names = [f"{kind}_{part}" for kind in ("loss", "accuracy") for part in ("train", "test")]
    steps = found[f"{arm}.steps"].tolist()
    parts = [
        pd.DataFrame({"step": steps, **{name: found[f"{arm}.{name}"][:, place] for name in names}}).assign(seed=seed)
        for place, seed in enumerate(seeds)
    ]
    return pd.concat(parts).assign(arm=arm)


if __name__ == "__main__":
    run_step(measure_transformer)
