"""Step: what the induction heads of natural text write and whom they read, from their weights alone.

Composition and eigenvalue scores are those of Elhage et al. 2021, copying scores those of Olsson et al. 2022. They are
asked of the leading induction head and the leading previous-token head of every model. Both are chosen by their
patterns on repeats of random tokens at the end of training. Controls: the same two heads before training; the mean over
the other heads of the same layer; Q- and V-composition of the same two heads.
"""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from common.interp.head_scores import HeadWeights, composition, eigenvalue_score, random_heads
from common.toys.transformer import Weights
from replications.induction_heads.arm import ArmResult, load_arm
from replications.induction_heads.data import CHOOSING
from replications.induction_heads.evaluation import embedding, head_weights, losses_on, patterns, scores
from replications.induction_heads.settings import TextHeads
from replications.induction_heads.text_evaluation import random_repeats_of, sampled_copying, usual_tokens
from replications.induction_heads.text_roles import strongest

START, END = 0, -1  # snapshots
DRAWS, QUANTILE = 400, 0.99
KINDS = ("K", "Q", "V")
WRITES = {
    "ov_eigenvalues": "OV eigenvalue score of the leading induction head",
    "copying": "copying score of the leading induction head, mean over samples of 25 tokens",
}

Scores = Float[Tensor, "instance layer head"]
Leading = Int[Tensor, " instance"]


class MeasureTextHeadsFiles(Files):
    arms: list[Path]
    tokens: Path
    metrics: Path
    heads: Path
    """scores of every head before and after training"""


def measure_text_heads(files: MeasureTextHeadsFiles, settings: TextHeads) -> None:
    """Writes the metrics and the scores of every head."""
    stream = load_file(files.tokens)["train"].long()
    found: dict[str, Metric] = {}
    rows: list[dict[str, object]] = []
    for path in files.arms:
        arm = load_arm(path)
        known = usual_tokens(stream, arm.shape.d_vocab)
        attention = attended(arm, known, settings.repeats)
        previous, induction = (attention[name].flatten(1).argmax(1) for name in ("previous_first", "prefix"))
        tables = {index: weight_scores(arm, index, known, previous) for index in (START, END)}
        found |= {
            f"{what}_{path.stem}": metric
            for what, metric in summary(arm, tables, induction, strongest(attention["prefix"])).items()
        }
        rows += [row for index, table in tables.items() for row in _rows(path.stem, arm, index, attention | table)]
    write_metrics(files.metrics, found)
    write_table(files.heads, rows)


def attended(arm: ArmResult, known: Int[Tensor, " known"], repeats: int) -> dict[str, Scores]:
    """Prefix and previous-token scores at the end of training; `previous_first` is -1 above the first layer."""
    weights, shape = arm.weights(END), arm.shape
    choosing, cache = random_repeats_of(known, arm.text, repeats, CHOOSING), Weights()
    losses_on(weights, choosing.tokens, shape, cache=cache)
    found = scores(patterns(cache, shape), choosing)
    first = found["previous"].clone()
    first[:, 1:] = -1
    return {"prefix": found["prefix"], "previous": found["previous"], "previous_first": first}


def weight_scores(arm: ArmResult, index: int, known: Int[Tensor, " known"], previous: Leading) -> dict[str, Scores]:
    """Scores of every head from the weights of one snapshot. Composition is that with the leading previous-token head,
    over the 99th percentile of pairs of random heads."""
    weights, shape = arm.weights(index), arm.shape
    one, table = head_weights(weights, shape), embedding(weights)
    found: dict[str, Scores] = {
        "ov_eigenvalues": eigenvalue_score(table @ one.W_V, one.W_O @ weights["unembed.W_U"][:, None, None]),
        "copying": sampled_copying(weights, shape, known),
    }
    source = HeadWeights(*(W[torch.arange(len(previous)), 0, previous][:, None, None] for W in one))
    null, other = (random_heads(shape.d_model, shape.d_head, DRAWS, seed=seed) for seed in (0, 1))
    for kind in KINDS:
        limit = float(composition(kind, null, other).quantile(QUANTILE))
        found[f"{kind.lower()}_composition"] = composition(kind, source, one) / limit
    return found


def summary(
    arm: ArmResult, tables: dict[int, dict[str, Scores]], induction: Leading, heads: Tensor
) -> dict[str, Metric]:
    """Metrics of the leading induction head; composition where there is an earlier layer to read."""
    end, start = tables[END], tables[START]

    def leading(table: dict[str, Scores], what: str) -> list[float]:
        return table[what].flatten(1).gather(1, induction[:, None])[:, 0].tolist()

    def others(what: str) -> list[float]:
        """Mean over the heads of the leading head's layer that are no induction heads."""
        layer = torch.div(induction, arm.shape.n_heads, rounding_mode="floor")
        at = torch.arange(len(layer))
        rest = (~heads[at, layer]).to(end[what].dtype)
        return ((end[what][at, layer] * rest).sum(-1) / rest.sum(-1)).tolist()

    found = {
        what: over_seeds(
            leading(end, what), unit="1", formula=text,
            controls={"before_training": leading(start, what), "other_heads": others(what)},
        )
        for what, text in WRITES.items()
    }  # fmt: skip
    if arm.shape.n_layers > 1:
        found["k_composition"] = over_seeds(
            leading(end, "k_composition"), unit="1",
            formula="K-composition of the leading heads over the 99th percentile of random heads",
            controls={
                "before_training": leading(start, "k_composition"), "other_heads": others("k_composition"),
                "q_composition": leading(end, "q_composition"), "v_composition": leading(end, "v_composition"),
            },
        )  # fmt: skip
    return found


def _rows(name: str, arm: ArmResult, index: int, table: dict[str, Scores]) -> list[dict[str, object]]:
    shown = [what for what in table if what != "previous_first"]
    return [
        {"arm": name, "step": arm.snapshots_at[index], "seed": seed, "layer": layer, "head": head}
        | {what: float(table[what][k, layer, head]) for what in shown}
        for k, seed in enumerate(arm.seeds)
        for layer in range(arm.shape.n_layers)
        for head in range(arm.shape.n_heads)
    ]


if __name__ == "__main__":
    run_step(measure_text_heads)
