"""Step: removes induction heads from models of natural text, with all patterns kept, all along training.

Olsson et al. 2022, argument 3: the pattern-preserving ablation and its effect on the in-context score. Heads are chosen
at the end of training on repeats of random tokens (`text_roles.py`) and removed on held-out text. Controls:
- as many other heads of the same layers, random ones and those that write most
- the previous-token heads, and as many other heads of the first layer, those that write most
- in models of one layer, which cannot have induction heads, the heads with the highest prefix score

What one layer loses is given as a share of the score of the deeper model with the same seed. The score of one layer is
near zero, and a share of it says little. What the heads do besides is how much the loss after a short context rises.
Heads that cost as much there serve the model as a whole, not its far context.

A model without a head that counts as an induction head loses nothing. That is no failure of the measure: whatever
far context does there, it does without such heads.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from common.interp.head_scores import prefix_matching
from common.toys.settings import Architecture
from common.toys.transformer import Ablation, Weights
from replications.induction_heads.arm import ArmResult, load_arm
from replications.induction_heads.data import CHOOSING, JUDGING, HeldOut
from replications.induction_heads.evaluation import losses_on, patterns, without
from replications.induction_heads.settings import AblateText
from replications.induction_heads.text_evaluation import (
    PIECE,
    Stretches,
    early_losses,
    in_context_score,
    random_repeats_of,
    stretches_of,
    usual_tokens,
)
from replications.induction_heads.text_roles import Heads, groups_of

END = -1  # snapshot
BASE = "one_layer"
HELD = {
    "random_heads": "random",
    "heads_that_write_most": "writers",
    "previous_token_heads": "previous",
    "first_layer_heads": "first",
}


class AblateTextFiles(Files):
    arms: list[Path]
    tokens: Path
    metrics: Path
    table: Path
    """in-context score and loss after a short context without each group of heads, by arm, snapshot and seed"""


class Measured(NamedTuple):
    """What is measured of all instances without a group of heads."""

    score: Float[Tensor, " instance"]
    """in-context score"""
    near: Float[Tensor, " instance"]
    """loss of the same targets after a short context, nats"""


def ablate_text(files: AblateTextFiles, settings: AblateText) -> None:
    """Writes the metrics and the table of all ablations."""
    stored = load_file(files.tokens)
    held = stretches_of(stored["held_out"].long(), settings.contexts)
    found: dict[str, Metric] = {}
    rows: list[dict[str, object]] = []
    at_end: dict[str, dict[str, Measured]] = {}
    for path in files.arms:
        arm = load_arm(path)
        known = usual_tokens(stored["train"].long(), arm.shape.d_vocab)
        choosing, judging = (random_repeats_of(known, arm.text, settings.repeats, seed) for seed in (CHOOSING, JUDGING))
        groups = groups_of(arm.weights(END), arm.shape, choosing, held.long, settings.draws)
        for index, step in enumerate(arm.snapshots_at):
            measured = removals(arm.weights(index), arm.shape, held, groups)
            rows += _rows(path.stem, arm, step, measured)
        at_end[path.stem] = measured
        heads = groups["induction"].sum((1, 2)).double().tolist()
        text = "heads counted as induction heads"
        found[f"n_induction_{path.stem}"] = over_seeds(heads, unit="heads", formula=text)
        found |= {f"{what}_{path.stem}": metric for what, metric in _steering(arm, judging, groups).items()}
    for name, measured in at_end.items():
        base = None if name == BASE else at_end.get(BASE)
        found |= {f"{what}_{name}": metric for what, metric in summary(measured, base).items()}
    write_metrics(files.metrics, found)
    write_table(files.table, rows)


def removals(weights: Weights, shape: Architecture, held: Stretches, groups: dict[str, Heads]) -> dict[str, Measured]:
    """Of the intact models, and of those without each group of heads with all patterns kept."""
    long, short = (_losses(weights, shape, tokens, groups) for tokens in (held.long, held.short))
    near = {name: early_losses(losses, held.contexts).mean((1, 2)) for name, losses in short.items()}
    return {name: Measured(in_context_score(long[name], short[name], held.contexts), near[name]) for name in long}


def _losses(weights: Weights, shape: Architecture, tokens: Tensor, groups: dict[str, Heads]) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {name: [] for name in ("intact", *groups)}
    with torch.no_grad():
        for piece in torch.split(tokens, PIECE):
            cache: Weights = {}
            found["intact"].append(losses_on(weights, piece, shape, cache=cache))
            for name, heads in groups.items():
                found[name].append(losses_on(weights, piece, shape, ablation=without(heads, cache)))
    return {name: torch.cat(parts, 1) for name, parts in found.items()}


def summary(measured: dict[str, Measured], base: dict[str, Measured] | None) -> dict[str, Metric]:
    """What of the in-context score goes with the heads at the end of training, as a share and in nats, and what else.

    `base`: models of one layer for the same seeds, where the heads with the highest prefix score are removed.
    What they lose is also a share of the intact score in `measured`.
    """

    def nats(found: dict[str, Measured]) -> dict[str, Tensor]:
        return {group: one.score - found["intact"].score for group, one in found.items()}

    def shares(found: dict[str, Measured]) -> dict[str, Tensor]:
        return {group: value[:count] / -measured["intact"].score for group, value in nats(found).items()}

    def cost(found: dict[str, Measured]) -> dict[str, Tensor]:
        return {group: one.near - found["intact"].near for group, one in found.items()}

    count = len(measured["intact"].score)
    ways = {
        "lost": (shares, "share", "(in-context score without the heads - in-context score) / -in-context score"),
        "lost_nats": (nats, "nats", "in-context score without the heads - in-context score"),
        "near_cost": (cost, "nats", "loss after a short context without the heads - intact, same targets"),
    }
    found = {}
    for what, (way, unit, formula) in ways.items():
        own = _pooled(way(measured))
        controls = {control: own[group].tolist() for control, group in HELD.items()}
        if base is not None:
            controls[BASE] = way(base)["highest"][:count].tolist()
        text = f"{formula}; patterns kept, end of training; one layer: over the score of the deeper model"
        found[what] = over_seeds(own["induction"].tolist(), unit=unit, formula=text, controls=controls)
    return found


def _pooled(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same groups, all random sets as one: their mean, seed by seed."""
    drawn = [value for group, value in values.items() if group.startswith("random_")]
    return {**values, "random": torch.stack(drawn).mean(0)}


def _steering(arm: ArmResult, judging: HeldOut, groups: dict[str, Heads]) -> dict[str, Metric]:
    """Share of the best prefix score that is lost without the previous-token heads; patterns free."""
    if arm.shape.n_layers == 1:
        return {}
    weights = arm.weights(END)

    def prefix(ablation: Ablation | None) -> Tensor:
        cache: Weights = {}
        with torch.no_grad():
            losses_on(weights, judging.tokens, arm.shape, cache=cache, ablation=ablation)
        return prefix_matching(patterns(cache, arm.shape), judging.tokens).flatten(1)

    intact = prefix(None)
    best = intact.argmax(1, keepdim=True)

    def lost(group: str) -> list[float]:
        return (1 - prefix(without(groups[group])).gather(1, best) / intact.gather(1, best))[:, 0].tolist()

    metric = over_seeds(
        lost("previous"), unit="share", controls={"other_first_layer_heads": lost("other_first")},
        formula="1 - prefix score of the best head without the previous-token heads / intact; full ablation",
    )  # fmt: skip
    return {"prefix_lost": metric}


def _rows(name: str, arm: ArmResult, step: int, measured: dict[str, Measured]) -> list[dict[str, object]]:
    return [
        {"arm": name, "step": step, "seed": seed, "group": group.partition("_")[0]}
        | {what: float(values[k]) for what, values in one._asdict().items()}
        for group, one in measured.items()
        for k, seed in enumerate(arm.seeds)
    ]


if __name__ == "__main__":
    run_step(ablate_text)
