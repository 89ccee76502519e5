"""Step: what the SAEs of the language model explain, what they cost, and against which baselines.

Reconstruction and its cost in cross-entropy, on held-out documents, beside other codes of as many numbers. These are
principal components, coordinates, an untrained dictionary, clusters of activations (`clusters`), and rows that may
hardly leave their random start. `delta CE` is the primary number; recovered loss is against mean ablation and, as in
older work, zero ablation, which flatters.
With a grid, how FVU falls with width and with active latents (Gao et al. 2024, L(N, k)).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_clusters, over_seeds, without_interval
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.corpora import judging_split
from common.data.models import load_model
from common.interp.decoder import Decoder
from common.saes.architectures.base import random_rows
from common.saes.harvest import CORPUS
from common.saes.index import read_index
from common.saes.metrics import FORMULAS, loss_recovered
from common.saes.sae import Sae
from common.saes.stream import Activations
from replications.sparse_autoencoders.baselines import PCA_SAMPLE, Baseline, Reconstruct, baselines
from replications.sparse_autoencoders.clusters import baselines_of_clusters, by_pursuit
from replications.sparse_autoencoders.crossed import Ratio, by_document, over_seeds_and_documents
from replications.sparse_autoencoders.reconstructions import CORPORA, Judge, Sums
from replications.sparse_autoencoders.settings import MeasureLanguage, Sweep
from replications.sparse_autoencoders.substitution import (
    Effect,
    groups_of,
    layers_of,
    read_held_out,
    scored,
    substitute,
)
from replications.sparse_autoencoders.sweep import central

CONTROLS = {"pca": "principal_components", "random": "random_dictionary", "neurons": "coordinates",
            "clusters": "clusters", "untrained_pursuit": "untrained_pursuit", "soft": "soft_frozen"}  # fmt: skip
BASELINES = ("pca", "random", "neurons", "clusters", "untrained_pursuit")  # have no seeds
PURSUED = ("clusters", "untrained_pursuit")  # beside trained rows read by pursuit


class MeasureFiles(Files):
    manifest: Path
    """of the language model"""
    index: Path
    docs: Path
    """manifest of the corpus, for the packages of held-out documents"""
    chat: Path
    """likewise, for the topics"""
    main: Path
    """manifest of the training activations"""
    second: Path | None = None
    """that of the second layer"""
    held_out: Path
    metrics: Path
    table: Path
    """one row per SAE and baseline"""


def measure_language(files: MeasureFiles, settings: MeasureLanguage, run: RunInfo) -> None:
    """Writes `metrics.json` and the table."""
    sweep, evaluation, seeds = settings.sweep, settings.evaluation, run.seeds
    index = read_index(files.index)
    kinds = {one.name: one.kind for one in index.entries.values()}
    saes = {name: index.load(name) for name in kinds}
    stored = load_file(files.held_out)
    manifests = {"main": files.main} | ({"second": files.second} if files.second else {})
    data = {place: Activations(path.parent) for place, path in manifests.items()}
    held = {place: read_held_out(stored, layer) for place, layer in zip(data, layers_of(stored), strict=True)}
    bridge = load_model(files.manifest.parent, device=run.device)
    decoder = Decoder(bridge, held["main"].tokens.shape[1])
    rows: list[dict[str, Any]] = []
    sums: dict[str, Sums] = {}
    effects: dict[str, Effect] = {}
    scored_document = np.empty(0)
    for place in reversed(data):  # the main layer last
        judge = Judge(held[place], data[place])
        chosen = {name: sae for name, sae in saes.items() if (kinds[name] == "second") == (place == "second")}
        for name, sae in chosen.items():
            sae.check_belongs(files.manifest.parent.name, data[place].manifest.hook)
            row, sums[name] = judge.sae(sae)
            rows.append({"name": name, "kind": kinds[name], **row})
        small = held[place].one_per_document(evaluation.windows, evaluation.window)
        changes: dict[str, Reconstruct] = {name: sae.reconstruct for name, sae in chosen.items()}
        if place == "main":
            sparsities = sorted({sweep.sparsity, *sweep.sparsities})
            train = data[place].first(PCA_SAMPLE)
            others = baselines(train, sparsities, sweep.width, evaluation.components)
            others += baselines_of_clusters(train, sweep.width, sparsities)
            others += pursuits([sae for name, sae in chosen.items() if kinds[name] == "main"], train.mean(0), sweep)
            changes |= {one.name: one.reconstruct for one in others}
            for one in others:
                row, sums[one.name] = judge.reconstruction(one.reconstruct(judge.x))
                rows.append({"name": one.name, "kind": one.kind, "l0": one.l0, **row})
        effects = substitute(decoder, small, changes, evaluation.batch)
        scored_document = small.document[:, None].expand_as(small.used)[scored(small)].numpy()
        add_effects(rows, effects, scored_document)
    frame = pd.DataFrame(rows)
    write_table(files.table, frame)
    metrics = summary(frame, sweep, seeds)
    corpora, split = [files.docs.parent, files.chat.parent], judging_split(seeds)
    for end, clusters in (("", "documents"), ("_by_topic", "packages and topics")):
        scored_in, read_in = (
            groups_of(one, corpora, split) if end else one for one in (scored_document, held["main"].documents())
        )
        found = cost_metrics(effects, scored_in, sweep, seeds, clusters)
        found["soft_share"] = soft_share(sums, read_in, sweep, seeds, clusters)
        metrics |= {f"{name}{end}": metric for name, metric in found.items()}
    if sweep.widths:
        metrics |= exponents(frame[frame["kind"].isin(["grid", "main"]) & (frame["seed"] == seeds[0])])
    write_metrics(files.metrics, metrics)


def pursuits(saes: list[Sae], mean: Float[Tensor, " d"], sweep: Sweep) -> list[Baseline]:
    """Rows of trained dictionaries, and rows that no training has seen, read by matching pursuit as clusters are: what
    the rows are worth apart from the encoder. Untrained rows stand about the mean of the training activations."""
    k = sweep.sparsity
    rows = random_rows(sweep.width, len(mean), torch.Generator().manual_seed(0))
    codes = {pursuit_name(sae.about.seed): by_pursuit(sae.unit_decoder().W_dec, sae.b_dec, k) for sae in saes}
    codes[f"untrained_pursuit-{k}"] = by_pursuit(rows, mean, k)
    return [Baseline(name, name.split("-")[0], float(k), code.reconstruct) for name, code in codes.items()]


def pursuit_name(seed: int) -> str:
    return f"pursuit-{seed}"


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


def summary(frame: pd.DataFrame, sweep: Sweep, seeds: list[int]) -> dict[str, Metric]:
    """Metrics over seeds at the central point of the grid, each with what stands beside it at equal L0."""
    by_name = {row["name"]: row for row in frame.to_dict("records")}

    def of(kind: str, key: str) -> list[float]:
        return [float(by_name[name][key]) for name in names(kind, sweep, seeds)]

    def metric(key: str, unit: str, formula: str, *kinds: str) -> Metric:
        controls = {CONTROLS[kind]: of(kind, key) for kind in kinds}
        return over_seeds(of("batch_topk", key), unit=unit, formula=formula, controls=controls)

    found = {"fvu": metric("fvu", "share", FORMULAS["fvu"], *CONTROLS)}
    found["fvu_by_pursuit"] = over_seeds(
        of("pursuit", "fvu"), unit="share", formula=f"{FORMULAS['fvu']}, rows read by matching pursuit",
        controls={kind: of(kind, "fvu") for kind in PURSUED},
    )  # fmt: skip
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
    found["l0"] = metric("l0", "latents", FORMULAS["l0"])
    found["kl"] = metric("kl", "nats", FORMULAS["kl"], *CONTROLS)
    found["dead"] = metric("dead", "share", FORMULAS["dead"] + ", held-out activations")
    found["recovered_zero"] = metric("recovered_zero", "share", FORMULAS["recovered_zero"])
    for corpus in CORPORA:
        for name, key, unit in (("delta_ce", "delta_ce", "nats"), ("recovered", "recovered_mean", "share")):
            about = f"{FORMULAS[key]}; windows of {corpus} alone"
            found[f"{name}_{corpus}"] = metric(f"{key}_{corpus}", unit, about, *CONTROLS)
    return found


def cost_metrics(
    effects: dict[str, Effect],
    cluster: Int[np.ndarray, " token"],
    sweep: Sweep,
    seeds: list[int],
    clusters: str = "documents",
) -> dict[str, Metric]:
    """Cross-entropy added, and loss recovered against mean ablation, with intervals over seeds and clusters."""
    clean, ablated = effects["clean"].ce, effects["mean"].ce
    whole, tokens = np.tile(ablated - clean, (len(seeds), 1)), np.ones((len(seeds), len(clean)))

    def costs(kind: str) -> Float[np.ndarray, "seed token"]:
        return np.stack([effects[name].ce - clean for name in names(kind, sweep, seeds)])

    added = {control: costs(kind) for kind, control in {"batch_topk": "batch_topk", **CONTROLS}.items()}
    delta = {control: ratio(one, tokens, cluster) for control, one in (added | {"mean_ablation": whole}).items()}
    recovered = {control: ratio(whole - one, whole, cluster) for control, one in added.items()}
    rows = {"batch_topk": ratio(whole - costs("pursuit"), whole, cluster)}
    pursued = rows | {kind: recovered[kind] for kind in PURSUED}
    return {
        name: over_seeds_and_documents(
            found.pop("batch_topk"), found, n=tokens.size, unit=unit, formula=FORMULAS[formula], clusters=clusters
        )
        for name, unit, formula, found in (
            ("delta_ce", "nats", "delta_ce", delta),
            ("recovered", "share", "recovered_mean", recovered),
            ("recovered_by_pursuit", "share", "recovered_mean", pursued),
        )
    }


def soft_share(
    sums: dict[str, Sums],
    cluster: Int[np.ndarray, " token"],
    sweep: Sweep,
    seeds: list[int],
    clusters: str = "documents",
) -> Metric:
    """Variance that soft-frozen rows explain over what trained rows explain (Korznikov et al. 2026: 0.79 over 0.85).

    Controls put something else in their place: codes that have not learned these directions, clusters and, where there
    are such trainings, free rows trained for a part of the steps.
    """

    def explained(kind: str) -> Float[np.ndarray, "seed token"]:
        return np.stack([below - above for above, below in (sums[name] for name in names(kind, sweep, seeds))])

    kinds = (
        {"soft": "soft"}
        | {kind: CONTROLS[kind] for kind in BASELINES}
        | {f"short{share:g}": f"after_{round(100 * share)}_percent" for share in sweep.lengths}
    )
    trained = explained("batch_topk")
    found = {control: ratio(explained(kind), trained, cluster) for kind, control in kinds.items()}
    return over_seeds_and_documents(
        found.pop("soft"), found, n=trained.size, unit="share",
        formula="explained variance of soft-frozen dictionaries over that of trained ones", clusters=clusters,
    )  # fmt: skip


def ratio(
    above: Float[np.ndarray, "seed token"], below: Float[np.ndarray, "seed token"], cluster: Int[np.ndarray, " token"]
) -> Ratio:
    """By document, package or topic, of one part."""
    return Ratio(*(by_document(side, cluster)[:, None] for side in (above, below)))


def exponents(grid: pd.DataFrame) -> dict[str, Metric]:
    """Exponents of FVU ~ width^a k^b, least squares over the grid of one seed (Gao et al. 2024, section 3)."""
    logs = np.log(grid[["width", "k", "fvu"]].to_numpy(dtype=float))
    design = np.column_stack([logs[:, :2], np.ones(len(logs))])
    width, k = np.linalg.lstsq(design, logs[:, 2], rcond=None)[0][:2]
    about = "of FVU ~ width^a k^b over the grid of the first seed"
    return {
        "width_exponent": without_interval(width, len(grid), "1", f"a {about}"),
        "k_exponent": without_interval(k, len(grid), "1", f"b {about}"),
    }


def names(kind: str, sweep: Sweep, seeds: list[int]) -> list[str]:
    """The dictionary or baseline of this kind at the central point, for each seed."""
    if kind in BASELINES:
        return [f"{kind}-{sweep.sparsity}"] * len(seeds)
    return [pursuit_name(seed) if kind == "pursuit" else central(sweep, seed, kind) for seed in seeds]


if __name__ == "__main__":
    run_step(measure_language)
