"""`make carry`: keeps records up to date across an edit of code that changes no value.

An edit of shared code puts every record out of date, although most edits change no number, and the reference run takes
half a day. This command runs the replications concerned at scale `smoke` twice, by the code of an earlier commit, at
which their records were up to date, and by the code here. It compares every metric, table and verdict, to the last
digit. If all are the same, the records take the present state, and say from which commit to which they were carried.

Only code may have changed. After a change of settings, claims, seals, models or the locked environment the replication
has to run. `smoke` runs every step, not every branch of it, so a carried record is weaker evidence than a new one.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro

from common.core.errors import UserError
from common.core.files import read_json, write_json
from common.core.settings import ROOT
from common.publish.pages import FOLDER, RECORDS, write_pages
from common.publish.reference import chosen, records, remedy, stale, state

SCALE = "smoke"
COMPARED = ("**/metrics.json", "**/*.csv", "claims.json")
SHARED = ("resources/models", "resources/corpora")  # made once, read by both runs
LOCK = "envs"
SHOWN = 5  # files that are named


def carry(base: str = "", name: str = "") -> None:
    """Carries the records that are out of date by their code alone. Says of each what was done.

    Args:
        base: the commit at which they were up to date; by default the last one that changed the records.
        name: one replication; by default all.

    Raises:
        UserError: nothing can be carried, a value has changed, or the tree has uncommitted changes.
    """
    if _git("status", "--porcelain", "--untracked-files=no"):
        raise UserError("there are uncommitted changes; commit them first: a record names the commit it is carried to")
    base = _git(
        "rev-parse", "--verify", f"{base or _git('log', '-1', '--format=%H', '--', f'{FOLDER}/{RECORDS}')}^{{commit}}"
    )
    known, names = records(), carried(name)
    with _tree(base) as earlier:
        _check_base(earlier, base, known, names)
        for tree in (earlier, ROOT):
            print(
                f"{SCALE} of {', '.join(names)} by commit {_git('rev-parse', '--short', 'HEAD', at=tree)} ...",
                flush=True,
            )
            _run(tree, names)
        if different := [path for one in names for path in differences(earlier, ROOT, one)]:
            shown = [*different[:SHOWN], *([f"{len(different) - SHOWN} more"] if len(different) > SHOWN else [])]
            raise UserError(
                f"the edit changes values, so no record was carried: {', '.join(shown)} differ from those of commit "
                f"{base[:12]}"
            )
    step = {"since": base, "to": _git("rev-parse", "HEAD")}
    for one in names:
        new = {"state": state(one, known[one]["scale"]), "carried": [*known[one].get("carried", []), step]}
        known[one] = known[one] | new
    write_json(ROOT / FOLDER / RECORDS, known)
    write_pages(ROOT / FOLDER)
    print(f"carried: {', '.join(names)}")


def carried(name: str = "") -> list[str]:
    """The replications whose records are out of date by their code alone. UserError if there is none."""
    old = [one for one in stale() if name in ("", one)]
    if not old:
        raise UserError(f"{f'the record of {name} is' if name else 'all records are'} up to date; nothing to carry")
    known = records()
    found = [
        one for one in old if one in known and known[one]["state"].split(".")[-1] == chosen(one, known[one]["scale"])
    ]
    for one in sorted(set(old) - set(found)):
        print(f"not carried, because more than code has changed: {remedy(one)}")
    if not found:
        raise UserError("no record is out of date by its code alone; run what was changed")
    return found


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


def _check_base(earlier: Path, base: str, known: dict[str, Any], names: list[str]) -> None:
    """UserError if a record was another one at the earlier commit, or out of date there, or the lock differs."""
    there = earlier / FOLDER / RECORDS
    before = read_json(there) if there.exists() else {}
    said = _python(earlier, "-c", "from common.publish.reference import stale; print(*stale())").split()
    for one in names:
        same = one in before and all(before[one].get(key) == known[one][key] for key in ("commit", "written"))
        if not same or one in said:
            raise UserError(
                f"at commit {base[:12]} the record of {one} was another one, or out of date; give the commit at which "
                "it was up to date, as in BASE=0123abcd"
            )
    if _git("diff", "--name-only", base, "HEAD", "--", LOCK):
        raise UserError(
            f"{LOCK}/ has changed since commit {base[:12]}, and with it the environment; run what it changes"
        )


def _run(tree: Path, names: list[str]) -> None:
    try:
        _python(tree, "-m", "common.engine.launch", "--scale", SCALE, "--", *names)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stdout.splitlines() if line.startswith("error")]
        raise UserError(f"{SCALE} fails in {tree}: {lines[-1] if lines else 'see its log'}") from None


def _python(tree: Path, *arguments: str) -> str:
    """Runs Python in a tree, with the tree's own sources, and returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, check=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout


@contextmanager
def _tree(commit: str) -> Iterator[Path]:
    """A checkout of a commit in a temporary folder, with the models and corpora that are here."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "earlier"
        _git("worktree", "add", "--detach", str(tree), commit)
        try:
            for shared in SHARED:
                if (ROOT / shared).exists():
                    shutil.copytree(ROOT / shared, tree / shared)
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str, at: Path | None = None) -> str:
    done = subprocess.run(["git", *arguments], cwd=at or ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {arguments[0]}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


def main() -> None:
    """Command line; every expected failure is one sentence."""
    os.chdir(ROOT)
    try:
        tyro.cli(carry)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
