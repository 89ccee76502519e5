"""Step: small versions of the field's benchmarks on the SAEs of the sweep's central point, without a judge.

- **Sparse probing** (`probing`, `texts`): k = 1, 2, 5 latents against random directions that fire as often, principal
  components and coordinates of the residual stream, and against latents of dictionaries whose rows were held at or near
  their random start (Korznikov et al. 2026), all chosen in the same way; beside them a plain probe on the whole
  residual stream and one on all latents. One task is about calls that security linters flag: scored on whole windows,
  without the tokens of the call's name, and on the tokens before the call.
- **Contrast score** (`contrasts`), with the same random directions and the coordinates as floors, and a plain probe.
- **Targeted probe perturbation** (`perturbation`), with random latents of the same density and coordinates as floors,
  and the probe's own direction as reference.

Sources: Karvonen et al. 2025 (SAEBench), Gulko et al. 2025 (CE-Bench), Kantamneni et al. 2025 (probes on SAE latents
do not beat plain probes). All windows come from documents outside the SAEs' training data, chat excepted. Intervals are
over the seeds of the SAEs, each with its own splits and random directions; the windows are the same for all.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from common.core.metrics import write_metrics
from common.core.step import run, track
from common.core.tables import write_table
from common.data.models import encode, fast_dtype, load_model, load_tokenizer
from common.saes.harvest import CORPUS
from common.saes.saelens import load_saelens
from common.saes.stream import Activations
from replications.sparse_autoencoders.benchmark_metrics import (
    ABLATED,
    FLAGGED,
    KS,
    VIEWS,
    other_metrics,
    probe_metrics,
)
from replications.sparse_autoencoders.codes import (
    Read,
    central,
    components,
    coordinates,
    pooled,
    random_sae,
    residual,
)
from replications.sparse_autoencoders.contrasts import (
    contrast,
    contrast_elsewhere,
    differences,
    passages,
    plain_contrast,
)
from replications.sparse_autoencoders.perturbation import (
    Pooled,
    aligned,
    as_coordinates,
    as_probes,
    falls,
    matched,
    probes,
    tpp,
)
from replications.sparse_autoencoders.probing import Halves, dense_score, halves, sparse_score, splittable
from replications.sparse_autoencoders.settings import Sweep
from replications.sparse_autoencoders.sizes import Sizes
from replications.sparse_autoencoders.texts import Task, Window, padded, pool, tasks, unseen

PROBED = 3  # packages whose recognition is a task
CLASSES = 5  # packages told apart in targeted perturbation
Rows = list[dict[str, Any]]
Means = dict[str, list[np.ndarray]]
"""For each kind of feature, its means over whole windows and, for some, without the call's name and before the call."""


def benchmarks(
    *,
    manifest: Path,
    docs: Path,
    chat: Path,
    early: Path,
    index: Path,
    more: Path,
    sweep: Sweep,
    sizes: Sizes,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    metrics: Path,
    scores: Path,
    table: Path,
) -> None:
    """Writes `metrics.json`, one row per probe (`scores`), and one per contrast pair and ablated class (`table`).

    `index` lies beside the SAEs of the sweep, `more` beside the soft-frozen ones.
    """
    data = Activations(early.parent)
    tokenizer = load_tokenizer(manifest.parent)
    special = sorted(set(tokenizer.all_special_ids))
    hook = data.manifest.hook
    seen = {int(one) for one in torch.unique(data.document) if one < CORPUS}
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
    common = {
        name: as_arrays(pooled(read, resid, masks if name == "coordinates" else masks[:1]))
        for name, read in shared.items()
    }
    plain = plain_contrast(told, told_used, reference).tolist()
    rows: Rows = []
    others: Rows = []
    for seed in track(seeds, "seeds"):
        sae = central(index, sweep.width, sweep.sparsity, seed)
        codes = {"latents": sae, "random": random_sae(sae, reference, 100 * seed)}
        codes["soft-frozen"] = load_saelens(more.parent / f"soft-{sweep.width}-k{sweep.sparsity}-s{seed}")
        if seed in seeds[: sweep.control_seeds]:
            codes["frozen"] = load_saelens(index.parent / f"frozen-{sweep.width}-k{sweep.sparsity}-s{seed}")
        own = {
            name: pooled(one.encode, resid, masks if name in ("latents", "random") else masks[:1])
            for name, one in codes.items()
        }
        means = {**{name: as_arrays(found) for name, found in own.items()}, **common}
        for one in asked:
            rows += probed(one, means, sizes.splits, seed)
        reads: dict[str, Read] = {"latents": sae.encode, "random": codes["random"].encode, "coordinates": coordinates}
        for name, read in reads.items():
            apart = differences(pooled(read, told, [told_used])[0], read(reference).std(0))
            others += scored(f"contrast of {name}", seed, contrast(apart).tolist())
            others += scored(f"contrast of {name}, chosen elsewhere", seed, contrast_elsewhere(apart).tolist())
        others += scored("contrast of a plain probe, chosen elsewhere", seed, plain)
        density = (sae.encode(reference) > 0).float().mean(0)
        x = torch.from_numpy(common["coordinates"][0])
        others += perturbed(Pooled(x, own["latents"][0], sae.W_dec, density), windows, sizes, seed)
    found, extra = pd.DataFrame(rows), pd.DataFrame(others)
    write_metrics(metrics, {**probe_metrics(found), **other_metrics(extra)})
    for path, frame in ((scores, found), (table, extra)):
        write_table(path, frame)


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


def perturbed(whole: Pooled, windows: list[Window], sizes: Sizes, seed: int) -> Rows:
    """Targeted perturbation of packages: own minus other falls of accuracy, for every arm."""
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
        neurons, directions = as_coordinates(data, split), as_probes(data, found, split)
        alone = {name: np.array([place]) for place, name in enumerate(found)}
        rows += scored("tpp of the probe's direction", seed, [tpp(falls(directions, found, alone, split))])
        for n in ABLATED:
            sets = {name: aligned(data, probe, split, n) for name, probe in found.items()}
            rows += scored(f"tpp of {n} latents", seed, [tpp(falls(data, found, sets, split))])
            chosen = {name: aligned(neurons, probe, split, n) for name, probe in found.items()}
            rows += scored(f"tpp of {n} coordinates", seed, [tpp(falls(neurons, found, chosen, split))])
            for _ in range(max(1, sizes.draws // sizes.splits)):
                drawn = {name: matched(data.density, one, dice) for name, one in sets.items()}
                rows += scored(f"tpp of {n} random latents", seed, [tpp(falls(data, found, drawn, split))])
    return rows


if __name__ == "__main__":
    run(benchmarks)
