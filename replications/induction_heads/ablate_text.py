"""Step: removes induction heads from models of natural text, with all patterns kept, all along training.

Olsson et al. 2022, argument 3: the pattern-preserving ablation and its effect on the in-context score. Heads are chosen
at the end of training on repeats of random tokens and removed on held-out text. At most half of the heads of a layer
count as induction heads, so that as many others are left: random sets of those, in the same layers, are the control.
Also removed: the previous-token heads, fully and with patterns kept.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from common.interp.head_scores import prefix_matching
from common.toys.settings import Architecture
from common.toys.transformer import Ablation, Weights, forward, token_losses
from replications.induction_heads.arm import ArmResult, load_arm
from replications.induction_heads.data import CHOOSING, JUDGING, HeldOut
from replications.induction_heads.evaluation import SHARE_OF_BEST, losses_on, patterns, scores, without
from replications.induction_heads.settings import AblateText
from replications.induction_heads.text_evaluation import (
    Stretches,
    in_context_score,
    random_repeats_of,
    stretches_of,
    usual_tokens,
)

END = -1  # snapshot
Heads = Bool[Tensor, "instance layer head"]


class AblateTextFiles(Files):
    arms: list[Path]
    tokens: Path
    metrics: Path
    table: Path
    """in-context score without each group of heads, by arm, snapshot and seed"""


def ablate_text(files: AblateTextFiles, settings: AblateText) -> None:
    """Writes the metrics and the table of all ablations."""
    stored = load_file(files.tokens)
    held = stretches_of(stored["held_out"].long(), settings.contexts)
    found: dict[str, Metric] = {}
    rows: list[dict[str, object]] = []
    for path in files.arms:
        arm = load_arm(path)
        known = usual_tokens(stored["train"].long(), arm.shape.d_vocab)
        choosing, judging = (random_repeats_of(known, arm.text, settings.repeats, seed) for seed in (CHOOSING, JUDGING))
        groups = groups_of(arm.weights(END), arm.shape, choosing, settings.draws)
        for index, step in enumerate(arm.snapshots_at):
            measured = removals(arm.weights(index), arm.shape, held, groups)
            rows += _rows(path.stem, arm, step, measured)
        found |= {f"{what}_{path.stem}": metric for what, metric in _summary(measured, groups).items()}
        found |= {f"{what}_{path.stem}": metric for what, metric in _steering(arm, judging, groups).items()}
    write_metrics(files.metrics, found)
    write_table(files.table, rows)


def groups_of(weights: Weights, shape: Architecture, chosen_on: HeldOut, draws: int) -> dict[str, Heads]:
    """Induction heads, previous-token heads, and sets of other heads as many in each layer as there are induction heads
    (`random_0`, ...) or previous-token heads (`other_first`, those with the lowest score)."""
    cache: Weights = {}
    losses_on(weights, chosen_on, shape, cache=cache)
    found = scores(patterns(cache, shape), chosen_on)
    induction = strongest(found["prefix"])
    previous = found["previous"].clone()
    previous[:, 1:] = 0
    leading = strongest(previous)
    generator = torch.Generator().manual_seed(0)
    groups = {"induction": induction, "previous": leading, "other_first": others(leading, -found["previous"])}
    for k in range(draws):
        groups[f"random_{k}"] = others(induction, torch.rand(induction.shape, generator=generator))
    return groups


def strongest(score: Float[Tensor, "instance layer head"]) -> Heads:
    """Heads with at least half of the best score; in each layer at most half of the heads, the best ones."""
    enough: Tensor = score >= SHARE_OF_BEST * score.amax((1, 2), keepdim=True)
    return enough & (_rank(score) < score.shape[-1] // 2)


def others(heads: Heads, preference: Float[Tensor, "instance layer head"]) -> Heads:
    """As many other heads in each layer, those with the highest `preference`."""
    chosen: Tensor = _rank(preference.masked_fill(heads, -torch.inf)) < heads.sum(-1, keepdim=True)
    return chosen


def _rank(score: Float[Tensor, "instance layer head"]) -> Tensor:
    """Place of each head in its layer, 0 the highest."""
    return (-score).argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)


def removals(
    weights: Weights, shape: Architecture, held: Stretches, groups: dict[str, Heads]
) -> dict[str, Float[Tensor, " instance"]]:
    """In-context score intact, and without each group of heads with all patterns kept."""
    every: dict[str, list[Tensor]] = {name: [] for name in ("intact", *groups)}
    for tokens in (held.long, held.short):
        for name, losses in _losses(weights, shape, tokens, groups):
            every[name].append(losses)
    return {name: in_context_score(long, short, held.contexts) for name, (long, short) in every.items()}


def _losses(
    weights: Weights, shape: Architecture, tokens: Tensor, groups: dict[str, Heads]
) -> Iterator[tuple[str, Tensor]]:
    repeated = tokens.expand(len(weights["embed.W_E"]), -1, -1)
    cache: Weights = {}
    with torch.no_grad():
        yield "intact", token_losses(forward(weights, repeated, shape, cache=cache), repeated)
        for name, heads in groups.items():
            yield name, token_losses(forward(weights, repeated, shape, ablation=without(heads, cache)), repeated)


def _summary(measured: dict[str, Tensor], groups: dict[str, Heads]) -> dict[str, Metric]:
    """Share of the in-context score that goes with the heads, at the end of training."""
    lost = {name: (1 - value / measured["intact"]).tolist() for name, value in measured.items()}
    random = torch.tensor([values for name, values in lost.items() if name.startswith("random_")]).mean(0)
    formula = "1 - in-context score without the heads / in-context score; patterns kept, end of training"
    return {
        "lost": over_seeds(
            lost["induction"], unit="share", formula=formula,
            controls={"random_heads": random.tolist(), "previous_token_heads": lost["previous"]},
        ),
        "n_induction": over_seeds(
            groups["induction"].sum((1, 2)).double().tolist(), unit="heads", formula="heads counted as induction heads"
        ),
    }  # fmt: skip


def _steering(arm: ArmResult, judging: HeldOut, groups: dict[str, Heads]) -> dict[str, Metric]:
    """Share of the best prefix score that is lost without the previous-token heads; patterns free."""
    if arm.shape.n_layers == 1:
        return {}
    weights = arm.weights(END)

    def prefix(ablation: Ablation | None) -> Tensor:
        cache: Weights = {}
        with torch.no_grad():
            losses_on(weights, judging, arm.shape, cache=cache, ablation=ablation)
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


def _rows(name: str, arm: ArmResult, step: int, measured: dict[str, Tensor]) -> list[dict[str, object]]:
    return [
        {"arm": name, "step": step, "seed": seed, "group": group.partition("_")[0], "score": float(values[k])}
        for group, values in measured.items()
        for k, seed in enumerate(arm.seeds)
    ]


if __name__ == "__main__":
    run_step(ablate_text)
