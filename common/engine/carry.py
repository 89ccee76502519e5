"""`make carry`: keeps records up to date across an edit of code that changes no value.

An edit of shared code puts every record out of date, although most edits change no number, and the reference run takes
half a day. This command runs the replications concerned twice at scale `smoke`, each time in a checkout of its own. One
run takes the code of an earlier commit, at which their records were up to date, the other that of the present one. It
compares every metric, table and tensor file byte by byte, and judges the recorded values and controls again by the
present code. If all is the same, the records take the present state, and say from which commit to which they were
carried.

Only code may have changed. After a change of settings, claims, seals, models or the locked environment the replication
has to run. `smoke` runs every step, not every branch of it, so a carried record is weaker evidence than a new one.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro

from common.core.claims import Check, Claim, Landmark, load_claims
from common.core.errors import UserError
from common.core.files import write_json
from common.core.metrics import Control, Metric
from common.core.settings import ROOT, replications
from common.core.verdicts import judge_check, judge_landmark
from common.core.verify import NOT_RUN, read_claims
from common.engine.failure import as_command
from common.publish.pages import FOLDER, write_pages
from common.publish.reference import chosen, records, remedy, stale
from common.publish.texts import CLAIMS, RECORDS

SCALE = "smoke"
COMPARED = ("**/metrics.json", "**/*.csv", "**/*.safetensors")
SHARED = ("models", "corpora", "trained")  # folders of `resources/`, made once
LOCK = "envs"
STATE = "from common.publish.reference import state; print(state({name!r}, {scale!r}))"
SHOWN = 5  # files or claims that are named


def carry(base: str = "", name: str = "") -> None:
    """Carries the records that are out of date by their code alone. Says of each what was done.

    Args:
        base: the commit at which they were up to date; by default that which made each record or to which it was last
            carried.
        name: one replication; by default all.

    Raises:
        UserError: nothing can be carried, a verdict has changed, or the tree has uncommitted changes. Also, once the
            others are carried, for replications whose values have changed.
    """
    if _git("status", "--porcelain"):
        raise UserError("there are uncommitted changes; commit them first: a record names the commit it is carried to")
    known, names, head = records(), carried(name), _git("rev-parse", "HEAD")
    if moved := [claim for one in names for claim in judged_otherwise(one, known[one]["scale"])]:
        raise UserError(f"the edit changes verdicts on the recorded values, so run what it changes: {_some(moved)}")
    bases = {one: _git("rev-parse", "--verify", f"{base or _made_by(known[one])}^{{commit}}") for one in names}
    with _tree(head) as present:
        states = {one: _state(present, one, known[one]["scale"]) for one in names}
        _smoke(present, head, names)
        different = []
        for commit in dict.fromkeys(bases.values()):
            different += _compare(commit, [one for one in names if bases[one] == commit], present, known)
    changed = {path.partition("/")[0] for path in different}
    kept = [one for one in names if one not in changed]
    known = records()  # smoke takes minutes, in which others may have been recorded
    for one in kept:
        step = {"since": bases[one], "to": head}
        known[one] = known[one] | {"state": states[one], "carried": [*known[one].get("carried", []), step]}
    write_json(ROOT / FOLDER / RECORDS, known)
    write_pages(ROOT / FOLDER)
    print(f"carried: {', '.join(kept) or 'nothing'}")
    if different:
        raise UserError(
            f"the edit changes values of {', '.join(sorted(changed))}, so their records were not carried: "
            f"{_some(different)}"
        )


def _made_by(record: dict[str, Any]) -> str:
    """The commit whose code a record stands for: that to which it was carried last, or that which made it."""
    return str(record["carried"][-1]["to"] if record.get("carried") else record["commit"])


def carried(name: str = "") -> list[str]:
    """The replications whose records are out of date by their code alone. UserError if there is none."""
    if name and name not in replications():
        raise UserError(f"unknown replication '{name}'; there is {', '.join(replications())}")
    old = [one for one in stale() if name in ("", one)]
    if not old:
        raise UserError(f"{f'the record of {name} is' if name else 'all records are'} up to date; nothing to carry")
    known = records()
    found = [
        one for one in old if one in known and known[one]["state"].split(".")[-1] == chosen(one, known[one]["scale"])
    ]
    for one in sorted(set(old) - set(found)):
        print(f"not carried, because more than code has changed: {remedy(one, by_code=False)}")
    if not found:
        raise UserError("no record is out of date by its code alone; run what was changed")
    return found


def judged_otherwise(name: str, scale: str) -> list[str]:
    """Recorded claims that get another verdict from their recorded values and controls by the code here."""
    claims = [one for one in read_claims(ROOT / FOLDER / CLAIMS) if one.replication == name]
    definitions = {f"{name}.{one.id}": one for one in load_claims(name)}
    found = []
    for claim in claims:
        definition = definitions.get(claim.id)
        if not isinstance(definition, Landmark | Check) or claim.verdict in (None, NOT_RUN):
            continue
        effect = _metric(claim)
        verdict: str
        if isinstance(definition, Landmark):
            verdict, _ = judge_landmark(definition.at(scale).assertion, definition.neutral, effect)
        else:
            verdict, _ = judge_check(definition.assertion, effect, effect.controls)
        if verdict != claim.verdict:
            found.append(claim.id)
    return found


def _metric(claim: Claim) -> Metric:
    """What a claim was judged from, as far as its record holds it, which is all that decides."""
    content = claim.model_dump(include={"value", "ci_low", "ci_high", "per_seed", "n", "unit", "uncertainty"})
    controls = [
        Control.model_validate(
            control.model_dump(include={"name", "value", "ci_low", "ci_high", "difference"}) | {"n": 1}
        )
        for control in claim.controls
    ]
    return Metric.model_validate(content | {"formula": "", "controls": controls})


def differences(before: Path, after: Path, name: str) -> list[str]:
    """Files of one replication that differ between the `smoke` results of two trees, or that only one of them has."""

    def files(tree: Path) -> dict[str, Path]:
        folder = tree / "results" / SCALE / name
        return {f"{name}/{path.relative_to(folder)}": path for kind in COMPARED for path in folder.glob(kind)}

    old, new = files(before), files(after)
    if not old:
        raise UserError(f"{SCALE} gave no result of {name} by the earlier code; there is nothing to compare")
    return sorted(
        path for path in old.keys() | new.keys()
        if path not in old or path not in new or old[path].read_bytes() != new[path].read_bytes()
    )  # fmt: skip


def _compare(base: str, names: list[str], present: Path, known: dict[str, Any]) -> list[str]:
    """Files that differ between the code of `base` and that of `present`. UserError if the former did not make these
    records."""
    if _git("diff", "--name-only", base, "HEAD", "--", LOCK):
        raise UserError(
            f"{LOCK}/ has changed since commit {base[:12]}, and with it the environment; run what it changes"
        )
    with _tree(base) as earlier:
        for one in names:
            there = _state(earlier, one, known[one]["scale"]).split(".")[0]
            if there != known[one]["state"].split(".")[0]:
                raise UserError(
                    f"at commit {base[:12]} the code was not that of the record of {one}; give the commit at which it "
                    "was up to date, as in BASE=0123abcd"
                )
        _smoke(earlier, base, names)
        return [path for one in names for path in differences(earlier, present, one)]


def _some(words: Sequence[str]) -> str:
    return ", ".join([*words[:SHOWN], *([f"{len(words) - SHOWN} more"] if len(words) > SHOWN else [])])


def _state(tree: Path, name: str, scale: str) -> str:
    return _python(tree, "-c", STATE.format(name=name, scale=scale)).strip()


def _smoke(tree: Path, commit: str, names: list[str]) -> None:
    """Makes all metrics of these replications in a tree."""
    print(f"{SCALE} of {', '.join(names)} by commit {commit[:12]} ...", flush=True)
    try:
        _python(tree, "-m", "common.engine.launch", "--scale", SCALE, "--", *names)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stdout.splitlines() if line.startswith("error")]
        raise UserError(
            f"{SCALE} fails by commit {commit[:12]}: {lines[-1] if lines else error.stdout[-500:]}"
        ) from None


def _python(tree: Path, *arguments: str) -> str:
    """Runs Python in a tree, with the tree's own sources, and returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "ONEDNN": "0"}  # as commits did that knew nothing of it
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, check=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout


@contextmanager
def _tree(commit: str) -> Iterator[Path]:
    """A checkout of a commit in a temporary folder, with copies of the models and corpora that are here."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / commit[:12]
        _git("worktree", "add", "--detach", str(tree), commit)
        try:
            for shared in (Path("resources") / one for one in SHARED):
                if (ROOT / shared).exists():  # newer than the checkout, so that they are not made again
                    shutil.copytree(ROOT / shared, tree / shared, copy_function=shutil.copyfile)
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {arguments[0]}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


if __name__ == "__main__":
    as_command(lambda: tyro.cli(carry))
