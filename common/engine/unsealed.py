"""What claims that were never sealed name and a run has not measured: a misspelt part, metric or control.

A run at `smoke` judges nothing, so that such a slip would show at the first calibration alone, minutes or hours later.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from common.core.claims import Landmark, load_claims
from common.core.errors import UserError
from common.core.lock import read_lock
from common.core.metrics import read_metrics


def unmeasured(replication: str, results: Path, models: Sequence[str]) -> list[str]:
    """One sentence for each unsealed claim whose part was measured without its metric or without exactly its controls,
    or not at all, though `smoke` measures every part and the claim's own scales measure its own.

    Checks are never sealed, so they count only where no landmark of their replication is sealed.

    Args:
        replication: its name.
        results: those of a run, such as `results/smoke`.
        models: the language models of the run.
    """
    sealed, said = read_lock(replication).claims, []
    for claim in load_claims(replication):
        if claim.id in sealed if isinstance(claim, Landmark) else bool(sealed):
            continue
        named = f"claim {replication}.{claim.id}"
        of = [model for model in claim.models if model in ("toy", *models)]
        parts = {path.parent.name for model in of for path in (results / replication / model).glob("*/metrics.json")}
        if parts and claim.part not in parts and results.name in ("smoke", *claim.scales):
            said.append(f"{named} names the part '{claim.part}', which no step measures; there is {listed(parts)}")
        for model in of:
            try:
                metrics = read_metrics(results / replication / model / claim.part / "metrics.json")
            except UserError:
                continue  # not measured
            if claim.metric not in metrics:
                lacks = f"which part '{claim.part}' lacks; it has {listed(metrics)}"
                said.append(f"{named} names the metric '{claim.metric}', {lacks}")
                break
            carried = {control.name for control in metrics[claim.metric].controls}
            if missing := sorted(set(claim.controls) - carried):
                lacks = f"which its metric lacks; it has {listed(carried)}"
                said.append(f"{named} lists the control '{missing[0]}', {lacks}")
                break
            if isinstance(claim, Landmark) and (left := sorted(carried - set(claim.controls))):
                said.append(f"{named} leaves out the control '{left[0]}', which its metric has; list every control")
                break
    return said


def listed(names: Iterable[str]) -> str:
    """`a, b`, or `none`."""
    return ", ".join(sorted(names)) or "none"
