"""The block `gpu` of `docs/performance.md`: what runs on a GPU took and found, from the records in `figures/gpu/`.

These records stand beside the reference run, which is one of a CPU. A landmark counts as judged alike if both give it
the same verdict.
"""

from pathlib import Path
from typing import Any

from common.core.claims import Claim
from common.core.files import read_json
from common.core.verify import NOT_RUN, read_claims
from common.data.corpora import judging_split
from common.publish.claims_page import value

GPU = "gpu"  # the scale, and the folder of its records
NOTHING = "No run on a GPU is recorded yet: `make SCALE=gpu`, then `make record SCALE=gpu`."
HEADER = [
    "| replication | steps | CPU, min | in steps on the GPU, min | memory of the GPU, GB | reproduced | as at `full` |",
    "|---|---|---|---|---|---|---|",
]


def gpu_block(folder: Path) -> str:
    """Cost and verdicts of each recorded replication, its pictures, and the landmarks judged otherwise at `full`."""
    if not (folder / GPU / "records.json").exists():
        return NOTHING
    known: dict[str, dict[str, Any]] = read_json(folder / GPU / "records.json")
    here = _landmarks(folder / GPU / "claims.json")
    there = {(claim.id, claim.model): claim for claim in _landmarks(folder / "claims.json")}
    both = [(claim, there[claim.id, claim.model]) for claim in here if (claim.id, claim.model) in there]
    lines = [*_origins(known), "", *HEADER]
    for name, origin in known.items():
        cost, own = origin["cost"], [claim for claim in here if claim.replication == name]
        twice = [pair for pair in both if pair[0].replication == name]
        cells = [
            name,
            str(cost["steps"]),
            *(f"{cost[key] / 60:.1f}" for key in ("cpu_s", "gpu_s")),
            f"{cost['peak_gpu_mb'] / 1000:.1f}",
            f"{sum(claim.verdict == 'reproduced' for claim in own)} of {len(own)}",
            f"{sum(one.verdict == other.verdict for one, other in twice)} of {len(twice)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if differ := [(one, other) for one, other in both if one.verdict != other.verdict]:
        lines += ["", "Judged otherwise:", ""]
        lines += [
            f"- `{one.id}`: {one.verdict} with {value(one)} on the GPU, {other.verdict} with {value(other)} at `full`."
            for one, other in differ
        ]
    pictures = [f"{GPU}/{name}/{path.name}" for name in known for path in sorted((folder / GPU / name).glob("*.png"))]
    shown = [f'<img src="../{folder.name}/{path}" width="400" alt="{Path(path).stem}, scale gpu">' for path in pictures]
    return "\n".join([*lines, "", *shown]).rstrip()


def _landmarks(path: Path) -> list[Claim]:
    return [claim for claim in read_claims(path) if claim.tier == "landmark" and claim.verdict not in (None, NOT_RUN)]


def _origins(known: dict[str, dict[str, Any]]) -> list[str]:
    """One sentence for each run: device, seeds, commit."""
    runs: dict[tuple[str, str, str], list[str]] = {}
    for name, origin in known.items():
        kind = "calibration seeds, which set the seals: not scored yet"
        seeds = kind if judging_split(origin["seeds"]) == "validation" else "scoring seeds"
        seeds += f" ({origin['seeds'][0]} to {origin['seeds'][-1]})"
        runs.setdefault((origin["device"], seeds, origin["commit"]), []).append(name)
    return [
        f"{', '.join(names)}: {device}; {seeds}; commit `{commit[:8]}`."
        for (device, seeds, commit), names in runs.items()
    ]
