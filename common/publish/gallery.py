"""`make gallery`: copies figures, the data behind them, claims, cost and provenance of finished replications into the
committed folder `figures/`, and renews what is generated from it (`common.publish.pages`).

A replication without finished results here keeps what is committed, if its sources, settings and claims are still those
of that run: adding a replication needs a run of that one alone. `figures/provenance.json` says for each replication
which commit and machine its results come from.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import tyro

from common.core.errors import UserError
from common.core.files import read_json, write_json, write_text
from common.core.settings import ROOT, replications
from common.publish.cost import costs, total
from common.publish.pages import TESTS, pages
from common.publish.reference import STATES, states

RECORDS = ("claims.json", "cost.json", "provenance.json")


def figures_of(results: Path, name: str) -> list[Path]:
    """Stems of all figures of one replication, sorted."""
    return sorted(path.with_suffix("") for path in (results / name).glob("*/*/figures/*.svg"))


def finished(results: Path, current: dict[str, str]) -> list[str]:
    """Replications with judged claims in `results`, made by the sources that are here now (`current` states)."""
    found = []
    for name, now in current.items():
        files = [results / name / record for record in ("claims.json", "provenance.json")]
        if all(path.exists() for path in files) and read_json(files[1]).get("state") == now:
            found.append(name)
    return found


def committed(folder: Path, fresh: list[str], current: dict[str, str], scale: str) -> dict[str, Any]:
    """Records of the committed gallery. UserError if a replication that is not `fresh` cannot keep its part of it."""
    found = {record: read_json(folder / record) if (folder / record).exists() else {} for record in RECORDS}
    known = read_json(folder / STATES.name) if (folder / STATES.name).exists() else {}
    origins = found["provenance.json"]
    behind = [
        name
        for name, state in current.items()
        if name not in fresh and (known.get(name) != state or origins.get(name, {}).get("scale") != scale)
    ]
    if behind:
        raise UserError(
            f"no finished results of scale {scale} are up to date, and figures/ shows older ones, of: "
            f"{', '.join(behind)}; run these, then `make gallery` again"
        )
    return found


def merged_cost(old: dict[str, Any], new: dict[str, Any], fresh: list[str]) -> dict[str, Any]:
    """The cost of `fresh` replications from `new`, of all others from `old`; of models and corpora that of `new`, and
    of `old` what the others need."""
    names = replications()
    source = {name: new if name in fresh or name not in old.get("replications", {}) else old for name in names}
    runs = [old, new] if old in source.values() else [new]
    shared = {step: cost for run in runs for step, cost in run["steps"].items() if step.startswith("models/")}
    steps = {
        step: cost for name in names for step, cost in source[name]["steps"].items() if step.startswith(f"{name}/")
    } | shared
    groups = {name: source[name]["replications"][name] for name in names if name in source[name]["replications"]}
    if shared:
        disk = max(run["replications"].get("models", {}).get("disk_mb", 0.0) for run in runs)
        groups["models"] = total(list(shared.values())) | {"disk_mb": disk}
    whole = round(sum(group["disk_mb"] for group in groups.values()), 1)
    return {"steps": steps, "replications": groups, "total": total(list(steps.values())) | {"disk_mb": whole}}


def gallery(scale: str = "laptop") -> None:
    """Copies what is finished at `scale` into `figures/`. UserError if there is nothing, or something is missing."""
    results, folder = ROOT / "results" / scale, ROOT / "figures"
    current = states()
    if not (fresh := finished(results, current)):
        raise UserError(f"results/{scale} holds no finished replication; run `make SCALE={scale}` first")
    old = committed(folder, fresh, current, scale)
    claims, origins = [], {}
    for name in current:
        if name in fresh:
            claims += read_json(results / name / "claims.json")
            origins[name] = read_json(results / name / "provenance.json")
        else:
            claims += [claim for claim in old["claims.json"] if claim["replication"] == name]
            origins[name] = old["provenance.json"][name]
    for path in folder.glob("*/"):
        if path.name in fresh or path.name not in current:
            shutil.rmtree(path)
    for name in fresh:
        (folder / name).mkdir(parents=True)
        for stem in figures_of(results, name):
            for ending in ("svg", "png", "csv", "json"):
                model, part = stem.parts[-4], stem.parts[-3]
                middle = part if model == "toy" else f"{part}-{model}"
                shutil.copyfile(stem.with_suffix(f".{ending}"), folder / name / f"{middle}-{stem.name}.{ending}")
    write_json(folder / "claims.json", claims)
    write_json(folder / "provenance.json", origins)
    write_json(folder / "cost.json", merged_cost(old["cost.json"], costs(results), fresh))
    write_json(folder / STATES.name, current)
    if (tested := ROOT / "results" / TESTS).exists():
        shutil.copyfile(tested, folder / TESTS)
    for page, text in pages(folder).items():
        write_text(page, text)
    rest = ", the rest as before" if len(fresh) < len(current) else ""
    print(f"figures/ now holds {', '.join(fresh)} from results/{scale}{rest}")


if __name__ == "__main__":
    try:
        tyro.cli(gallery)
    except UserError as error:
        sys.exit(f"error: {error}")
