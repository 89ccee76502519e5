"""Step: compares the trained dictionaries with the planted ones.

Claims S1 (an easy dictionary is recovered), S2 (variance explained is not recovery: Korznikov et al. 2026), S7 (AuxK
revives dead latents). Everything is measured on fresh samples, with thresholds in place of the batch.

For S2 four more numbers show what the low recovery is not: the loss has stopped falling (`hard_late_change`), the true
dictionary with the true codes at the same mean L0 explains the data (`hard_true_dictionary`), the same recipe and
number of samples recover the easy dictionary, and of the latents that fire, too, few point at a true feature
(`hard_living_true`; most are dead). Beside it stand dictionaries that were held at or near their random start
(`train_controls`) and untrained ones: how much of the variance needs the right directions?
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import null_distribution
from common.core.step import run
from common.core.tables import Seeded, write_table
from common.saes.architectures.base import random_rows
from common.saes.metrics import FORMULAS, cosines, detection, fvu, l0, principal, recovery
from common.saes.sae import About, Sae
from replications.sparse_autoencoders.baselines import untrained
from replications.sparse_autoencoders.settings import Planted
from replications.sparse_autoencoders.worlds import FRESH, Codes, Stream, codes, directions, mix, scale

NULL_DRAWS = 20
LATE = 0.1  # share of a run that counts as late
COMPARED = ("l0", "explained", "mmcs", "recovered")  # of dictionaries side by side
FIRING = ("f1", "alive")  # of those with latents of their own


def measure_planted(
    *,
    models: Path,
    controls: Path,
    easy: Planted,
    hard: Planted,
    seeds: list[int],
    metrics: Path,
    table: Path,
    traces: Path,
    kinds: Path,
) -> None:
    """Writes `metrics.json`, one row per true feature, the training traces, and one row per kind of dictionary."""
    stored = load_file(models) | load_file(controls)
    values: dict[str, list[float]] = {}
    rows: list[pd.DataFrame] = []
    beside: list[dict[str, Any]] = []
    for name, planted in (("easy", easy), ("hard", hard)):
        stream = Stream(planted.world, seeds, planted.evaluation)
        for index, seed in enumerate(seeds):
            found, features = judge(name, planted, stream, stored, index, seed)
            others = held_back(name, planted, stream, stored, index, seed)
            found |= {f"{name}_{key}_{kind}": value for kind, own in others.items() for key, value in own.items()}
            trained = {key: found[f"{name}_{key}"] for key in (*COMPARED, *FIRING)}
            for kind, own in {"trained": trained, **others}.items():
                beside.append({"world": name, "kind": kind, "seed": seed, **own})
            for key, value in found.items():
                values.setdefault(key, []).append(value)
            rows.append(features)
    for name in ("with_auxk", "without_auxk"):
        values[f"dead_{name}"] = [float(one[-1]) for one in stored[f"{name}.trace_dead"]]
    found_metrics = summarised(values)
    found_metrics["easy_mmcs_random"] = null_distribution(
        np.array([recovery(directions(easy.world, 0), random(easy, draw)).mmcs for draw in range(NULL_DRAWS)]),
        unit="1",
        formula=FORMULAS["mmcs"] + ", random directions",
    )
    write_metrics(metrics, found_metrics)
    tables = ((table, pd.concat(rows)), (traces, trace_table(stored, seeds)), (kinds, pd.DataFrame(beside)))
    for path, frame in tables:
        write_table(path, frame)


def random(planted: Planted, draw: int) -> Float[Tensor, "d_sae d"]:
    """An untrained dictionary."""
    return random_rows(planted.d_sae, planted.world.d, torch.Generator().manual_seed(9_000 + draw))


def judge(
    name: str, planted: Planted, stream: Stream, stored: dict[str, Tensor], index: int, seed: int
) -> tuple[dict[str, float], pd.DataFrame]:
    """All numbers of one SAE but those of dictionaries beside it, and one row per true feature."""
    sae, truth, start = sae_of(stored, name, index), directions(planted.world, seed), random(planted, seed)
    x = stream.samples(index, planted.evaluation, FRESH)
    code = codes(planted.world, planted.evaluation, seed, FRESH)
    latents = sae.encode(x)
    found = recovery(truth, sae.W_dec)
    trace = stored[f"{name}.trace_fvu"][index]
    values = {
        "mmcs": found.mmcs,
        "recovered": found.recovered,
        "mcc": found.mcc,
        "uniqueness": found.uniqueness,
        "explained": 1 - fvu(x, sae.decode(latents)),
        "explained_pca": pca_explained(x, round(planted.world.active)),
        "explained_true": 1 - fvu(x, true_reconstruction(truth, code, planted)),
        "l0": l0(latents),
        **firing(latents, sae.W_dec, truth, active(code, planted)),
        "living_true": recovery(sae.W_dec[(latents != 0).any(0)], truth).recovered,
        "late_change": fall(trace, 1 - LATE, 1.0),
        "early_change": fall(trace, 0.0, LATE),
    }
    best = cosines(truth, sae.W_dec).max(1).values
    counts = torch.bincount(code.features, minlength=len(truth)) / planted.evaluation
    frame = pd.DataFrame(
        {"world": name, "seed": seed, "frequency": counts.numpy(), "cosine": best.numpy()}
        | {"random_cosine": cosines(truth, start).max(1).values.numpy()}
    )
    return {f"{name}_{key}": value for key, value in values.items()}, frame


def held_back(
    name: str, planted: Planted, stream: Stream, stored: dict[str, Tensor], index: int, seed: int
) -> dict[str, dict[str, float]]:
    """The numbers of `COMPARED` of the soft-frozen, the frozen and the untrained dictionary of a seed; of the first two
    also those of `FIRING`."""
    truth = directions(planted.world, seed)
    x = stream.samples(index, planted.evaluation, FRESH)
    truly = active(codes(planted.world, planted.evaluation, seed, FRESH), planted)
    found = {}
    for kind in ("soft", "frozen"):
        sae = sae_of(stored, f"{name}_{kind}", index)
        latents = sae.encode(x)
        found[kind] = beside_truth(truth, sae.W_dec, x, sae.decode(latents), l0(latents))
        found[kind] |= firing(latents, sae.W_dec, truth, truly)
    k, start = round(planted.world.active), random(planted, seed)
    guess = untrained(stream.samples(index, planted.evaluation, FRESH + 1), x.mean(0), start, k)
    return {**found, "untrained": beside_truth(truth, start, x, guess(x), float(k))}


def firing(
    latents: Float[Tensor, "sample d_sae"],
    W_dec: Float[Tensor, "d_sae d"],
    truth: Float[Tensor, "feature d"],
    active: Bool[Tensor, "sample feature"],
) -> dict[str, float]:
    """What latents do on fresh samples; keys as in `FIRING`."""
    alive = float((latents != 0).any(0).double().mean())
    return {"f1": detection(latents, active, cosines(W_dec, truth).argmax(1)), "alive": alive}


def active(code: Codes, planted: Planted) -> Bool[Tensor, "sample feature"]:
    """Which true features are active."""
    found = torch.zeros(planted.evaluation, planted.world.features, dtype=torch.bool)
    found[code.rows, code.features] = True
    return found


def beside_truth(
    truth: Float[Tensor, "feature d"],
    W_dec: Float[Tensor, "d_sae d"],
    x: Float[Tensor, "sample d"],
    found: Float[Tensor, "sample d"],
    active: float,
) -> dict[str, float]:
    """What a dictionary explains and what it has found; keys as in `COMPARED`."""
    near = recovery(truth, W_dec)
    return {"l0": active, "explained": 1 - fvu(x, found), "mmcs": near.mmcs, "recovered": near.recovered}


def sae_of(stored: dict[str, Tensor], name: str, index: int) -> Sae:
    """The JumpReLU SAE that a BatchTopK SAE is used as."""
    W_enc, b_enc, W_dec, b_dec = (stored[f"{name}.{key}"][index] for key in ("W_enc", "b_enc", "W_dec", "b_dec"))
    threshold = torch.full_like(b_enc, float(stored[f"{name}.threshold"][index]))
    return Sae(About("batch_topk"), "jumprelu", W_enc.T.contiguous(), b_enc, W_dec, b_dec, threshold=threshold)


def true_reconstruction(truth: Float[Tensor, "feature d"], code: Codes, planted: Planted) -> Float[Tensor, "sample d"]:
    """True directions with true coefficients, of which the largest k per sample on average are kept."""
    allowed = round(planted.world.active * planted.evaluation)
    kept = code
    if len(code.values) > allowed:
        chosen = code.values.topk(allowed).indices.sort().values
        kept = Codes(code.rows[chosen], code.features[chosen], code.values[chosen])
    return mix(truth, kept, planted.evaluation) * scale(planted.world)


def pca_explained(x: Float[Tensor, "sample d"], components: int) -> float:
    """Explained variance of as many principal components as the SAE has latents active."""
    mean, axes = principal(x)
    axes = axes[:, :components]
    return 1 - fvu(x, (x - mean) @ axes @ axes.mT + mean)


def fall(trace: Float[Tensor, " trace"], start: float, end: float) -> float:
    """Relative fall of the mean between the two halves of a stretch of the run (at least two entries)."""
    n = len(trace)
    first = min(int(start * n), n - 2)
    part = trace[first : max(int(end * n), first + 2)]
    before, after = part[: len(part) // 2].mean(), part[len(part) // 2 :].mean()
    return float((before - after) / before)


def summarised(values: dict[str, list[float]]) -> dict[str, Metric]:
    """Intervals over seeds, with the paired differences that the claims need."""
    differences = {
        "easy_mmcs_gain": ("easy_mmcs", "easy_mmcs_untrained"),
        "easy_recovered_gain": ("easy_recovered", "easy_recovered_untrained"),
        "hard_explained_minus_pca": ("hard_explained", "hard_explained_pca"),
        "hard_recovered_minus_easy": ("hard_recovered", "easy_recovered"),
        "hard_living_true_minus_easy": ("hard_living_true", "easy_living_true"),
        "hard_true_minus_trained": ("hard_explained_true", "hard_explained"),
        "hard_late_minus_early": ("hard_late_change", "hard_early_change"),
        "dead_difference": ("dead_with_auxk", "dead_without_auxk"),
        "dead_excess": ("dead_without_auxk", "dead_with_auxk"),
        "hard_soft_share_minus_easy": ("hard_soft_share", "easy_soft_share"),
    }
    found = Seeded()
    for name, own in values.items():
        found.add(name, own, unit(name), formula(name))
    for world in ("easy", "hard"):
        pairs = zip(values[f"{world}_explained_soft"], values[f"{world}_explained"], strict=True)
        about = "ev of the soft-frozen dictionary over ev of the trained one"
        found.add(f"{world}_soft_share", [soft / free for soft, free in pairs], "share", about)
    for name, (left, right) in differences.items():
        found.minus(name, left, right)
    return found.found


def unit(name: str) -> str:
    return "latents" if "_l0" in name else "1" if "mmcs" in name or "mcc" in name else "share"


def formula(name: str) -> str:
    """The id of a metric's formula."""
    ids = {
        "mmcs": FORMULAS["mmcs"],
        "mcc": FORMULAS["mcc"],
        "uniqueness": FORMULAS["uniqueness"],
        "recovered": FORMULAS["recovered_features"],
        "explained": FORMULAS["ev"],
        "l0": FORMULAS["l0"],
        "f1": FORMULAS["f1"],
        "alive": "share of latents that fire on some fresh sample",
        "living_true": "share of these whose decoder row has a cosine above 0.9 with a true feature",
        "change": "relative fall of the training fvu between the halves of the first or last tenth of the steps",
        "dead": FORMULAS["dead"] + ", at the end of training, window dead_after",
    }
    return next(text for key, text in ids.items() if key in name)


def trace_table(stored: dict[str, Tensor], seeds: list[int]) -> pd.DataFrame:
    """Training traces of all experiments."""
    frames = []
    for name in ("easy", "hard", "with_auxk", "without_auxk"):
        for index, seed in enumerate(seeds):
            keys = ("fvu", "dead", "l0")
            own = {key: stored[f"{name}.trace_{key}"][index].numpy() for key in keys}
            share = np.linspace(0, 1, len(own["fvu"]))
            frames.append(pd.DataFrame({"experiment": name, "seed": seed, "progress": share, **own}))
    return pd.concat(frames)


if __name__ == "__main__":
    run(measure_planted)
