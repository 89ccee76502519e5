"""The block `gpu` of `docs/gpu.md`: what runs on a GPU took and found, from the records in `figures/gpu/`.

These records stand beside the reference run, which is one of a CPU. They are not renewed with every edit: their commit
is named. Of landmarks those count that are landmarks in both and that both runs have judged.
"""

from pathlib import Path
from typing import Any

from common.core.claims import Claim
from common.core.files import read_json
from common.core.settings import ROOT
from common.core.verify import NOT_RUN, read_claims
from common.publish.claims_page import value
from common.publish.reference import is_calibration, seed_list

GPU_PAGE = ROOT / "docs" / "gpu.md"
GPU = "gpu"  # the scale, and the folder of its records
NOTHING = "No run on a GPU is recorded yet: `make SCALE=gpu`, then `make record SCALE=gpu`."
HEADER = [
    "| replication | steps | CPU, min | on the GPU, min | memory there, GB | reproduced | as at `full` | checks |",
    "|---|---|---|---|---|---|---|---|",
]


def gpu_block(folder: Path) -> str:
    """Cost and verdicts of each recorded replication, what is judged otherwise than at `full`, and the pictures."""
    if not (folder / GPU / "records.json").exists():
        return NOTHING
    known: dict[str, dict[str, Any]] = read_json(folder / GPU / "records.json")
    claims = read_claims(folder / GPU / "claims.json")
    reference = {(claim.id, claim.model): claim for claim in read_claims(folder / "claims.json")}
    both = [
        (claim, reference[claim.id, claim.model])
        for claim in claims
        if claim.tier == "landmark" and (claim.id, claim.model) in reference
        if reference[claim.id, claim.model].tier == "landmark"
    ]
    twice = [(one, other) for one, other in both if NOT_RUN not in (one.verdict, other.verdict)]
    lines = [*_origins(known), "", *HEADER]
    for name, origin in known.items():
        cost, own = origin["cost"], [pair for pair in twice if pair[0].replication == name]
        checks = [one for one in claims if one.replication == name and one.tier == "check" and one.verdict != NOT_RUN]
        mark = " (calibration)" if is_calibration(origin) else ""
        cells = [
            name,
            str(cost["steps"]),
            *(f"{cost[key] / 60:.1f}" for key in ("cpu_s", "gpu_s")),
            f"{cost['peak_gpu_mb'] / 1000:.1f}",
            f"{sum(one.verdict == 'reproduced' for one, _ in own)} of {len(own)}{mark}",
            f"{sum(one.verdict == other.verdict for one, other in own)} of {len(own)}",
            f"{sum(one.verdict == 'holds' for one in checks)} of {len(checks)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *_otherwise(both), *_failed(claims), ""]
    pictures = [f"{GPU}/{name}/{path.name}" for name in known for path in sorted((folder / GPU / name).glob("*.png"))]
    shown = [f'<img src="../{folder.name}/{path}" width="400" alt="{Path(path).stem}, scale gpu">' for path in pictures]
    return "\n".join([*lines, *shown]).rstrip()


def _otherwise(both: list[tuple[Claim, Claim]]) -> list[str]:
    """Landmarks with another verdict than at `full`, and those judged there that have none here, with the reason."""
    found = []
    for one, other in both:
        if one.verdict == other.verdict or other.verdict == NOT_RUN:
            continue
        here = f"{one.verdict} ({one.reason})" if one.verdict == NOT_RUN else f"{one.verdict} with {value(one)}"
        newer = sorted({control.name for control in other.controls} - {control.name for control in one.controls})
        against = f", against controls that this record lacks ({', '.join(newer)})" if newer else ""
        found.append(f"- `{one.id}`: {here}; at `full` {other.verdict} with {value(other)}{against}.")
    return ["Judged otherwise than at `full`:", "", *found] if found else []


def _failed(claims: list[Claim]) -> list[str]:
    failed = [f"`{one.id}`" for one in claims if one.tier == "check" and one.verdict == "fails"]
    return ["", f"Checks that fail: {', '.join(failed)}."] if failed else []


def _origins(known: dict[str, dict[str, Any]]) -> list[str]:
    """One sentence for each run: device, versions, seeds, commit."""
    runs: dict[tuple[str, ...], list[str]] = {}
    for name, origin in known.items():
        kind = "calibration seeds, which set the seals: not scored yet" if is_calibration(origin) else "scoring seeds"
        seeds = f"{kind} ({seed_list(origin['seeds'])})"
        versions = ", ".join(f"{of} {version}" for of, version in origin.get("versions", {}).items())
        runs.setdefault((origin["device"], versions, seeds, f"commit `{origin['commit'][:8]}`"), []).append(name)
    return [f"{', '.join(names)}: {'; '.join(filter(None, about))}." for about, names in runs.items()]
