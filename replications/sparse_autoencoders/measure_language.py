"""Step: what the SAEs of the language model explain, what they cost, and against which baselines.

The threshold replaces the batch (Bussmann et al. 2024); reconstruction and its cost in cross-entropy, against principal
components and other baselines; more latents and more active latents explain more (Gao et al. 2024). All on held-out
documents. `delta CE` is the primary number; recovered loss is against mean ablation and, as in older work, zero
ablation, which flatters. The soft-frozen dictionaries are measured in the same pass; `dictionaries` sets them beside
the others.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from safetensors.torch import load_file

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_clusters, over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import load_model
from common.interp.decoder import Decoder
from common.saes.harvest import CORPUS
from common.saes.index import Entry, read_index
from common.saes.metrics import FORMULAS, l0, loss_recovered
from common.saes.sae import Sae
from common.saes.stream import Activations
from replications.sparse_autoencoders.baselines import Reconstruct, baselines
from replications.sparse_autoencoders.order import Sums, order_metrics
from replications.sparse_autoencoders.reconstructions import CORPORA, TOP, Judge
from replications.sparse_autoencoders.settings import MeasureLanguage, Sweep
from replications.sparse_autoencoders.substitution import (
    Effect,
    HeldOut,
    layers_of,
    read_held_out,
    scored,
    substitute,
)
from replications.sparse_autoencoders.sweep import central

PCA_SAMPLE = 65_536
MEASURED = ("grid", "seed", "grid seed", "architecture", "frozen", "shuffled", "soft")
"""kinds that are measured; of the later layer the first seed"""
CONTROLS = {"pca": "principal_components", "random": "random_dictionary", "neurons": "coordinates",
            "frozen": "frozen_decoder", "soft": "soft_frozen", "shuffled": "shuffled_activations"}  # fmt: skip
BASELINES = ("pca", "random", "neurons")  # have no seeds
UNLEARNED = ("pca", "random", "neurons", "frozen", "shuffled")  # have not learned directions of these activations


class MeasureFiles(Files):
    manifest: Path
    """of the language model"""
    index: Path
    early: Path
    """manifest of the training activations"""
    late: Path | None = None
    """that of the later layer"""
    held_out: Path
    metrics: Path
    table: Path
    """one row per SAE and baseline"""


def measure_language(files: MeasureFiles, settings: MeasureLanguage, run: RunInfo) -> None:
    """Writes `metrics.json` and the table."""
    sweep, evaluation, seeds = settings.sweep, settings.evaluation, run.seeds
    index = read_index(files.index)
    entries = [one for one in index.entries.values() if measured(one, seeds)]
    saes = {one.name: index.load(one.name) for one in sorted(entries, key=lambda one: one.kind == "soft")}
    kinds = {one.name: one.kind for one in entries}
    stored = load_file(files.held_out)
    manifests = {"early": files.early} | ({"late": files.late} if files.late else {})
    data = {kind: Activations(path.parent) for kind, path in manifests.items()}
    held = {kind: read_held_out(stored, layer) for kind, layer in zip(data, layers_of(stored), strict=True)}
    bridge = load_model(files.manifest.parent, device=run.device)
    decoder = Decoder(bridge, held["early"].tokens.shape[1])
    rows: list[dict[str, Any]] = []
    sums: dict[str, Sums] = {}
    effects: dict[str, Effect] = {}
    scored_document = np.empty(0)
    for kind in data:
        judge = Judge(held[kind], data[kind])
        chosen = {name: sae for name, sae in saes.items() if (kinds[name] == "late") == (kind == "late")}
        for name, sae in chosen.items():
            sae.check_belongs(files.manifest.parent.name, data[kind].manifest.hook)
            row, sums[name] = judge.sae(sae)
            rows.append({"name": name, "kind": kinds[name], **row})
        small = held[kind].one_per_document(evaluation.windows, evaluation.window)
        changes: dict[str, Reconstruct] = {name: sae.reconstruct for name, sae in chosen.items()}
        if kind == "early":
            others = baselines(data[kind].first(PCA_SAMPLE), sweep.sparsities, sweep.width, evaluation.components)
            changes |= {one.name: one.reconstruct for one in others}
            for one in others:
                row, sums[one.name] = judge.reconstruction(one.reconstruct(judge.x))
                rows.append({"name": one.name, "kind": one.kind, "l0": one.l0, **row})
        found = substitute(decoder, small, changes, evaluation.batch)
        document = small.document[:, None].expand_as(small.used)[scored(small)].numpy()
        add_effects(rows, found, document)
        if kind == "early":
            effects, scored_document = found, document
    frame = pd.DataFrame(rows)
    write_table(files.table, frame)
    metrics = summary(frame, sweep, seeds) | cost_metrics(effects, scored_document, sweep, seeds)
    metrics["soft_share"] = soft_share(sums, held["early"].documents(), sweep, seeds)
    if sweep.late:
        thresholds = [swapped_threshold(saes, sweep, seeds, seed, held["early"]) for seed in seeds]
        metrics["l0_ratio"] = over_seeds(
            [own for own, _ in thresholds], unit="1", formula=FORMULAS["l0"] + ", over k",
            controls={"late_threshold": [other for _, other in thresholds]},
        )  # fmt: skip
    if len(sweep.widths) > 1 and len(sweep.sparsities) > 1:
        grid = [[sums[f"batch_topk-{width}-k{k}-s{seeds[0]}"] for k in sweep.sparsities] for width in sweep.widths]
        metrics |= order_metrics(grid, held["early"].documents(), sweep.widths)
    write_metrics(files.metrics, metrics)


def measured(entry: Entry, seeds: list[int]) -> bool:
    """Whether an SAE is measured here."""
    late = entry.kind == "late" and entry.recipe is not None and entry.recipe.seed == seeds[0]
    return late or entry.kind in MEASURED


def add_effects(rows: list[dict[str, Any]], found: dict[str, Effect], document: np.ndarray) -> None:
    """Fills in cross-entropy and KL of each row, with intervals over documents, and cross-entropy by corpus."""
    clean = found["clean"].ce
    parts = {"": np.ones(len(clean), dtype=bool)}
    parts |= {f"_{corpus}": document // CORPUS == place for place, corpus in enumerate(CORPORA)}
    means = {
        end: {name: float(effect.ce[part].mean()) for name, effect in found.items()} for end, part in parts.items()
    }
    for row in rows:
        name = row["name"]
        if name not in found:
            continue
        delta = over_clusters(found[name].ce - clean, document, unit="nats", formula=FORMULAS["delta_ce"])
        row |= {"delta_ce_low": delta.ci_low, "delta_ce_high": delta.ci_high}
        row["kl"] = float(found[name].kl.mean())
        for end, ce in means.items():
            row[f"delta_ce{end}"] = ce[name] - ce["clean"]
            for ablation in ("mean", "zero"):
                if ablation in ce:
                    row[f"recovered_{ablation}{end}"] = loss_recovered(ce["clean"], ce[name], ce[ablation])


def swapped_threshold(
    saes: dict[str, Sae], sweep: Sweep, seeds: list[int], seed: int, held: HeldOut
) -> tuple[float, float]:
    """L0 over k on held-out activations with the SAE's own threshold, and with that of the SAE at the late layer."""
    sae, late = saes[central(sweep, seed)], saes[central(sweep, seeds[0], "late")]
    x = held.activations()
    assert late.threshold is not None
    in_activations = late.threshold * late.W_dec.norm(dim=1)  # decoder rows carry the unit of activations
    other = replace(sae, threshold=in_activations.mean() / sae.W_dec.norm(dim=1))
    return l0(sae.encode(x)) / sweep.sparsity, l0(other.encode(x)) / sweep.sparsity


def summary(frame: pd.DataFrame, sweep: Sweep, seeds: list[int]) -> dict[str, Metric]:
    """Metrics over seeds at the central point of the grid, each with what stands beside it at equal L0."""
    by_name = {row["name"]: row for row in frame.to_dict("records")}

    def of(kind: str, key: str) -> list[float]:
        return [float(by_name[name][key]) for name in names(kind, sweep, seeds)]

    def metric(key: str, unit: str, formula: str, *kinds: str) -> Metric:
        controls = {CONTROLS[kind]: of(kind, key) for kind in kinds}
        return over_seeds(of("batch_topk", key), unit=unit, formula=formula, controls=controls)

    found = {"fvu": metric("fvu", "share", FORMULAS["fvu"], *CONTROLS)}
    about = f"fvu without the top {TOP} principal components of the held-out activations"
    found["fvu_without_top"] = metric("fvu_without_top", "share", about, *CONTROLS)
    for corpus in ("", *CORPORA):
        end, where = (f"_{corpus}", f", {corpus} about its mean") if corpus else ("", "")
        held_out, training = of("batch_topk", f"fvu{end}"), of("batch_topk", f"fvu_train{end}")
        if corpus:
            found[f"fvu{end}"] = metric(f"fvu{end}", "share", FORMULAS["fvu"] + where)
        found[f"fvu_train{end}"] = metric(f"fvu_train{end}", "share", f"fvu on training activations{where}")
        found[f"generalisation_gap{end}"] = over_seeds(
            [a - b for a, b in zip(held_out, training, strict=True)], unit="share",
            formula=f"fvu on held-out minus fvu on training activations{where}",
        )  # fmt: skip
    found["gamma"] = metric("gamma", "1", FORMULAS["gamma"])
    found["kl"] = metric("kl", "nats", FORMULAS["kl"], *CONTROLS)
    found["dead"] = metric("dead", "share", FORMULAS["dead"] + ", held-out activations")
    found["recovered_zero"] = metric("recovered_zero", "share", FORMULAS["recovered_zero"])
    for corpus in CORPORA:
        for name, key, unit in (("delta_ce", "delta_ce", "nats"), ("recovered", "recovered_mean", "share")):
            about = f"{FORMULAS[key]}; windows of {corpus} alone"
            found[f"{name}_{corpus}"] = metric(f"{key}_{corpus}", unit, about, *CONTROLS)
    return found


def cost_metrics(
    effects: dict[str, Effect], document: Int[np.ndarray, " token"], sweep: Sweep, seeds: list[int]
) -> dict[str, Metric]:
    """Cross-entropy added, and loss recovered against mean ablation, with intervals over documents.

    The soft-frozen dictionaries are no control here: how near they come is `soft_share`, and `delta_ce` states them.
    """
    clean, ablated = effects["clean"].ce, effects["mean"].ce
    whole = np.tile(ablated - clean, len(seeds))
    clusters, groups = np.tile(document, len(seeds)), np.repeat(seeds, len(document))

    def added(kind: str) -> Float[np.ndarray, " item"]:
        return np.concatenate([effects[name].ce - clean for name in names(kind, sweep, seeds)])

    delta = over_clusters(
        added("batch_topk"), clusters, unit="nats", formula=FORMULAS["delta_ce"], cluster="documents", groups=groups,
        controls={control: added(kind) for kind, control in CONTROLS.items()} | {"mean_ablation": whole},
    )  # fmt: skip
    recovered = over_clusters(
        whole - added("batch_topk"), clusters, unit="share", formula=FORMULAS["recovered_mean"], cluster="documents",
        groups=groups, denominators=whole,
        controls={CONTROLS[kind]: (whole - added(kind), whole) for kind in UNLEARNED},
    )  # fmt: skip
    return {"delta_ce": delta, "recovered": recovered}


def soft_share(sums: dict[str, Sums], documents: Int[np.ndarray, " token"], sweep: Sweep, seeds: list[int]) -> Metric:
    """Variance that soft-frozen rows explain over what trained rows explain (Korznikov et al. 2026: 0.79 over 0.85).

    Controls put something else in their place: the trained dictionary of the next seed, of which the share is about 1,
    and everything that has not learned these directions.
    """

    def explained(kind: str, turn: int = 0) -> Float[np.ndarray, " item"]:
        found = [sums[name] for name in names(kind, sweep, seeds)]
        return np.concatenate([below - above for above, below in found[turn:] + found[:turn]])

    trained = explained("batch_topk")
    others = {"next_seed": explained("batch_topk", 1)} | {CONTROLS[kind]: explained(kind) for kind in UNLEARNED}
    return over_clusters(
        explained("soft"), np.tile(documents, len(seeds)), unit="share", cluster="documents", denominators=trained,
        formula="explained variance of soft-frozen dictionaries over that of trained ones",
        groups=np.repeat(seeds, len(documents)), controls={name: (own, trained) for name, own in others.items()},
    )  # fmt: skip


def names(kind: str, sweep: Sweep, seeds: list[int]) -> list[str]:
    """The dictionary or baseline of this kind at the central point, for each seed."""
    return [f"{kind}-{sweep.sparsity}" if kind in BASELINES else central(sweep, seed, kind) for seed in seeds]


if __name__ == "__main__":
    run_step(measure_language)
