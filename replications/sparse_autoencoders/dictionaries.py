"""Step: trains soft-frozen dictionaries and sets them beside trained, frozen and untrained ones (claim S12).

The question of Korznikov et al. 2026: how much of what an SAE is praised for needs directions that were learned? Soft-
frozen SAEs see the same data in the same order as those of the sweep's central point, at the same width, L0 and seeds.
Explained variance, loss recovered (against mean ablation), cross-entropy added and KL are measured as in
`measure_language`, whose table holds the rows of all other dictionaries. The null of a difference is that between two
seeds.
"""

from pathlib import Path
from typing import Literal

import pandas as pd
from safetensors.torch import load_file

from common.cli import run
from common.decoder import Decoder
from common.files import atomic
from common.models import load_model
from common.records import Metric, write_metrics
from common.saes.metrics import FORMULAS, fvu, l0, loss_recovered
from common.saes.sae import Sae
from common.saes.stream import Activations
from common.statistics import over_seeds
from replications.sparse_autoencoders.members import recipe
from replications.sparse_autoencoders.settings import Evaluation, Sweep
from replications.sparse_autoencoders.soft_frozen import train_soft_frozen
from replications.sparse_autoencoders.substitution import HeldOut, read_held_out, substitute
from replications.sparse_autoencoders.train_language import Sources

PCA_SAMPLE = 65_536  # as in `measure_language`, so that the mean that is put in is the same
TRAINED = {"trained": "batch_topk", "frozen": "frozen"}  # name here -> name in the sweep
UNTRAINED = {"random": "random", "pca": "pca"}
NUMBERS = ("explained", "recovered", "delta_ce", "kl")


def dictionaries(
    *,
    manifest: Path,
    early: Path,
    held_out: Path,
    saes: Path,
    sweep: Sweep,
    evaluation: Evaluation,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    metrics: Path,
    table: Path,
) -> None:
    """Writes `metrics.json` and one row per dictionary. `saes` is the table of `measure_language`."""
    data = Activations(early.parent)
    sources = Sources(data, data, sweep.training.batch, device)
    recipes = [recipe("batch_topk", sweep.width, sweep.sparsity, seed) for seed in seeds]
    soft = [sae.folded(data.manifest.scale) for sae in train_soft_frozen(recipes, sources, sweep.training, device)]
    layer = int(data.manifest.hook.split(".")[1])
    held = read_held_out(load_file(held_out), layer)
    mean = data.x[:PCA_SAMPLE].float().mean(0)
    small = held.one_per_document(evaluation.windows)
    changes = {str(seed): sae.reconstruct for seed, sae in zip(seeds, soft, strict=True)}
    bridge = load_model(manifest.parent, device=device)
    found = substitute(
        Decoder(bridge, held.tokens.shape[1]), small, {**changes, "mean": lambda x: mean.expand_as(x)}, evaluation.batch
    )
    ce = {name: float(effect.ce.mean()) for name, effect in found.items()}
    rows = [
        {"kind": "soft", "seed": seed, **described(sae, held)}
        | {"delta_ce": ce[str(seed)] - ce["clean"], "kl": float(found[str(seed)].kl.mean())}
        | {"recovered": loss_recovered(ce["clean"], ce[str(seed)], ce["mean"])}
        for seed, sae in zip(seeds, soft, strict=True)
    ]
    frame = pd.concat([pd.DataFrame(rows), others(pd.read_csv(saes), sweep, seeds)], ignore_index=True)
    write_metrics(metrics, summary(frame))
    with atomic(table) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def described(sae: Sae, held: HeldOut) -> dict[str, float]:
    """What needs no language model."""
    x = held.activations()
    return {"l0": l0(sae.encode(x)), "explained": 1 - fvu(x, sae.reconstruct(x))}


def others(saes: pd.DataFrame, sweep: Sweep, seeds: list[int]) -> pd.DataFrame:
    """The rows of the other dictionaries: those of a seed, and those that have none."""
    by_name = saes.set_index("name")
    few = seeds[: sweep.control_seeds]
    rows = [
        {"kind": kind, "seed": seed, "name": f"{name}-{sweep.width}-k{sweep.sparsity}-s{seed}"}
        for kind, name in TRAINED.items()
        for seed in (seeds if kind == "trained" else few)
    ]
    rows += [{"kind": kind, "seed": seeds[0], "name": f"{name}-{sweep.sparsity}"} for kind, name in UNTRAINED.items()]
    frame = pd.DataFrame(rows)
    own = by_name.loc[frame.pop("name")].reset_index()
    frame["l0"], frame["explained"] = own["l0"], 1 - own["fvu"]
    frame["delta_ce"], frame["kl"], frame["recovered"] = own["delta_ce"], own["kl"], own["recovered_mean"]
    return frame


def summary(frame: pd.DataFrame) -> dict[str, Metric]:
    """Intervals over seeds for each kind that has seeds, and the paired differences."""
    formulas = {
        "explained": FORMULAS["ev"],
        "recovered": FORMULAS["recovered_mean"],
        "delta_ce": FORMULAS["delta_ce"],
        "kl": FORMULAS["kl"],
    }
    units = {"explained": "share", "recovered": "share", "delta_ce": "nats", "kl": "nats"}
    values = {
        f"{key}_{kind}": own[key].tolist()
        for kind, own in frame.groupby("kind", sort=False)
        for key in NUMBERS
        if len(own) > 1
    }
    found = {
        name: over_seeds(own, unit=units[name.rpartition("_")[0]], formula=formulas[name.rpartition("_")[0]])
        for name, own in values.items()
    }
    for key in ("explained", "recovered"):
        trained = values[f"{key}_trained"]
        gap = [a - b for a, b in zip(trained, values[f"{key}_soft"], strict=True)]
        seeds = [a - b for a, b in zip(trained, trained[1:] + trained[:1], strict=True)]
        difference = [a - b for a, b in zip(gap, seeds, strict=True)]
        for name, own, formula in (
            ("soft_gap", gap, "trained minus soft-frozen"),
            ("seed_gap", seeds, "trained minus trained with the next seed"),
            ("soft_gap_difference", difference, "soft_gap minus seed_gap"),
        ):
            found[f"{key}_{name}"] = over_seeds(own, unit="share", formula=f"{key}: {formula}")
    return found


if __name__ == "__main__":
    run(dictionaries)
