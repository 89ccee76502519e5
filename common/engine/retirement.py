"""`make retire`: takes a landmark out of `claims.yaml` and of the records, for good and with its reason in the lock.

`make amend` retires a claim that is gone already, and the record is then out of date, since nobody knows what else has
changed. Here nothing else can have changed, so a record that was up to date stays so and only loses this claim.
"""

import re

import tyro

from common.core.errors import UserError
from common.core.files import write_json, write_text
from common.core.settings import ROOT
from common.engine.failure import as_command
from common.engine.freeze import amend, known, landmarks
from common.publish.pages import FOLDER, famous_papers, write_pages
from common.publish.reference import FAMOUS, records, state
from common.publish.texts import RECORDS


def retire(name: str, claim: str, why: str) -> None:
    """Removes a landmark from `claims.yaml` and the records; `claims.lock` keeps its entry, with the reason.

    Raises:
        UserError: there is no such landmark in the lock and in `claims.yaml`, its entry there does not begin with its
            id, a famous figure names it, or the reason is empty.
    """
    there = [one.id for one in landmarks(known(name))]
    if claim not in there:
        raise UserError(f"{name} has no landmark '{claim}'; it has {', '.join(there) or 'none'}")
    if f"{name}.{claim}" in [figure.get("landmark") for paper in famous_papers() for figure in paper["figures"]]:
        raise UserError(f"{FAMOUS} names {name}.{claim}; give that figure a `reason` why no landmark stands for it")
    found, path = records(), ROOT / "replications" / name / "claims.yaml"
    current = name in found and found[name]["state"] == state(name, found[name]["scale"])
    before = path.read_text(encoding="utf-8")
    entry = re.compile(rf"^( *)- id: {re.escape(claim)}\n(?:(?!\1- )(?:\1 .*)?\n)*", re.MULTILINE)
    after, count = entry.subn("", before)
    if count != 1:
        raise UserError(f"no entry of {path.name} begins with `- id: {claim}`; remove it by hand, then `make amend`")
    write_text(path, after)
    try:
        amend(name, claim, why)
    except BaseException:
        write_text(path, before)
        raise
    if current:
        found[name]["state"] = state(name, found[name]["scale"])
        write_json(ROOT / FOLDER / RECORDS, found)
        write_pages(ROOT / FOLDER)


if __name__ == "__main__":
    as_command(lambda: tyro.cli(retire))
