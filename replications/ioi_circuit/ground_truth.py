"""Step: do the finders and the class rules recover a circuit that is known, and find nothing where there is none?

Models of `planted.py`, one for each seed, and for each its twin without the circuit. Nodes are heads at S1+1, S2 and
END; a finder gives each a score, judged by the area under the ROC curve against the seven planted nodes:

    path_patching       largest effect over the receiver sets at the node's position
    activation_patching effect of replacing the head's output there by that of the ABC partner, everything recomputed
    attribution         the same to first order: (z of the partner - z) times the gradient of the logit difference
    random              a random number, as a check of the ruler

The scores behind the class names are judged in the same way over all heads, each against the heads whose job it
describes (`JOBS`). Both kinds of heads that write a name with a minus have to come out with the lowest copying scores,
which are turned round. The circuit holds two heads that can stand in for each other (induction and duplicate), and
softmaxes that are nearly saturated: known difficulties of gradients.

Whether the rule finds a backup name mover is tried on models of their own (planted_names.py).

Greedy completeness is tried on the same models. The circuit of all seven heads is complete. Without its duplicate-token
head it is not: the induction head does the same job, but when it is taken out too, the circuit breaks and the model
does not. Greedy search (completeness.py) must find a large gap for it and a small one for the complete circuit.
"""

from collections.abc import Hashable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.shares import with_width
from common.core.statistics import auroc, over_seeds
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.interp.decoder import Cache, Decoder
from common.interp.partial_forward import at_position
from common.interp.path_patching import patch_heads
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, Batch, balanced, passes
from replications.ioi_circuit.classes import HeadScores
from replications.ioi_circuit.completeness import EVERYTHING, gaps, grown_parts
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.knockout import KnockOut, template_means
from replications.ioi_circuit.nodes import PLACE_OF_RECEIVER, PLACES, UNNAMED, Node
from replications.ioi_circuit.planted import (
    N_HEADS,
    N_LAYERS,
    TRUTH,
    load_planted,
    measure_sizes,
    relative_sizes,
)
from replications.ioi_circuit.planted_names import BATCH_SIZE, backup_record, measure_backups, name_heads
from replications.ioi_circuit.residual import read_names
from replications.ioi_circuit.settings import Greedy, GroundTruth
from replications.ioi_circuit.sweeps import Effects, name_logits

FINDERS = ("path_patching", "activation_patching", "attribution", "random")
LEFT_OUT = "duplicate"
JOBS: dict[str, tuple[float, tuple[str, ...]]] = {
    "to_io": (1.0, ("name_mover", "negative")),
    "to_s2": (1.0, ("s_inhibition", "s_suppressing")),
    "duplicate": (1.0, ("duplicate",)),
    "induction": (1.0, ("induction",)),
    "previous": (1.0, ("previous",)),
    "copy_io": (1.0, ("name_mover",)),
    "copy_io_turned": (-1.0, ("negative", "s_suppressing")),
    "copy_s_turned": (-1.0, ("negative", "s_suppressing")),
    "random_duplicate": (1.0, ("duplicate",)),
    "random_induction": (1.0, ("induction",)),
    "random_previous": (1.0, ("previous",)),
}
"""Score -> its direction, and the classes that it should put first."""


class GroundTruthFiles(Files):
    metrics: Path
    scores: Path
    """one row per seed, model, finder and node"""


def ground_truth(files: GroundTruthFiles, settings: GroundTruth, run: RunInfo) -> None:
    """Writes `metrics.json` and one row per seed, model, finder and node."""
    tables, records, backups = [], [], []
    for seed in track(run.seeds, "planted models"):
        for twin in (False, True):
            table, record = one_model(seed, twin, settings)
            tables.append(table)
            records.append(record)
        with torch.no_grad():
            backups.append(backup_record(seed, settings))
    write_metrics(files.metrics, measure(pd.DataFrame(records)) | measure_backups(backups))
    write_table(files.scores, pd.concat(tables))


def one_model(seed: int, twin: bool, settings: GroundTruth) -> tuple[pd.DataFrame, dict[str, float]]:
    """Scores of all nodes by all finders on one model, and how many nodes the rules named, rightly and wrongly."""
    decoder, drawn, words = load_planted(seed, settings.n_prompts, "twin" if twin else "planted")
    prompts = balanced(drawn, DISCOVERY, settings.n_prompts)
    batch = Batch(prompts, "cpu")
    with torch.no_grad():
        cache, partner = passes(decoder, batch)
        scores, effects, classes = name_heads(decoder, prompts, words, settings, seed)
        grids = {"path_patching": path_scores(effects)}
        grids["activation_patching"] = activation_effects(decoder, cache, partner, batch)
        fresh = balanced(drawn, VERIFICATION, settings.n_prompts)
        complete = {} if twin else completeness_of_planted(decoder, drawn, fresh, settings.greedy, seed)
    grids["attribution"] = attribution_effects(decoder, partner, batch)
    grids["random"] = np.random.default_rng(seed).random((len(PLACES), N_LAYERS * N_HEADS))
    answers = {
        (*divmod(head, N_HEADS), PLACE_OF_RECEIVER[receiver]): name
        for receiver, of_receiver in classes.items()
        for head, name in of_receiver.items()
        if name not in UNNAMED
    }
    right = sum(answers.get(node) == name for node, name in TRUTH.items())
    record = {
        "seed": float(seed),
        "twin": float(twin),
        "named_right": right / len(TRUTH),
        "named_wrong": float(len(answers) - right),
        "named_any": float(len(answers)),
        **{f"auroc_{name}": recovery(grid) for name, grid in grids.items()},
        **{f"largest_{name}": grid.max() for name, grid in grids.items()},
        **{f"median_{name}": float(np.median(grid[planted_nodes()])) for name, grid in grids.items()},
        **score_recovery(scores),
        **complete,
    }
    return node_table(grids, seed, twin), record


def path_scores(effects: Effects) -> Float[np.ndarray, "place head"]:
    """Largest effect of each head over the receiver sets at each position; 0 where no sweep was run."""
    scores = np.zeros((len(PLACES), N_LAYERS * N_HEADS))
    for receiver, values in effects.values.items():
        row = PLACES.index(PLACE_OF_RECEIVER[receiver])
        change = np.abs((values[..., 0] - values[..., 1]).mean(1))
        scores[row] = np.maximum(scores[row], change)
    return scores


def activation_effects(decoder: Decoder, cache: Cache, partner: Cache, batch: Batch) -> Float[np.ndarray, "place head"]:
    """Size of the mean effect of noising each head at each position."""
    clean = name_logits(decoder, at_position(cache.final, batch.at("end"))[None], batch)
    rows = []
    for place in PLACES:
        layers = range(decoder.n_layers)
        patched = patch_heads(decoder, cache, partner, layers, batch.at(place), batch.at("end"))
        change = name_logits(decoder, patched, batch) - clean
        rows.append(np.abs((change[..., 0] - change[..., 1]).mean(1)))
    return np.stack(rows)


def attribution_effects(decoder: Decoder, partner: Cache, batch: Batch) -> Float[np.ndarray, "place head"]:
    """First-order estimate of the same effects: one forward and one backward pass for all nodes."""
    outputs: list[Tensor] = []

    def watch(layer: int, z: Tensor) -> Tensor:
        outputs.append(z.detach().requires_grad_() if not z.requires_grad else z)
        outputs[-1].retain_grad()
        return outputs[-1]

    final = decoder.forward(batch.tokens("original"), batch.mask, watch).final
    logits = read_names(decoder.bridge, at_position(final, batch.at("end"))[:, None], batch.names)[:, 0]
    torch.autograd.backward((logits[:, 0] - logits[:, 1]).sum())
    rows = []
    for place in PLACES:
        parts = []
        for z, other in zip(outputs, partner.z, strict=True):
            assert z.grad is not None
            change = (at_position(other, batch.at(place)) - at_position(z.detach(), batch.at(place))) * at_position(
                z.grad, batch.at(place)
            )
            parts.append(change.sum(-1).mean(0))
        rows.append(torch.cat(parts).abs().double().numpy())
    return np.stack(rows)


def planted_nodes() -> Bool[np.ndarray, "place head"]:
    """True at the seven planted nodes."""
    truth = np.zeros((len(PLACES), N_LAYERS * N_HEADS), dtype=bool)
    for layer, head, place in TRUTH:
        truth[PLACES.index(place), layer * N_HEADS + head] = True
    return truth


def recovery(grid: Float[np.ndarray, "place head"]) -> float:
    """Area under the ROC curve of a score against the planted nodes; ties count half."""
    return float(auroc(grid.flatten(), planted_nodes().flatten()))


def node_table(grids: dict[str, Float[np.ndarray, "place head"]], seed: int, twin: bool) -> pd.DataFrame:
    """One row per finder and node."""
    rows = [
        {
            "seed": seed,
            "model": "twin" if twin else "planted",
            "finder": finder,
            "layer": head // N_HEADS,
            "head": head % N_HEADS,
            "place": place,
            "score": grid[row, head],
            "planted": TRUTH.get((head // N_HEADS, head % N_HEADS, place), ""),
        }
        for finder, grid in grids.items()
        for row, place in enumerate(PLACES)
        for head in range(N_LAYERS * N_HEADS)
    ]
    return pd.DataFrame(rows)


def score_recovery(scores: HeadScores) -> dict[str, float]:
    """`auroc_score_<name>` of each score of `JOBS`, and the least and the mean of them."""
    values = {name: score.mean for name, score in (scores.contrasts | scores.copying).items()}
    values |= {f"random_{name}": score for name, score in scores.random_tokens.items()}
    areas = {}
    for name, (direction, kinds) in JOBS.items():
        truth = np.zeros(N_LAYERS * N_HEADS, dtype=bool)
        truth[[layer * N_HEADS + head for (layer, head, _), kind in TRUTH.items() if kind in kinds]] = True
        areas[f"auroc_score_{name}"] = float(auroc(direction * values[name.removesuffix("_turned")], truth))
    return areas | {
        "auroc_scores_smallest": min(areas.values()),
        "auroc_scores_mean": float(np.mean(list(areas.values()))),
    }


def completeness_of_planted(
    decoder: Decoder, prompts: list[Prompt], fresh: list[Prompt], greedy: Greedy, seed: int
) -> dict[str, float]:
    """Largest greedy gap of the complete circuit and of the one without `LEFT_OUT`, and what both keep of F(M).

    Args:
        decoder: a planted model.
        prompts: those that means are made of.
        fresh: those that are measured.
        greedy: size of the search.
        seed: of the search.
    """
    where = KnockOut(decoder, fresh, template_means(decoder, prompts), decoder.W_O[0].device.type, BATCH_SIZE)
    nodes = {Node(layer, head, place): kind for (layer, head, place), kind in TRUTH.items()}
    model = float(where.differences([EVERYTHING], remove=True).mean())
    record = {}
    for name, left_out in (("complete", ""), ("incomplete", LEFT_OUT)):
        circuit = frozenset(node for node, kind in nodes.items() if kind != left_out)
        record[f"faithfulness_{name}"] = float(where.differences([circuit]).mean()) / model
        values = np.stack([value for _, value in grown_parts(where, circuit, greedy, seed)])
        record[f"greedy_gap_{name}"] = float(gaps(values, model).max())
    return record


def measure(records: pd.DataFrame) -> dict[str, Metric]:
    """Each quantity on planted models against their twins, over seeds."""
    planted, twins = (records[records["twin"] == twin].set_index("seed") for twin in (0.0, 1.0))
    scores = ["auroc_scores_smallest", "auroc_scores_mean", *(f"auroc_score_{name}" for name in JOBS)]
    metrics = {}
    for name in [*(f"auroc_{finder}" for finder in FINDERS), *scores, "named_right", "named_wrong", "named_any"]:
        controls = {"twin": twins[name].tolist()}
        if name == "auroc_scores_smallest":
            controls["mean_in_twin"] = twins["auroc_scores_mean"].tolist()
        metrics[name] = over_seeds(
            planted[name].tolist(),
            unit="heads" if name in ("named_wrong", "named_any") else "share",
            formula="area under the ROC curve" if name.startswith("auroc") else name.replace("_", " "),
            controls=controls,
        )
    sizes = [
        relative_sizes(sizes_of(one, "largest"), sizes_of(one, "median"), sizes_of(twin, "largest"))
        for one, twin in zip(planted.to_dict("records"), twins.loc[planted.index].to_dict("records"), strict=True)
    ]
    metrics["named_right"] = with_width(metrics["named_right"])  # all heads of five models say no more than Wilson
    metrics |= measure_sizes(pd.DataFrame(sizes))
    for name, text in (
        ("greedy_gap", "largest |F(M-K) - F(C-K)| / F(M), K grown greedily"),
        ("faithfulness", "F(C) / F(M)"),
    ):
        metrics[f"{name}_incomplete"] = over_seeds(
            planted[f"{name}_incomplete"].tolist(),
            unit="1",
            formula=f"{text}; planted circuit without its duplicate-token head; control: with it",
            controls={"complete_circuit": planted[f"{name}_complete"].tolist()},
        )
    return metrics


def sizes_of(record: dict[Hashable, float], size: str) -> dict[str, float]:
    """The largest or median score of each finder but the random one."""
    return {name: record[f"{size}_{name}"] for name in FINDERS[:-1]}


if __name__ == "__main__":
    run_step(ground_truth)
