"""Step: small versions of the field's benchmarks on the SAEs of the sweep's central point, without a judge.

- **Sparse probing** (`probing`, `texts`): k = 1, 2, 5 latents against random directions that fire as often, principal
  components and coordinates of the residual stream, all chosen in the same way; ceilings are a plain probe on the whole
  residual stream and one on all latents. One task is about calls that security linters flag: scored on whole windows,
  without the tokens of the call's name, and on the tokens before the call.
- **Contrast score** (`contrasts`), with the same random directions as floor.
- **Targeted probe perturbation** (`perturbation`), with random latents of the same density as floor.

Sources: Karvonen et al. 2025 (SAEBench), Gulko et al. 2025 (CE-Bench), Kantamneni et al. 2025 (probes on SAE latents
do not beat plain probes). All windows come from documents outside the SAEs' training data, chat excepted. Intervals are
over the seeds of the SAEs, each with its own splits and random directions; the windows are the same for all.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from common.cli import run, track
from common.files import atomic
from common.models import encode, load_model, load_tokenizer
from common.records import Metric, write_metrics
from common.saes.stream import Activations
from common.self_chat import fast_dtype
from common.statistics import over_seeds
from replications.sparse_autoencoders.codes import (
    Read,
    central,
    components,
    coordinates,
    pooled,
    random_sae,
    residual,
)
from replications.sparse_autoencoders.contrasts import contrast, passages
from replications.sparse_autoencoders.perturbation import Pooled, aligned, falls, matched, probes, tpp
from replications.sparse_autoencoders.probing import Halves, dense_score, halves, sparse_score, splittable
from replications.sparse_autoencoders.settings import Sweep
from replications.sparse_autoencoders.sizes import Sizes
from replications.sparse_autoencoders.texts import Task, Window, padded, pool, tasks, unseen

KS = (1, 2, 5)
PROBED = 3  # packages whose recognition is a task
CLASSES = 5  # packages told apart in targeted perturbation
ABLATED = (5, 20)
FLAGGED = "flagged call"
Rows = list[dict[str, Any]]
Means = dict[str, list[np.ndarray]]
"""For each kind of feature, its means over whole windows, without the call's name, before the call."""
VIEWS = ("whole window", "without its name", "before it")


def benchmarks(
    *,
    manifest: Path,
    docs: Path,
    chat: Path,
    early: Path,
    index: Path,
    sweep: Sweep,
    sizes: Sizes,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    metrics: Path,
    scores: Path,
    table: Path,
) -> None:
    """Writes `metrics.json`, one row per probe (`scores`), and one per contrast pair and ablated class (`table`)."""
    data = Activations(early.parent)
    tokenizer = load_tokenizer(manifest.parent)
    special = sorted(set(tokenizer.all_special_ids))
    hook = data.manifest.hook
    seen = {int(one) for one in torch.unique(data.document) if one < 1_000_000}
    windows = pool(unseen(docs.parent, seen), unseen(chat.parent, set()), tokenizer, sizes, seeds[0])
    bridge = load_model(manifest.parent, device=device, dtype=fast_dtype())
    resid, used = residual(bridge, padded([one.tokens for one in windows]), hook, special, sizes.batch, device)
    stories = padded([encode(tokenizer, text) for text in passages()])
    told, told_used = residual(bridge, stories, hook, special, sizes.batch, device)
    del bridge
    masks = views(windows, used)
    reference = data.first(sizes.reference)
    asked = [one for one in tasks(windows, sizes.packages[:PROBED]) if splittable(one.group, one.label.numpy())]
    for one in asked:
        print(f"{one.name}: {int(one.label.sum())} of {len(one.rows)} windows")
    shared: dict[str, Read] = {"coordinates": coordinates, "principal components": components(reference)}
    common = {name: as_arrays(pooled(read, resid, masks)) for name, read in shared.items()}
    rows: Rows = []
    others: Rows = []
    for seed in track(seeds, "seeds"):
        sae = central(index, sweep.width, sweep.sparsity, seed)
        random = random_sae(sae, reference, 100 * seed)
        own = {name: pooled(one.encode, resid, masks) for name, one in (("latents", sae), ("random", random))}
        means = {**{name: as_arrays(found) for name, found in own.items()}, **common}
        for one in asked:
            rows += probed(one, means, sizes.splits, seed)
        for name, code in (("latents", sae), ("random", random)):
            spread = code.encode(reference).std(0)
            pairs = contrast(pooled(code.encode, told, [told_used])[0], spread)
            others += [{"what": f"contrast of {name}", "seed": seed, "value": float(one)} for one in pairs]
        density = (sae.encode(reference) > 0).float().mean(0)
        x = torch.from_numpy(common["coordinates"][0])
        others += perturbed(Pooled(x, own["latents"][0], sae.W_dec, density), windows, sizes, seed)
    found, extra = pd.DataFrame(rows), pd.DataFrame(others)
    write_metrics(metrics, {**probe_metrics(found), **other_metrics(extra)})
    for path, frame in ((scores, found), (table, extra)):
        with atomic(path) as temporary:
            frame.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


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
    for place, view in enumerate(VIEWS if task.name == FLAGGED else VIEWS[:1]):
        for name, found in means.items():
            x = found[place][task.rows.numpy()]
            scores = {k: [sparse_score(x, label, cut, k) for cut in cuts] for k in KS}
            if name in ("coordinates", "latents"):
                scores[0] = [dense_score(x, label, group, cut, seed) for cut in cuts]
            rows += [row(seed, task.name, view, name, k, values) for k, values in scores.items()]
            if name in ("coordinates", "latents"):
                rows.append(row(seed, task.name, view, f"{name}, shuffled", 5, null(x, shuffled, cuts)))
    return rows


def null(x: np.ndarray, shuffled: np.ndarray, cuts: list[Halves]) -> list[float]:
    """The score of five features for labels that were shuffled over windows."""
    usable = [cut for cut in cuts if 0 < shuffled[cut.train].mean() < 1 and 0 < shuffled[cut.test].mean() < 1]
    return [sparse_score(x, shuffled, cut, 5) for cut in usable] or [0.5]


def row(seed: int, task: str, view: str, features: str, k: int, scores: list[float]) -> dict[str, Any]:
    found = {"seed": seed, "task": task, "view": view, "features": features, "k": k}
    return {**found, "accuracy": float(np.mean(scores))}


def perturbed(whole: Pooled, windows: list[Window], sizes: Sizes, seed: int) -> Rows:
    """Targeted perturbation of packages: own and other falls of accuracy, for chosen and for random latents."""
    names = sizes.packages[:CLASSES]
    kept = [at for at, one in enumerate(windows) if one.group in names and one.kind in ("source", "docstring")]
    classes = [windows[at].group for at in kept]
    data = whole._replace(x=whole.x[kept], latents=whole.latents[kept])
    document = [windows[at].document for at in kept]
    dice = np.random.default_rng(seed)
    rows: Rows = []
    for at in range(sizes.splits):
        split = halves(document, np.array([one == names[0] for one in classes]), 1000 * seed + at)
        found = probes(data.x, classes, split)
        for n in ABLATED:
            sets = {name: aligned(data, probe, split, n) for name, probe in found.items()}
            rows.append({"what": f"tpp of {n} latents", "seed": seed, "value": tpp(falls(data, found, sets, split))})
            for _ in range(max(1, sizes.draws // sizes.splits)):
                drawn = {name: matched(data.density, chosen, dice) for name, chosen in sets.items()}
                fall = tpp(falls(data, found, drawn, split))
                rows.append({"what": f"tpp of {n} random latents", "seed": seed, "value": fall})
    return rows


SHORT = {"latents": "latents", "random": "random", "principal components": "pca", "coordinates": "coordinates"}


def probe_metrics(frame: pd.DataFrame) -> dict[str, Metric]:
    """Means over tasks for each seed; the task on flagged calls apart and per view."""
    whole = frame[frame["view"] == VIEWS[0]]

    def series(part: pd.DataFrame, features: str, k: int) -> list[float]:
        own = part[(part["features"] == features) & (part["k"] == k)]
        return [float(one) for one in own.groupby("seed", sort=False)["accuracy"].mean()]

    formula = "balanced accuracy on groups outside training, mean over tasks and splits: "
    values: dict[str, tuple[list[float], str]] = {}
    for features, name in SHORT.items():
        for k in KS:
            values[f"probe_{name}_k{k}"] = (series(whole, features, k), f"{formula}{k} of the {features}")
    values["probe_plain"] = (series(whole, "coordinates", 0), formula + "all coordinates")
    values["probe_all_latents"] = (series(whole, "latents", 0), formula + "all latents")
    for features in ("coordinates", "latents"):
        null = series(whole, f"{features}, shuffled", 5)
        values[f"probe_{SHORT[features]}_shuffled"] = (null, formula + f"5 {features}, labels shuffled over windows")
    for view, name in zip(VIEWS, ("seen", "unnamed", "before"), strict=True):
        part = frame[(frame["task"] == FLAGGED) & (frame["view"] == view)]
        about = f"flagged or ordinary call, {view}: balanced accuracy, "
        values[f"flagged_{name}"] = (series(part, "latents", 5), about + "5 latents")
        values[f"flagged_{name}_random"] = (series(part, "random", 5), about + "5 random directions")
        values[f"flagged_{name}_plain"] = (series(part, "coordinates", 0), about + "all coordinates")
    null = series(frame[(frame["task"] == FLAGGED) & (frame["view"] == VIEWS[0])], "latents, shuffled", 5)
    values["flagged_shuffled"] = (null, "flagged or ordinary call, 5 latents: labels shuffled over windows")
    pairs = {
        "flagged_seen_minus_shuffled": ("flagged_seen", "flagged_shuffled"),
        "probe_latents_minus_random": ("probe_latents_k1", "probe_random_k1"),
        "probe_latents_minus_random_k5": ("probe_latents_k5", "probe_random_k5"),
        "probe_latents_minus_pca": ("probe_latents_k5", "probe_pca_k5"),
        "probe_latents_minus_coordinates": ("probe_latents_k5", "probe_coordinates_k5"),
        "probe_latents_minus_coordinates_k1": ("probe_latents_k1", "probe_coordinates_k1"),
        "probe_plain_minus_latents": ("probe_plain", "probe_latents_k5"),
        "probe_plain_minus_all_latents": ("probe_plain", "probe_all_latents"),
        "probe_plain_minus_shuffled": ("probe_coordinates_shuffled", "probe_latents_shuffled"),
        "flagged_seen_minus_before": ("flagged_seen", "flagged_before"),
        "flagged_seen_minus_random": ("flagged_seen", "flagged_seen_random"),
        "flagged_unnamed_minus_before": ("flagged_unnamed", "flagged_before"),
    }
    pairs["probe_plain_gap_difference"] = ("probe_plain_minus_latents", "probe_plain_minus_shuffled")
    for name, (left, right) in pairs.items():
        gaps = [a - b for a, b in zip(values[left][0], values[right][0], strict=True)]
        values[name] = (gaps, f"{left} minus {right}")
    return {name: over_seeds(own, unit="share", formula=formula) for name, (own, formula) in values.items()}


def other_metrics(frame: pd.DataFrame) -> dict[str, Metric]:
    """Contrast scores and targeted perturbation, means for each seed."""
    names = {"contrast of latents": "contrast", "contrast of random": "contrast_random"}
    for n in ABLATED:
        names |= {f"tpp of {n} latents": f"tpp_n{n}", f"tpp of {n} random latents": f"tpp_n{n}_random"}
    by_seed = frame.groupby(["what", "seed"], sort=False)["value"].mean()
    values = {short: [float(one) for one in by_seed[what]] for what, short in names.items()}
    formulas = {short: f"{what}, mean" for what, short in names.items()}
    for name in ("contrast", *(f"tpp_n{n}" for n in ABLATED)):
        values[f"{name}_minus_random"] = [a - b for a, b in zip(values[name], values[f"{name}_random"], strict=True)]
        formulas[f"{name}_minus_random"] = f"{name} minus {name}_random"
    units = {name: "standard deviations" if name.startswith("contrast") else "share" for name in values}
    return {name: over_seeds(own, unit=units[name], formula=formulas[name]) for name, own in values.items()}


if __name__ == "__main__":
    run(benchmarks)
