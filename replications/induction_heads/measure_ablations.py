"""Step: removes induction heads, previous-token heads and others, with all patterns recomputed or all patterns kept.

Olsson et al. 2022, argument 3. Heads are chosen on one set of one-shot sequences and removed on another. In a full
ablation later layers see that a head is gone. In a pattern-preserving one every pattern is that of the intact model, so
that only what heads move can change, not where they look. Read-outs: shares lost of in-context gain and prefix score.
"""

from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from common.interp.head_scores import prefix_matching
from common.toys.transformer import Weights
from replications.induction_heads.arm import ArmResult, load_arm
from replications.induction_heads.data import CHOOSING, JUDGING, HeldOut, one_shot
from replications.induction_heads.evaluation import Roles, gain, losses_on, patterns, roles, without
from replications.induction_heads.settings import HeldOutSize
from replications.induction_heads.text_roles import others

END = -1  # snapshot
KINDS = {"full": "full", "pattern-preserving": "kept"}  # of ablation, with their names in metrics
Removal = tuple[str, str]  # group of heads, kind of ablation
CONTROLS: dict[Removal, dict[str, Removal]] = {
    ("induction", "full"): {"lowest_prefix_heads": ("others", "full"), "random_heads": ("random", "full")},
    ("induction", "pattern-preserving"): {
        "lowest_prefix_heads": ("others", "pattern-preserving"),
        "random_heads": ("random", "pattern-preserving"),
        "previous_token_heads": ("previous", "pattern-preserving"),
    },
    ("previous", "full"): {
        "patterns_kept": ("previous", "pattern-preserving"),
        "other_first_layer_heads": ("other_first", "full"),
    },
}


class MeasureAblationsFiles(Files):
    arms: list[Path]
    metrics: Path
    table: Path
    """one row per arm, snapshot, seed, removed group and kind of ablation"""


def measure_ablations(files: MeasureAblationsFiles, settings: HeldOutSize) -> None:
    """Writes the metrics and the table of all ablations."""
    found: dict[str, Metric] = {}
    tables = []
    for path in files.arms:
        arm = load_arm(path)
        choosing, judging = (one_shot(arm.text, settings.held_out, seed) for seed in (CHOOSING, JUDGING))
        who = roles(arm.weights(END), arm.shape, choosing)
        rows = [
            row
            for index, step in enumerate(arm.snapshots_at)
            for row in _rows(path.stem, arm, index, step, who, judging)
        ]
        tables.append(pd.DataFrame(rows))
        found |= _summary(tables[-1], path.stem, arm)
    write_metrics(files.metrics, found)
    write_table(files.table, pd.concat(tables))


def _rows(name: str, arm: ArmResult, index: int, step: int, who: Roles, judging: HeldOut) -> list[dict[str, object]]:
    """Every ablation of one snapshot. The heads are those of the end of training, at all snapshots."""
    weights = arm.weights(index)
    cache: Weights = {}
    intact = losses_on(weights, judging.tokens, arm.shape, cache=cache)
    learned = gain(intact, judging)
    clean_prefix = prefix_matching(patterns(cache, arm.shape), judging.tokens)
    rows: list[dict[str, object]] = []
    for group, heads in {**who._asdict(), "random": random_others(who.induction)}.items():
        for kind, kept in (("full", None), ("pattern-preserving", cache)):
            changed, prefix = _ablate(weights, arm, judging, heads, kept)
            left = gain(changed, judging)
            for k, seed in enumerate(arm.seeds):
                best = clean_prefix[k].flatten().argmax()
                about = {"arm": name, "step": step, "seed": seed, "group": group, "kind": kind}
                about |= {"heads": int(heads[k].sum()), "gain": float(learned[k]), "gain_without": float(left[k])}
                rows.append(
                    about
                    | {
                        "prefix": float(clean_prefix[k].flatten()[best]),
                        "prefix_without": float(prefix[k].flatten()[best]),
                    }
                )
    return rows


def random_others(heads: Bool[Tensor, "instance layer head"]) -> Bool[Tensor, "instance layer head"]:
    """As many random other heads of the same layers, or all of them where fewer are left."""
    return others(heads, torch.rand(heads.shape, generator=torch.Generator().manual_seed(0))) & ~heads


def _ablate(
    weights: Weights, arm: ArmResult, judging: HeldOut, heads: Bool[Tensor, "instance layer head"], kept: Weights | None
) -> tuple[Float[Tensor, "instance batch next"], Float[Tensor, "instance layer head"]]:
    cache: Weights = {}
    with torch.no_grad():
        losses = losses_on(weights, judging.tokens, arm.shape, cache=cache, ablation=without(heads, kept))
    return losses, prefix_matching(patterns(cache, arm.shape), judging.tokens)


def _summary(table: pd.DataFrame, name: str, arm: ArmResult) -> dict[str, Metric]:
    """Shares lost at the end of training."""
    end = table[table["step"] == arm.snapshots_at[END]]

    def of(removal: Removal) -> pd.DataFrame:
        return end[(end["group"] == removal[0]) & (end["kind"] == removal[1])]

    def lost(what: str, removal: Removal) -> list[float]:
        rows = of(removal)
        return [1 - b / a for a, b in zip(rows[what], rows[f"{what}_without"], strict=True)]

    found: dict[str, Metric] = {}
    for group in (*Roles._fields, "random"):
        for kind, label in KINDS.items():
            removal, short = (group, kind), f"{group}_{label}_{name}"
            controls, about = CONTROLS.get(removal, {}), f"{group} heads, {kind} ablation"
            for what in ("gain", "prefix"):
                found[f"{what}_lost_{short}"] = over_seeds(
                    lost(what, removal),
                    unit="share",
                    formula=f"1 - {what} without the heads / {what} of the intact model; {about}",
                    controls={control: lost(what, other) for control, other in controls.items()},
                )
    for group in ("induction", "previous"):
        counts = of((group, "full"))["heads"].astype(float).tolist()
        found[f"n_{group}_{name}"] = over_seeds(counts, unit="heads", formula=f"heads counted as {group} heads")
    return found


if __name__ == "__main__":
    run_step(measure_ablations)
