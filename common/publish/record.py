"""`make record`: keeps the slim records of a finished run in the committed folder `figures/`.

Each replication is recorded by itself, at the scale of its run. A record is verdicts, provenance, cost, and one or two
headline pictures of at most 100 KB. The reference run is scale `full`, made replication by replication. Runs on a GPU
are kept beside it, in `figures/gpu/` (`common.publish.gpu_card`); a calibration is recorded before it is sealed.
`common.publish.reference.stale` names the records of the reference run whose sources, settings or claims have changed
since; CI prints them. Afterwards the generated parts of the documents are made anew from the records
(`common.publish.pages`).
"""

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

from common.core.errors import UserError
from common.core.files import atomic, read_json, write_json, write_text
from common.core.settings import ROOT, replications
from common.core.verify import read_claims
from common.publish.cost import costs
from common.publish.earlier import keep
from common.publish.glossary import formulas_of
from common.publish.gpu_card import GPU
from common.publish.pages import (
    COSTLIEST,
    FOLDER,
    TESTS,
    headline_figures,
    write_pages,
)
from common.publish.reference import is_calibration, state
from common.publish.texts import CLAIMS, RECORDS, lines_of

LARGEST_PICTURE = 100_000  # bytes
WIDTHS = (1200, 1000, 800, 640, 480)  # pixels; the first that fits is taken
REFERENCE = "full"  # the scale of the reference run
ORIGIN = ("commit", "dirty", "scale", "seeds", "device", "instructions", "written")
VERSIONS = ("python", "torch")


def slim_picture(path: Path) -> bytes:
    """The picture as a PNG of at most 100 KB: 256 colours, narrower until it fits. UserError if it never does."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    for width in WIDTHS:
        size = (min(width, picture.width), round(picture.height * min(1, width / picture.width)))
        slim = picture.resize(size, Image.Resampling.LANCZOS).quantize(
            256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
        content = io.BytesIO()
        slim.save(content, "PNG", optimize=True)
        if content.tell() <= LARGEST_PICTURE:
            return content.getvalue()
    raise UserError(f"{path} does not fit into {LARGEST_PICTURE // 1000} KB at {WIDTHS[-1]} pixels; draw less in it")


def finished(results: Path, name: str) -> bool:
    """Whether `results` holds judged claims of a replication, made by the sources that are here now."""
    files = [results / name / record for record in ("claims.json", "provenance.json")]
    scale = results.name
    return all(path.exists() for path in files) and read_json(files[1]).get("state") == state(name, scale)


def record_of(results: Path, name: str, cost: dict[str, Any]) -> dict[str, Any]:
    """The record of one replication: where it comes from, its state and what it took."""
    origin = read_json(results / name / "provenance.json")
    steps = {step.removeprefix(f"{name}/"): one for step, one in cost["steps"].items() if step.startswith(f"{name}/")}
    costliest = sorted(steps, key=lambda step: -steps[step]["cpu_s"])[:COSTLIEST]
    taken = cost["replications"][name] | {"steps": len(steps)}
    return {
        **{key: origin.get(key) for key in ORIGIN},
        "models": {model: found["origin"] for model, found in origin["models"].items()},
        "versions": {of: origin["versions"][of] for of in VERSIONS if of in origin.get("versions", {})},
        "state": origin["state"],
        "formulas": formulas_of(results, name, read_claims(results / name / CLAIMS)),
        "cost": taken | {"costliest": {step: steps[step]["cpu_s"] for step in costliest}},
    }


def record(scale: str = "full", name: str = "") -> None:
    """Records the replication `name`, or all that are finished at `scale`, as in `full` or `gpu-calibration`.

    Records of the reference run give way to another scale only by name. UserError if there is none to record, or for
    fresh seeds, on which nothing is scored.
    """
    if "-fresh-" in scale:
        raise UserError(f"results/{scale} is of fresh seeds, which check a record and make none; give the scale alone")
    results, folder = ROOT / "results" / scale, ROOT / FOLDER
    if scale.split("-")[0] == GPU:
        folder /= GPU
    before = read_json(folder / RECORDS) if (folder / RECORDS).exists() else {}
    ready = [one for one in ([name] if name else replications()) if finished(results, one)]
    if not name and scale != REFERENCE:
        held = [one for one in ready if before.get(one, {}).get("scale") == REFERENCE]
        ready = [one for one in ready if one not in held]
        if held and not ready:
            raise UserError(
                f"{folder.relative_to(ROOT)}/ holds the reference run (scale {REFERENCE}) of all that is finished in "
                f"results/{scale}; say NAME= to put one of scale {scale} in its place"
            )
    if not ready:
        wanted, target = name or "any replication", name or "all"
        raise UserError(
            f"results/{scale} holds no finished run of {wanted} by the present sources; "
            f"run `make SCALE={scale} {target}` first"
        )
    cost = costs(results)
    known = dict(before)
    claims = read_json(folder / CLAIMS) if (folder / CLAIMS).exists() else []
    for one in ready:
        known[one] = record_of(results, one, cost)
        shutil.rmtree(folder / one, ignore_errors=True)
        for figure in headline_figures(one, results):
            content = slim_picture(figure.with_suffix(".png"))
            with atomic(folder / one / f"{figure.name}.png") as temporary:
                temporary.write_bytes(content)
    kept = [claim for claim in claims if claim["replication"] not in ready and claim["replication"] in replications()]
    new = [claim for one in ready for claim in read_json(results / one / "claims.json")]
    write_text(folder / CLAIMS, lines_of(sorted(kept + new, key=lambda claim: str(claim["replication"]))))
    known = {one: known[one] for one in replications() if one in known}
    scored = {one: origin for one, origin in before.items() if not is_calibration(origin)}
    if folder == ROOT / FOLDER:
        keep(folder, claims, scored, known)
    write_json(folder / RECORDS, known)
    if (tested := ROOT / "results" / TESTS).exists():
        shutil.copyfile(tested, ROOT / FOLDER / TESTS)
    write_pages(ROOT / FOLDER)
    print(f"{folder.relative_to(ROOT)}/ now holds {', '.join(ready)} of scale {scale}")


if __name__ == "__main__":
    try:
        tyro.cli(record)
    except UserError as error:
        sys.exit(f"error: {error}")
