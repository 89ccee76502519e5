"""Step: removes induction heads, previous-token heads and others, with all patterns recomputed or all patterns kept.

Olsson et al. 2022, argument 3. Heads are chosen on one set of one-shot sequences and removed on another. In a full
ablation later layers see that a head is gone; in a pattern-preserving one every pattern is that of the intact model, so
that only what heads move can change, not where they look. Read-outs: in-context gain (share lost), prefix score (share
lost), and the change of per-token loss along the direction in which training changed it.
"""

from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.core.metrics import write_metrics
from common.core.step import run
from common.core.tables import Seeded, write_table
from common.interp.head_scores import prefix_matching
from common.toys.transformer import Weights
from replications.induction_heads.arm import ArmResult, load_arm
from replications.induction_heads.circuits import Roles, roles, without
from replications.induction_heads.data import CHOOSING, JUDGING, HeldOut, one_shot
from replications.induction_heads.evaluation import gain, losses_on, patterns

BEFORE = 1  # index of the snapshot before any change


def measure_ablations(*, arms: list[Path], held_out: int, metrics: Path, table: Path) -> None:
    """Writes `metrics` and one row per arm, snapshot, seed, removed group and kind of ablation."""
    found, rows = Seeded(), []
    for path in arms:
        arm = load_arm(path)
        choosing, judging = (one_shot(arm.text, held_out, seed) for seed in (CHOOSING, JUDGING))
        who = roles(arm.weights(-1), arm.shape, choosing)
        first = losses_on(arm.weights(BEFORE), judging, arm.shape)
        last = losses_on(arm.weights(-1), judging, arm.shape)
        direction = (last - first).flatten(1)
        direction = direction / direction.norm(dim=1, keepdim=True)
        for index, step in enumerate(arm.snapshots_at):
            rows += _rows(path.stem, arm, index, step, who, judging, direction)
        _summarise(found, path.stem, [row for row in rows if row["arm"] == path.stem], arm)
    write_metrics(metrics, found.found)
    write_table(table, rows)


def _rows(
    name: str,
    arm: ArmResult,
    index: int,
    step: int,
    who: Roles,
    judging: HeldOut,
    direction: Float[Tensor, "instance token"],
) -> list[dict[str, object]]:
    """Every ablation of one snapshot. The heads are those of the end of training, at all snapshots."""
    weights = arm.weights(index)
    cache: Weights = {}
    intact = losses_on(weights, judging, arm.shape, cache=cache)
    learned = gain(intact, judging)
    clean_prefix = prefix_matching(patterns(cache, arm.shape), judging.tokens)
    rows: list[dict[str, object]] = []
    for group, heads in who._asdict().items():
        for kind, kept in (("full", None), ("pattern-preserving", cache)):
            changed, prefix = _ablate(weights, arm, judging, heads, kept)
            along = ((changed - intact).flatten(1) * direction).sum(1)
            left = gain(changed, judging)
            for k, seed in enumerate(arm.seeds):
                best = clean_prefix[k].flatten().argmax()
                rows.append(
                    {
                        "arm": name,
                        "step": step,
                        "seed": seed,
                        "group": group,
                        "kind": kind,
                        "heads": int(heads[k].sum()),
                        "gain": float(learned[k]),
                        "gain_without": float(left[k]),
                        "prefix": float(clean_prefix[k].flatten()[best]),
                        "prefix_without": float(prefix[k].flatten()[best]),
                        "along": float(along[k]),
                    }
                )
    return rows


def _ablate(
    weights: Weights, arm: ArmResult, judging: HeldOut, heads: Bool[Tensor, "instance layer head"], kept: Weights | None
) -> tuple[Float[Tensor, "instance batch next"], Float[Tensor, "instance layer head"]]:
    cache: Weights = {}
    with torch.no_grad():
        losses = losses_on(weights, judging, arm.shape, cache=cache, ablation=without(heads, kept))
    return losses, prefix_matching(patterns(cache, arm.shape), judging.tokens)


def _summarise(found: Seeded, name: str, rows: list[dict[str, object]], arm: ArmResult) -> None:
    """Shares lost at the end of training, and the absolute loss of gain before the change."""

    def column(step: int, group: str, kind: str, what: str) -> list[float]:
        return [
            float(str(row[what])) for row in rows if (row["step"], row["group"], row["kind"]) == (step, group, kind)
        ]

    end, before = arm.snapshots_at[-1], arm.snapshots_at[BEFORE]
    for group in Roles._fields:
        for kind in ("full", "pattern-preserving"):
            short = f"{group}_{'full' if kind == 'full' else 'kept'}_{name}"
            for what in ("gain", "prefix"):
                intact, without_them = column(end, group, kind, what), column(end, group, kind, f"{what}_without")
                lost = [1 - b / a for a, b in zip(intact, without_them, strict=True)]
                text = f"1 - {what} without the heads / {what} of the intact model; {group} heads, {kind} ablation"
                found.add(f"{what}_lost_{short}", lost, "share", text)
            early = zip(column(before, group, kind, "gain"), column(before, group, kind, "gain_without"), strict=True)
            text = f"gain of the intact model minus gain without the heads, before the change; {group} heads, {kind}"
            found.add(f"drop_before_{short}", [a - b for a, b in early], "nats", text)
            text = f"loss change along the unit before-to-after vector; {group} heads, {kind} ablation, end of training"
            found.add(f"along_{short}", column(end, group, kind, "along"), "nats", text)
    found.add(
        f"n_induction_{name}", column(end, "induction", "full", "heads"), "heads", "heads counted as induction heads"
    )
    found.add(
        f"n_previous_{name}", column(end, "previous", "full", "heads"), "heads", "heads counted as previous-token heads"
    )
    for what in ("gain", "prefix"):
        for effect, control in (
            ("induction_kept", "others_kept"),
            ("induction_full", "others_full"),
            ("previous_full", "previous_kept"),
            ("previous_kept", "previous_full"),
            ("previous_full", "other_first_full"),
            ("previous_kept", "induction_kept"),
        ):
            pair = f"{what}_lost_{effect}_minus_{control}_{name}"
            found.minus(pair, f"{what}_lost_{effect}_{name}", f"{what}_lost_{control}_{name}")
    found.minus(f"along_induction_minus_others_{name}", f"along_induction_kept_{name}", f"along_others_kept_{name}")


if __name__ == "__main__":
    run(measure_ablations)
