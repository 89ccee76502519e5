"""What claims that were never sealed name and a run has not measured: a misspelt metric or control of a new claim.

A run at `smoke` judges nothing, so that such a slip would show at the first calibration alone, minutes or hours later.
"""

from collections.abc import Sequence
from pathlib import Path

from common.core.claims import Landmark, load_claims
from common.core.errors import UserError
from common.core.lock import read_lock
from common.core.metrics import read_metrics


def unmeasured(replication: str, results: Path, models: Sequence[str]) -> list[str]:
    """One sentence for each unsealed claim whose part was measured without its metric or without exactly its controls.

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
        for model in ("toy", *models):
            try:
                metrics = read_metrics(results / replication / model / claim.part / "metrics.json")
            except UserError:
                continue  # not measured
            if claim.metric not in metrics:
                known = ", ".join(sorted(metrics))
                said.append(
                    f"{named} names the metric '{claim.metric}', which part '{claim.part}' lacks; it has {known}"
                )
                break
            carried = {control.name for control in metrics[claim.metric].controls}
            if missing := sorted(set(claim.controls) - carried):
                there = ", ".join(sorted(carried)) or "none"
                said.append(f"{named} lists the control '{missing[0]}', which its metric lacks; it has {there}")
                break
            if isinstance(claim, Landmark) and (left := sorted(carried - set(claim.controls))):
                said.append(f"{named} leaves out the control '{left[0]}', which its metric has; list every control")
                break
    return said
