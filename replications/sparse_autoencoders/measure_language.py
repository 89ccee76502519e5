"""Step: what the SAEs of the language model explain, what they cost, and against which baselines.

Claims S5 (the threshold replaces the batch), S6 (reconstruction and its cost in cross-entropy, against principal
components and shuffled activations), S8 (more latents and more active latents explain more); S9 is `measure_errors`,
which runs beside it. All on held-out documents. `delta CE` is the primary number; recovered loss is against mean
ablation and, as in older work, zero ablation, which flatters. The soft-frozen dictionaries of `train_more` are measured
in the same pass; `dictionaries` sets them beside the others.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from safetensors.torch import load_file

from common.core.files import read_json
from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_clusters
from common.core.step import run
from common.core.tables import Seeded, write_table
from common.data.models import load_model
from common.interp.decoder import Decoder
from common.saes.harvest import CORPUS
from common.saes.metrics import FORMULAS, l0, loss_recovered
from common.saes.sae import Sae
from common.saes.saelens import load_saelens
from common.saes.stream import Activations
from replications.sparse_autoencoders.baselines import Reconstruct, baselines
from replications.sparse_autoencoders.members import late_member
from replications.sparse_autoencoders.order import Sums, order_metrics
from replications.sparse_autoencoders.reconstructions import CORPORA, TOP, Judge
from replications.sparse_autoencoders.settings import Evaluation, Sweep
from replications.sparse_autoencoders.substitution import (
    Effect,
    HeldOut,
    read_held_out,
    scored,
    substitute,
)

PCA_SAMPLE = 65_536
MORE_COMPONENTS = [128, 256]


def measure_language(
    *,
    manifest: Path,
    index: Path,
    more: Path,
    early: Path,
    late: Path,
    held_out: Path,
    sweep: Sweep,
    evaluation: Evaluation,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    metrics: Path,
    table: Path,
) -> None:
    """Writes `metrics.json` and one row per SAE and baseline.

    Args:
        manifest: of the language model.
        index: `index.json` of the trained SAEs, whose folders lie beside it; `more` that of `train_more`.
        early: manifest of the training activations; `late` that of the later layer.
    """
    folders = {one["name"]: (one["kind"], index.parent) for one in read_json(index)}
    folders |= {one["name"]: (one["kind"], more.parent) for one in read_json(more) if one["kind"] == "soft"}
    saes = {name: load_saelens(folder / name) for name, (_, folder) in folders.items()}
    kinds = {name: kind for name, (kind, _) in folders.items()}
    stored = load_file(held_out)
    data = {kind: Activations(path.parent) for kind, path in (("early", early), ("late", late))}
    layers = sorted(int(name.removeprefix("resid.")) for name in stored if name.startswith("resid."))
    held = {kind: read_held_out(stored, layer) for kind, layer in zip(data, layers, strict=True)}
    bridge = load_model(manifest.parent, device=device)
    decoder = Decoder(bridge, held["early"].tokens.shape[1])
    rows: list[dict[str, Any]] = []
    sums: dict[str, Sums] = {}
    for kind in data:
        judge = Judge(held[kind], data[kind])
        chosen = {name: sae for name, sae in saes.items() if (kinds[name] == "late") == (kind == "late")}
        for name, sae in chosen.items():
            sae.check_belongs(manifest.parent.name, data[kind].manifest.hook)
            row, sums[name] = judge.sae(sae)
            rows.append({"name": name, "kind": kinds[name], **row})
        small = held[kind].one_per_document(evaluation.windows)
        changes: dict[str, Reconstruct] = {name: sae.reconstruct for name, sae in chosen.items()}
        if kind == "early":
            others = baselines(data[kind].first(PCA_SAMPLE), sweep.sparsities, sweep.width, MORE_COMPONENTS)
            changes |= {one.name: one.reconstruct for one in others}
            for one in others:
                row, _ = judge.reconstruction(one.reconstruct(judge.x))
                rows.append({"name": one.name, "kind": one.kind, "l0": one.l0, **row})
        found = substitute(decoder, small, changes, evaluation.batch)
        document = small.document[:, None].expand_as(small.used)[scored(small)].numpy()
        add_effects(rows, found, document)
    frame = pd.DataFrame(rows)
    write_table(table, frame)
    thresholds = {seed: swapped_threshold(saes, sweep, seeds, seed, held["early"]) for seed in seeds}
    grid = [[sums[f"batch_topk-{width}-k{k}-s{seeds[0]}"] for k in sweep.sparsities] for width in sweep.widths]
    order = order_metrics(grid, held["early"].documents(), sweep.widths)
    write_metrics(metrics, {**summary(frame, sweep, seeds, thresholds), **order})


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
    sae = saes[f"batch_topk-{sweep.width}-k{sweep.sparsity}-s{seed}"]
    late = saes[late_member(sweep, seeds[0]).name]
    x = held.activations()
    assert late.threshold is not None
    in_activations = late.threshold * late.W_dec.norm(dim=1)  # decoder rows carry the unit of activations
    other = replace(sae, threshold=in_activations.mean() / sae.W_dec.norm(dim=1))
    return l0(sae.encode(x)) / sweep.sparsity, l0(other.encode(x)) / sweep.sparsity


def summary(
    frame: pd.DataFrame, sweep: Sweep, seeds: list[int], thresholds: dict[int, tuple[float, float]]
) -> dict[str, Metric]:
    """Metrics over seeds at the central point of the grid, each with its control."""
    by_name = {row["name"]: row for row in frame.to_dict("records")}
    pca, found = by_name[f"pca-{sweep.sparsity}"], Seeded()

    def column(key: str, kind: str = "batch_topk", chosen: list[int] = seeds) -> list[float]:
        return [float(by_name[f"{kind}-{sweep.width}-k{sweep.sparsity}-s{seed}"][key]) for seed in chosen]

    found.add("l0_ratio", [thresholds[seed][0] for seed in seeds], "1", FORMULAS["l0"] + ", over k")
    about = "the same with the late layer's threshold"
    found.add("l0_ratio_other", [thresholds[seed][1] for seed in seeds], "1", about)
    found.minus("l0_ratio_difference", "l0_ratio", "l0_ratio_other")
    found.add("fvu", column("fvu"), "share", FORMULAS["fvu"])
    shuffled = column("fvu", "shuffled", seeds[: sweep.control_seeds])
    found.add("fvu_shuffled", shuffled, "share", "fvu of SAEs trained on shuffled activations")
    found.minus("fvu_minus_shuffled", "fvu", "fvu_shuffled")
    about = f"fvu without the top {TOP} principal components of the held-out activations"
    found.add("fvu_without_top", column("fvu_without_top"), "share", about)
    found.add("fvu_train", column("fvu_train"), "share", "fvu on training activations")
    found.minus("generalisation_gap", "fvu", "fvu_train")
    for corpus in CORPORA:
        for name, what in (("fvu", "held-out"), ("fvu_train", "training")):
            about = f"fvu on {what} activations of {corpus}, about their mean"
            found.add(f"{name}_{corpus}", column(f"{name}_{corpus}"), "share", about)
        found.minus(f"generalisation_gap_{corpus}", f"fvu_{corpus}", f"fvu_train_{corpus}")
    found.add("gamma", column("gamma"), "1", FORMULAS["gamma"])
    found.add("kl", column("kl"), "nats", FORMULAS["kl"])
    found.add("dead", column("dead"), "share", FORMULAS["dead"] + ", held-out activations")
    found.add("recovered_zero", column("recovered_zero"), "share", FORMULAS["recovered_zero"])
    for corpus in ("", *CORPORA):
        end, where = (f"_{corpus}", f"; windows of {corpus} alone") if corpus else ("", "")
        for name, key, unit in (("delta_ce", "delta_ce", "nats"), ("recovered", "recovered_mean", "share")):
            found.add(name + end, column(key + end), unit, FORMULAS[key] + where)
            floor = [float(pca[key + end])] * len(seeds)
            found.add(f"{name}{end}_pca", floor, unit, f"{FORMULAS[key]}{where}; as many principal components")
            found.minus(f"{name}{end}_minus_pca", name + end, f"{name}{end}_pca")
    return found.found


if __name__ == "__main__":
    run(measure_language)
