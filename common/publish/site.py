"""`make site`: static pages of what was reproduced, below `results/<scale>/site/`, to be served from any folder.

`FROM=results` (the default) takes the finished replications of one scale, with all their figures and interactive pages.
`FROM=records` takes the slim records in `figures/`, which a fresh clone holds. Both have the same form (`claims.json`,
`records.json`; `common.publish.record`), which every page is made from and which the site publishes. Addresses stay:
`<replication>/`, `<replication>/badge.json`, `claims.html#<claim>`.

A badge is read by shields.io (endpoint schema 1). Its words count the landmarks. It is grey until they are scored, then
green unless a claim fails the run. That is a check that fails, a required landmark that is not reproduced, or a verdict
other than the expected one.
"""

import shutil
import sys
from collections.abc import Callable
from typing import Literal

import tyro

from common.core.errors import UserError
from common.core.files import TEMPORARY_SUFFIX, read_json
from common.core.settings import ROOT, load_scale, replications
from common.core.verify import read_claims
from common.publish.claims_page import by_replication
from common.publish.cost import costs
from common.publish.pages import FOLDER
from common.publish.record import record_of
from common.publish.reference import state
from common.publish.site_pages import Site, Source
from common.publish.texts import CLAIMS, RECORDS


def from_results(scale: str) -> Source:
    """The finished replications of a scale. UserError if there is none, or if one was made by other sources."""
    results = ROOT / "results" / scale
    done = [
        name for name in replications() if all((results / name / file).exists() for file in (CLAIMS, "provenance.json"))
    ]
    if not done:
        raise UserError(
            f"results/{scale} holds no finished replication; run `make SCALE={scale}` first, or make the site from the "
            "committed records with `make site FROM=records`"
        )
    origins = {name: read_json(results / name / "provenance.json") for name in done}
    if old := [name for name, origin in origins.items() if origin.get("state") != state(name, scale)]:
        raise UserError(
            f"the results of {', '.join(old)} at scale {scale} were made by other sources or settings than those here "
            f"now; run `make SCALE={scale} {' '.join(old)}` first"
        )
    cost = costs(results)
    return Source(
        claims={name: read_claims(results / name / CLAIMS) for name in done},
        records={name: record_of(results, name, cost) for name in done},
        stale=[],
        results=results,
        said=f"a run of scale {scale}",
    )


def from_records() -> Source:
    """The records of the reference run in `figures/`; those that are out of date are marked."""
    folder = ROOT / FOLDER
    known = {name: one for name, one in read_json(folder / RECORDS).items() if name in replications()}
    claims = by_replication(read_claims(folder / CLAIMS))
    stale = [name for name, one in known.items() if one["state"] != state(name, one["scale"])]
    return Source({name: claims.get(name, []) for name in known}, known, stale, None, "the committed records")


def site(scale: str = "laptop", source: Literal["results", "records"] = "results", repository: str = "") -> None:
    """Writes `results/<scale>/site/` anew; the old one stays until the new one is whole.

    Args:
        scale: whose results are shown; with `records` only the place of the site.
        source: results of a run, or the records in `figures/`.
        repository: address of the repository in the web, for links to files that the site does not hold.
    """
    load_scale(scale)
    make: Callable[[], Source] = from_records if source == "records" else lambda: from_results(scale)
    found, out = make(), ROOT / "results" / scale / "site"
    temporary = out.with_name(f".site{TEMPORARY_SUFFIX}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        Site(found, temporary, repository).write()
        shutil.rmtree(out, ignore_errors=True)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    absent = [name for name in replications() if name not in found.claims]
    print(f"{(out / 'index.html').relative_to(ROOT)} shows {found.said}: {', '.join(found.claims)}")
    print(f"not in it: {', '.join(absent)}" if absent else "no replication is missing")
    if found.stale:
        print(f"records made by other sources than those here now, marked on their pages: {', '.join(found.stale)}")


if __name__ == "__main__":
    try:
        tyro.cli(site)
    except UserError as error:
        sys.exit(f"error: {error}")
