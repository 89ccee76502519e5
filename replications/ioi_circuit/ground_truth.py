"""Step: do the finders and the class rules recover a circuit that is known, and find nothing where there is none?

Models of `planted.py`, one for each seed, and for each its twin without the circuit. Nodes are heads at S1+1, S2 and
END; a finder gives each a score, judged by the area under the ROC curve against the seven planted nodes:

    path_patching       largest effect over the receiver sets at the node's position
    activation_patching effect of replacing the head's output there by that of the ABC partner, everything recomputed
    attribution         the same to first order: (z of the partner - z) times the gradient of the logit difference
    random              a random number, as a check of the ruler

In a twin, a ranking means nothing. That there is nothing to find shows in the size of the scores (twin_sizes.py).

The scores behind the class names are judged one by one (planted_scores.py). The circuit holds two heads that can stand
in for each other (induction and duplicate), and softmaxes that are nearly saturated: known difficulties of gradients.
Greedy completeness is tried on the same models (planted_completeness.py).
"""

import tempfile
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.statistics import auroc, over_seeds
from common.core.step import run, track
from common.core.tables import write_table
from common.data.models import load_model, load_tokenizer
from common.interp.decoder import Cache, Decoder
from common.interp.partial_forward import at_position
from common.interp.path_patching import patch_heads
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, Batch, balanced
from replications.ioi_circuit.classes import Named, signs
from replications.ioi_circuit.completeness import Greedy
from replications.ioi_circuit.dataset import draw_prompts, vocabulary
from replications.ioi_circuit.head_scores import attention, contrasts, copying, repeated_tokens
from replications.ioi_circuit.labels import PLACE_OF_RECEIVER
from replications.ioi_circuit.nodes import PLACES
from replications.ioi_circuit.planted import LENGTH, N_HEADS, N_LAYERS, N_NAMES, TRUTH, save_planted_model
from replications.ioi_circuit.planted_completeness import completeness_of_planted
from replications.ioi_circuit.planted_scores import JOBS, score_recovery
from replications.ioi_circuit.residual import read_names
from replications.ioi_circuit.sweeps import Effects, add_sweep, discover, read, read_runs
from replications.ioi_circuit.twin_sizes import measure_sizes, relative_sizes

FINDERS = ("path_patching", "activation_patching", "attribution", "random")


def ground_truth(
    *,
    n_prompts: int,
    minimum_percent: float,
    draws: int,
    greedy: Greedy,
    seeds: list[int],
    out: Path,
    scores: Path,
) -> None:
    """Writes `metrics.json` and one row per seed, model, finder and node.

    Args:
        n_prompts: discovery prompts, and as many verification prompts of completeness.
        minimum_percent: smallest effect that counts, percent of the logit difference of the planted model.
        draws: draws of each null distribution.
        greedy: size of the greedy search for what a circuit lacks.
        seeds: one planted model and one twin for each.
        out: `metrics.json`.
        scores: `scores.csv`.
    """
    tables, records = [], []
    for seed in track(seeds, "planted models"):
        for twin in (False, True):
            table, found = one_model(seed, twin, n_prompts, minimum_percent, draws, greedy)
            tables.append(table)
            records.append(found)
    write_metrics(out, measure(pd.DataFrame(records)))
    write_table(scores, pd.concat(tables))


def one_model(
    seed: int, twin: bool, n_prompts: int, minimum: float, draws: int, greedy: Greedy
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Scores of all nodes by all finders on one model, and how many nodes the rules named, rightly and wrongly."""
    with tempfile.TemporaryDirectory() as folder:
        save_planted_model(Path(folder), seed, twin=twin)
        decoder = Decoder(load_model(Path(folder)), LENGTH)
        words = vocabulary(load_tokenizer(Path(folder)), N_NAMES)
    drawn = draw_prompts(words, [seed], max(1, n_prompts // 14))
    prompts = balanced(drawn, DISCOVERY, n_prompts)
    batch = Batch(prompts, "cpu")
    with torch.no_grad():
        cache, own = attention(decoder, batch, "original")
        partner, abc = attention(decoder, batch, "abc")
        looks = {name: signs(values, draws) for name, values in contrasts(own, abc).items()}
        name_ids = torch.tensor(sorted(words.names.values()))
        copies = {name: signs(values, draws) for name, values in copying(decoder, cache, batch, name_ids).items()}
        repeated = repeated_tokens(decoder, LENGTH // 2 - 2, 8, seed)
        effects = Effects()
        named: Named = {}
        try:
            effects, named = discover(decoder, prompts, prompts, looks, copies, repeated, minimum, draws)
        except UserError:
            print(f"seed {seed}: no head acts on the logits and looks at the names")
            add_sweep(decoder, effects, "logits", read_runs(decoder, prompts), None)
        moved = activation_effects(decoder, cache, partner, batch)
        fresh = balanced(drawn, VERIFICATION, n_prompts)
        complete = {} if twin else completeness_of_planted(decoder, drawn, fresh, greedy, seed)
    grids = {
        "path_patching": path_scores(effects),
        "activation_patching": moved,
        "attribution": attribution_effects(decoder, partner, batch),
        "random": np.random.default_rng(seed).random((len(PLACES), N_LAYERS * N_HEADS)),
    }
    answers = {
        (*divmod(head, N_HEADS), PLACE_OF_RECEIVER[receiver]): name
        for receiver, found in named.items()
        for head, name in found.items()
        if name != "unclassified"
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
        **{f"middle_{name}": float(np.median(grid[planted_nodes()])) for name, grid in grids.items()},
        **score_recovery(looks, copies, repeated),
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
    clean = read(decoder, at_position(cache.final, batch.at("end"))[None], batch)
    rows = []
    for place in PLACES:
        layers = range(decoder.n_layers)
        found = patch_heads(decoder, cache, partner, layers, batch.at(place), batch.at("end"))
        change = read(decoder, found, batch) - clean
        rows.append(np.abs((change[..., 0] - change[..., 1]).mean(1)))
    return np.stack(rows)


def attribution_effects(decoder: Decoder, partner: Cache, batch: Batch) -> Float[np.ndarray, "place head"]:
    """First-order estimate of the same effects: one forward and one backward pass for all nodes."""
    seen: list[Tensor] = []

    def watch(layer: int, z: Tensor) -> Tensor:
        seen.append(z.detach().requires_grad_() if not z.requires_grad else z)
        seen[-1].retain_grad()
        return seen[-1]

    final = decoder.forward(batch.tokens("original"), batch.mask, watch).final
    logits = read_names(decoder.bridge, at_position(final, batch.at("end"))[:, None], batch.names)[:, 0]
    torch.autograd.backward((logits[:, 0] - logits[:, 1]).sum())
    rows = []
    for place in PLACES:
        parts = []
        for z, other in zip(seen, partner.z, strict=True):
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


def measure(records: pd.DataFrame) -> dict[str, Metric]:
    """Each quantity on planted models, on twins, and their paired difference, over seeds."""
    scores = ["auroc_scores_smallest", "auroc_scores_mean", *(f"auroc_score_{name}" for name in JOBS)]
    names = [*(f"auroc_{finder}" for finder in FINDERS), *scores, "named_right", "named_wrong", "named_any"]
    metrics = {}
    planted, twins = (records[records["twin"] == twin].set_index("seed") for twin in (0.0, 1.0))
    for name in names:
        unit = "heads" if name in ("named_wrong", "named_any") else "share"
        text = "area under the ROC curve" if name.startswith("auroc") else name.replace("_", " ")
        metrics[name] = over_seeds(planted[name].tolist(), unit=unit, formula=text)
        metrics[f"{name}_twin"] = over_seeds(twins[name].tolist(), unit=unit, formula=f"{text}, twin")
        gap = (planted[name] - twins[name]).tolist()
        metrics[f"{name}_minus_twin"] = over_seeds(gap, unit=unit, formula=f"{text}, planted minus twin")
    gap = (planted["auroc_scores_smallest"] - twins["auroc_scores_mean"]).tolist()
    text = "smallest area of the scores behind the class names, minus their mean area in the twin"
    metrics["auroc_scores_smallest_minus_mean_twin"] = over_seeds(gap, unit="share", formula=text)
    gap = (twins["named_any"] - planted["named_any"]).tolist()
    metrics["named_any_twin_minus_planted"] = over_seeds(gap, unit="heads", formula="named in the twin minus planted")
    sizes = [
        relative_sizes(sizes_of(one, "largest"), sizes_of(one, "middle"), sizes_of(twin, "largest"))
        for one, twin in zip(planted.to_dict("records"), twins.loc[planted.index].to_dict("records"), strict=True)
    ]
    metrics |= measure_sizes(pd.DataFrame(sizes))
    text = "largest |F(M-K) - F(C-K)| / F(M), K grown greedily; {} circuit"
    for name, of in (("complete", "planted"), ("incomplete", "planted, without its duplicate-token head,")):
        metrics[f"greedy_gap_{name}"] = over_seeds(
            planted[f"greedy_gap_{name}"].tolist(), unit="1", formula=text.format(of)
        )
        metrics[f"faithfulness_{name}"] = over_seeds(
            planted[f"faithfulness_{name}"].tolist(), unit="1", formula=f"F(C) / F(M); {of} circuit"
        )
    gap = (planted["greedy_gap_incomplete"] - planted["greedy_gap_complete"]).tolist()
    metrics["greedy_gap_incomplete_minus_complete"] = over_seeds(gap, unit="1", formula="incomplete minus complete")
    return metrics


def sizes_of(record: dict[Hashable, float], size: str) -> dict[str, float]:
    """The largest or median (`middle`) score of each finder but the random one."""
    return {name: record[f"{size}_{name}"] for name in FINDERS[:-1]}


if __name__ == "__main__":
    run(ground_truth)
