"""Step: compares the trained dictionaries with the planted ones.

Is an easy dictionary recovered? Does variance explained show recovery (Korznikov et al. 2026, arXiv 2602.14111)? Does
AuxK revive dead latents (Gao et al. 2024, appendix A.2)? Everything is measured on fresh samples, with thresholds in
place of the batch.

Four more numbers show what the low recovery in the hard world is not. The loss has stopped falling (`late_change`). The
true dictionary with the true codes at the same mean L0 explains the data (`explained_true`). The same recipe and number
of samples recover the easy dictionary. Of the latents that fire, too, few point at a true feature (`living_true`; most
are dead). Beside it stand dictionaries that were held at or near their random start, and untrained ones.
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
from common.core.statistics import against_null, over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.saes.architectures.base import random_rows
from common.saes.metrics import FORMULAS, cosines, detection, fvu, l0, principal, recovery
from common.saes.sae import About, Sae
from replications.sparse_autoencoders.baselines import untrained
from replications.sparse_autoencoders.settings import Planted, PlantedWorld
from replications.sparse_autoencoders.train_planted import REVIVAL, WORLDS
from replications.sparse_autoencoders.worlds import FRESH, Codes, Stream, codes, directions, mix, scale

NULL_DRAWS = 20
LATE = 0.1  # share of a run that counts as late
COMPARED = ("l0", "explained", "mmcs", "recovered")  # of dictionaries side by side
FIRING = ("f1", "alive")  # of those with latents of their own
KINDS = {"soft": "soft_frozen", "frozen": "frozen_decoder", "untrained": "untrained"}  # name here -> control


class MeasureFiles(Files):
    models: Path
    metrics: Path
    features: Path
    """one row per true feature"""
    traces: Path
    kinds: Path
    """one row per world, kind of dictionary and seed"""


def measure_planted(files: MeasureFiles, settings: Planted, run: RunInfo) -> None:
    """Writes `metrics.json` and the tables."""
    stored = load_file(files.models)
    values: dict[str, list[float]] = {}
    rows: list[pd.DataFrame] = []
    beside: list[dict[str, Any]] = []
    for name in WORLDS:
        planted: PlantedWorld = getattr(settings, name)
        stream = Stream(planted.world, run.seeds, planted.evaluation)
        for index, seed in enumerate(run.seeds):
            found, features = judge(name, planted, stream, stored, index, seed)
            others = held_back(name, planted, stream, stored, index, seed)
            found |= {f"{name}_{key}_{kind}": value for kind, own in others.items() for key, value in own.items()}
            trained = {key: found[f"{name}_{key}"] for key in (*COMPARED, *FIRING)}
            for kind, own in {"trained": trained, **others}.items():
                beside.append({"world": name, "kind": kind, "seed": seed, **own})
            for key, value in found.items():
                values.setdefault(key, []).append(value)
            rows.append(features)
    for name in REVIVAL:
        values[f"dead_{name}"] = [float(one[-1]) for one in stored[f"{name}.trace_dead"]]
    metrics = summary(values)
    guesses = [recovery(directions(settings.easy.world, 0), random(settings.easy, draw)) for draw in range(NULL_DRAWS)]
    metrics["easy_mmcs"] = against_null(
        metrics["easy_mmcs"], np.array([one.mmcs for one in guesses]), name="random_directions",
        formula=FORMULAS["mmcs"] + ", random directions",
    )  # fmt: skip
    write_metrics(files.metrics, metrics)
    write_table(files.features, pd.concat(rows))
    write_table(files.traces, trace_table(stored, run.seeds))
    write_table(files.kinds, pd.DataFrame(beside))


def random(planted: PlantedWorld, draw: int) -> Float[Tensor, "d_sae d"]:
    """An untrained dictionary."""
    return random_rows(planted.d_sae, planted.world.d, torch.Generator().manual_seed(9_000 + draw))


def judge(
    name: str, planted: PlantedWorld, stream: Stream, stored: dict[str, Tensor], index: int, seed: int
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
    name: str, planted: PlantedWorld, stream: Stream, stored: dict[str, Tensor], index: int, seed: int
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


def active(code: Codes, planted: PlantedWorld) -> Bool[Tensor, "sample feature"]:
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


def true_reconstruction(
    truth: Float[Tensor, "feature d"], code: Codes, planted: PlantedWorld
) -> Float[Tensor, "sample d"]:
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


def summary(values: dict[str, list[float]]) -> dict[str, Metric]:
    """Intervals over seeds; each number with the same of the other dictionaries and, where it says more, of the easy
    world."""

    def metric(name: str, **controls: str) -> Metric:
        known = {control: values[other] for control, other in controls.items()}
        return over_seeds(values[name], unit=unit(name), formula=formula(name), controls=known)

    found: dict[str, Metric] = {}
    for world in WORLDS:
        easy = {"hard": "easy"}.get(world)
        pairs = zip(values[f"{world}_explained_soft"], values[f"{world}_explained"], strict=True)
        values[f"{world}_soft_share"] = [soft / free for soft, free in pairs]
        controls: dict[str, dict[str, str]] = {
            key: {
                control: f"{world}_{key}_{kind}"
                for kind, control in KINDS.items()
                if kind != "untrained" or key in COMPARED
            }
            for key in (*COMPARED, *FIRING)
        }
        controls["explained"]["principal_components"] = f"{world}_explained_pca"
        controls |= {"explained_true": {"trained": f"{world}_explained"}}
        controls |= {"late_change": {"first_tenth": f"{world}_early_change"}}
        for key in ("recovered", "living_true", "soft_share"):
            controls.setdefault(key, {})
            if easy:
                controls[key]["easy_world"] = f"{easy}_{key}"
        for key in ("mcc", "uniqueness"):
            controls[key] = {}
        found |= {f"{world}_{key}": metric(f"{world}_{key}", **own) for key, own in controls.items()}
    return found | {"dead_with_auxk": metric("dead_with_auxk", without_auxk="dead_without_auxk")}


def unit(name: str) -> str:
    return "latents" if "_l0" in name else "1" if "mmcs" in name or "mcc" in name else "share"


def formula(name: str) -> str:
    """The id of a metric's formula."""
    ids = {
        "soft_share": "ev of the soft-frozen dictionary over ev of the trained one",
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
    for name in (*WORLDS, *REVIVAL):
        for index, seed in enumerate(seeds):
            keys = ("fvu", "dead", "l0")
            own = {key: stored[f"{name}.trace_{key}"][index].numpy() for key in keys}
            share = np.linspace(0, 1, len(own["fvu"]))
            frames.append(pd.DataFrame({"experiment": name, "seed": seed, "progress": share, **own}))
    return pd.concat(frames)


if __name__ == "__main__":
    run_step(measure_planted)
