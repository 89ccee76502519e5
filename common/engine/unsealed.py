"""What claims that were never sealed name and a run has not measured: a misspelt metric or control of a new claim.

A run at `smoke` judges nothing, so that such a slip would show at the first calibration alone, minutes or hours later.
"""

from pathlib import Path

from common.core.claims import Landmark, load_claims
from common.core.lock import read_lock
from common.core.metrics import read_metrics


def unmeasured(replication: str, results: Path) -> list[str]:
    """One sentence for each unsealed claim whose part was measured without its metric or without exactly its controls.

    Args:
        replication: its name.
        results: those of a run, such as `results/smoke`.
    """
    sealed, said = read_lock(replication).claims, []
    for claim in (one for one in load_claims(replication) if one.id not in sealed):
        files = sorted((results / replication).glob(f"*/{claim.part}/metrics.json"))
        measured = [metrics for metrics in map(read_metrics, files) if claim.metric in metrics]
        named = f"claim {replication}.{claim.id}"
        if files and not measured:
            known = ", ".join(sorted(read_metrics(files[0])))
            said.append(f"{named} names the metric '{claim.metric}', which part '{claim.part}' lacks; it has {known}")
        if not measured:
            continue
        carried = {control.name for metrics in measured for control in metrics[claim.metric].controls}
        there = ", ".join(sorted(carried)) or "none"
        if missing := sorted(set(claim.controls) - carried):
            said.append(f"{named} lists the control '{missing[0]}', which its metric lacks; it has {there}")
        elif isinstance(claim, Landmark) and (left := sorted(carried - set(claim.controls))):
            said.append(f"{named} leaves out the control '{left[0]}', which its metric has; list every control")
    return said
