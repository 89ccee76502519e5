"""`make gallery`: copies the figures of a finished run, the data behind them, claims, cost and provenance into the
committed folder `figures/`, and renews what is generated from it (`common.pages`) and the picture of the workflow."""

import shutil
import sys
from pathlib import Path

import tyro

from common.config import ROOT, replications
from common.dag import dag
from common.errors import UserError
from common.files import write_json, write_text
from common.pages import pages
from common.reference import STATES, states

RECORDS = ("claims.json", "cost.json", "provenance.json")


def figures_of(results: Path, name: str) -> list[Path]:
    """Stems of all figures of one replication, sorted."""
    return sorted(path.with_suffix("") for path in (results / name).glob("*/*/figures/*.svg"))


def gallery(scale: str = "laptop") -> None:
    """Copies the run of `scale` into `figures/`. UserError if that run is not finished."""
    results, folder = ROOT / "results" / scale, ROOT / "figures"
    for record in RECORDS:
        if not (results / record).exists():
            raise UserError(f"results/{scale}/{record} is missing; run `make SCALE={scale}` first")
    shutil.rmtree(folder, ignore_errors=True)
    for name in replications():
        (folder / name).mkdir(parents=True)
        for stem in figures_of(results, name):
            for ending in ("svg", "png", "csv", "json"):
                model, part = stem.parts[-4], stem.parts[-3]
                middle = part if model == "toy" else f"{part}-{model}"
                shutil.copyfile(stem.with_suffix(f".{ending}"), folder / name / f"{middle}-{stem.name}.{ending}")
    for record in RECORDS:
        shutil.copyfile(results / record, folder / record)
    write_json(folder / STATES.name, states())
    for page, text in pages(folder).items():
        write_text(page, text)
    dag()
    print(f"figures/ now holds the run of scale {scale}")


if __name__ == "__main__":
    try:
        tyro.cli(gallery)
    except UserError as error:
        sys.exit(f"error: {error}")
