"""Step: small versions of two of the field's benchmarks on the SAEs of the sweep's central point, without a judge.

- **Sparse probing** (`probing`, `texts`): k = 1, 2, 5 latents against random directions that fire as often, principal
  components and coordinates of the residual stream, and against latents of dictionaries whose rows were held at or near
  their random start (Korznikov et al. 2026), all chosen in the same way; beside them a plain probe on the whole
  residual stream and one on all latents. One task is about calls that security linters flag: scored on whole windows,
  without the tokens of the call's name, and on the tokens before the call.
- **Contrast score** (`contrasts`), with the same random directions and the coordinates as controls, and a plain probe.

Sources: Karvonen et al. 2025 (SAEBench), Gulko et al. 2025 (CE-Bench), Kantamneni et al. 2025 (probes on SAE latents
do not beat plain probes). All windows come from documents outside the SAEs' training data, chat excepted. Intervals are
over the seeds of the SAEs, each with its own splits and random directions; the windows are the same for all.
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
from common.data.models import encode, fast_dtype, load_model, load_tokenizer
from common.saes.harvest import CORPUS
from common.saes.index import read_index
from common.saes.stream import Activations
from replications.sparse_autoencoders.contrasts import (
    contrast,
    contrast_elsewhere,
    differences,
    passages,
    plain_contrast,
)
from replications.sparse_autoencoders.probing import (
    FLAGGED,
    VIEWS,
    Halves,
    dense_score,
    halves,
    sparse_score,
    splittable,
)
from replications.sparse_autoencoders.readouts import Read, components, coordinates, pooled, random_sae, residual
from replications.sparse_autoencoders.settings import MeasureLatents
from replications.sparse_autoencoders.sweep import central
from replications.sparse_autoencoders.texts import Task, Window, padded, pool, tasks, unseen

KS = (1, 2, 5)
CONTROLS = {"random": "random_directions", "principal components": "principal_components",
            "coordinates": "coordinates", "soft-frozen": "soft_frozen", "frozen": "frozen_decoder"}  # fmt: skip
PROBED = 3  # packages whose recognition is a task
Rows = list[dict[str, Any]]
Means = dict[str, list[np.ndarray]]
"""For each kind of feature, its means over whole windows and, for some, without the call's name and before the call."""


class ProbesFiles(Files):
    manifest: Path
    """of the language model"""
    docs: Path
    chat: Path
    early: Path
    index: Path
    metrics: Path
    probes: Path
    """one row per probe"""
    contrasts: Path
    """one row per contrast pair"""


def probes(files: ProbesFiles, settings: MeasureLatents, run: RunInfo) -> None:
    """Writes `metrics.json` and the tables."""
    sizes, sweep, index = settings.supplement, settings.sweep, read_index(files.index)
    data = Activations(files.early.parent)
    tokenizer = load_tokenizer(files.manifest.parent)
    special = sorted(set(tokenizer.all_special_ids))
    hook = data.manifest.hook
    seen = {int(one) for one in torch.unique(data.document) if one < CORPUS}
    documents, talks = unseen(files.docs.parent, seen), unseen(files.chat.parent, set())
    windows = pool(documents, talks, tokenizer, sizes, run.seeds[0])
    bridge = load_model(files.manifest.parent, device=run.device, dtype=fast_dtype())
    resid, used = residual(bridge, padded([one.tokens for one in windows]), hook, special, sizes.batch, run.device)
    stories = padded([encode(tokenizer, text) for text in passages()])
    told, told_used = residual(bridge, stories, hook, special, sizes.batch, run.device)
    del bridge
    masks = views(windows, used)
    reference = data.first(sizes.reference)
    asked = [one for one in tasks(windows, sizes.packages[:PROBED]) if splittable(one.group, one.label.numpy())]
    for one in asked:
        print(f"{one.name}: {int(one.label.sum())} of {len(one.rows)} windows")
    shared: dict[str, Read] = {"coordinates": coordinates, "principal components": components(reference)}
    common = {
        name: as_arrays(pooled(read, resid, masks if name == "coordinates" else masks[:1]))
        for name, read in shared.items()
    }
    plain = plain_contrast(told, told_used, reference).tolist()
    rows: Rows = []
    others: Rows = []
    for seed in track(run.seeds, "seeds"):
        sae = index.load(central(sweep, seed))
        codes = {"latents": sae, "random": random_sae(sae, reference, 100 * seed)}
        codes["soft-frozen"] = index.load(central(sweep, seed, "soft"))
        codes["frozen"] = index.load(central(sweep, seed, "frozen"))
        own = {
            name: as_arrays(pooled(one.encode, resid, masks if name in ("latents", "random") else masks[:1]))
            for name, one in codes.items()
        }
        for one in asked:
            rows += probed(one, {**own, **common}, sizes.splits, seed)
        reads: dict[str, Read] = {"latents": sae.encode, "random": codes["random"].encode, "coordinates": coordinates}
        for name, read in reads.items():
            apart = differences(pooled(read, told, [told_used])[0], read(reference).std(0))
            others += scored(f"contrast of {name}", seed, contrast(apart).tolist())
            others += scored(f"contrast of {name}, chosen elsewhere", seed, contrast_elsewhere(apart).tolist())
        others += scored("contrast of a plain probe, chosen elsewhere", seed, plain)
    found, extra = pd.DataFrame(rows), pd.DataFrame(others)
    write_metrics(files.metrics, {**probe_metrics(found), **contrast_metrics(extra)})
    write_table(files.probes, found)
    write_table(files.contrasts, extra)


def scored(what: str, seed: int, values: list[float]) -> Rows:
    return [{"what": what, "seed": seed, "value": value} for value in values]


def as_arrays(means: list[torch.Tensor]) -> list[np.ndarray]:
    return [one.numpy() for one in means]


def views(windows: list[Window], used: torch.Tensor) -> list[torch.Tensor]:
    """Used tokens of whole windows; without those of the call's name; before it. Where there is no call: all."""
    named, before = used.clone(), used.clone()
    for row, one in enumerate(windows):
        if one.call is not None:
            named[row, one.call[0] : one.call[1]] = False
            before[row, one.call[0] :] = False
    return [used, named, before]


def probed(task: Task, means: Means, splits: int, seed: int) -> Rows:
    """One row per view, kind of feature and number of features, mean over splits; k = 0 stands for all features."""
    label, group = task.label.numpy(), task.group
    cuts = [halves(group, label, 1000 * seed + at) for at in range(splits)]
    shuffled = np.random.default_rng(seed).permutation(label)
    rows: Rows = []
    for name, found in means.items():
        for place, view in enumerate(VIEWS[: len(found)] if task.name == FLAGGED else VIEWS[:1]):
            x = found[place][task.rows.numpy()]
            scores = {k: [sparse_score(x, label, cut, k) for cut in cuts] for k in KS}
            if name == "coordinates" or (name == "latents" and place == 0):
                scores[0] = [dense_score(x, label, group, cut, seed) for cut in cuts]
            rows += [row(seed, task.name, view, name, k, values) for k, values in scores.items()]
            if name in ("coordinates", "latents") and place == 0:
                rows.append(row(seed, task.name, view, f"{name}, shuffled", 5, null(x, shuffled, cuts)))
    return rows


def null(x: np.ndarray, shuffled: np.ndarray, cuts: list[Halves]) -> list[float]:
    """The score of five features for labels that were shuffled over windows."""
    usable = [cut for cut in cuts if 0 < shuffled[cut.train].mean() < 1 and 0 < shuffled[cut.test].mean() < 1]
    return [sparse_score(x, shuffled, cut, 5) for cut in usable] or [0.5]


def row(seed: int, task: str, view: str, features: str, k: int, scores: list[float]) -> dict[str, Any]:
    found = {"seed": seed, "task": task, "view": view, "features": features, "k": k}
    return {**found, "accuracy": float(np.mean(scores))}


def probe_metrics(frame: pd.DataFrame) -> dict[str, Metric]:
    """Means over tasks for each seed; the task on flagged calls apart and per view."""
    whole = frame[frame["view"] == VIEWS[0]]

    def values(features: str, k: int, part: pd.DataFrame = whole) -> list[float]:
        own = part[(part["features"] == features) & (part["k"] == k)]
        return [float(one) for one in own.groupby("seed", sort=False)["accuracy"].mean()]

    def metric(own: list[float], formula: str, controls: dict[str, list[float]]) -> Metric:
        return over_seeds(own, unit="share", formula=formula, controls=controls)

    about = "balanced accuracy on groups outside training, mean over tasks and splits: "
    shuffled = {name: values(f"{name}, shuffled", 5) for name in ("latents", "coordinates")}
    found = {}
    for k in KS:
        controls = {name: values(features, k) for features, name in CONTROLS.items()}
        if k == KS[-1]:
            controls["shuffled_labels"] = shuffled["latents"]
        found[f"probe_latents_k{k}"] = metric(values("latents", k), f"{about}{k} of the latents", controls)
    plain, five = values("coordinates", 0), values("latents", KS[-1])
    found["probe_plain"] = metric(
        plain, about + "all coordinates", {"five_latents": five, "all_latents": values("latents", 0)}
    )
    null = [a - b for a, b in zip(shuffled["coordinates"], shuffled["latents"], strict=True)]
    found["probe_plain_gain"] = metric(
        [a - b for a, b in zip(plain, five, strict=True)],
        "all coordinates minus five latents; of shuffled labels: five coordinates minus five latents",
        {"shuffled_labels": null},
    )
    found["probe_coordinates_shuffled"] = metric(
        shuffled["coordinates"], about + "5 coordinates, labels shuffled over windows", {}
    )
    for view, name in zip(VIEWS, ("seen", "unnamed", "before"), strict=True):
        part = frame[(frame["task"] == FLAGGED) & (frame["view"] == view)]
        controls = {"random_directions": values("random", 5, part), "plain_probe": values("coordinates", 0, part)}
        if view == VIEWS[0]:
            controls["shuffled_labels"] = values("latents, shuffled", 5, part)
        formula = f"flagged or ordinary call, {view}: balanced accuracy, 5 latents; plain_probe: all coordinates"
        found[f"flagged_{name}"] = metric(values("latents", 5, part), formula, controls)
    return found


def contrast_metrics(frame: pd.DataFrame) -> dict[str, Metric]:
    """Contrast scores, means over pairs for each seed."""
    by_seed = frame.groupby(["what", "seed"], sort=False)["value"].mean()
    controls = {"random_directions": "random", "coordinates": "coordinates", "plain_probe": "a plain probe"}
    found = {}
    for name, end in (("contrast", ""), ("contrast_elsewhere", ", chosen elsewhere")):
        asked = {control: f"contrast of {kind}{end}" for control, kind in controls.items()}
        known = {control: by_seed[what].tolist() for control, what in asked.items() if what in by_seed}
        found[name] = over_seeds(
            by_seed[f"contrast of latents{end}"].tolist(), unit="standard deviations",
            formula=f"contrast of latents{end}, mean", controls=known,
        )  # fmt: skip
    return found


if __name__ == "__main__":
    run_step(probes)
