"""`make new NAME=...`: what it writes runs at once, is tested, and touches no other file."""

import json
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.workflow


def call(project, *command):
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=project.path, env=project.environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def tree(project):
    skipped = {"__pycache__", "resources", "results", ".snakemake", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
    paths = (path for path in project.path.rglob("*") if path.is_file() and not skipped & set(path.parts))
    return {path.relative_to(project.path).as_posix(): path.read_bytes() for path in paths}


def test_a_new_replication_runs_at_once(copy_project, root):
    project, name = copy_project(), "tilted_lines"
    before = tree(project)
    made = call(project, "common.engine.scaffold", "--name", name)
    assert made.returncode == 0, made.stderr
    after = tree(project)
    assert {path: after[path] for path in before} == before, "a file outside the new folder was changed"
    places = (f"replications/{name}/",)
    assert all(path.startswith(places) for path in set(after) - set(before))
    done = project.run(name)
    assert done.returncode == 0, done.stdout + done.stderr
    [claim] = json.loads((project.results / name / "claims.json").read_text())
    assert claim["verdict"] == "not run here"  # its scales are laptop, full and gpu
    metrics = json.loads((project.results / name / "toy" / "probe" / "metrics.json").read_text())
    [control] = metrics["cosine"]["controls"]
    assert metrics["cosine"]["value"] > 0.9 > control["value"]
    assert (project.results / name / "toy" / "probe" / "figures" / "probe.svg").stat().st_size > 1000
    for folder in ("tests", "figures"):
        shutil.copytree(root / folder, project.path / folder, dirs_exist_ok=True)
    shutil.copy(root / "conftest.py", project.path / "conftest.py")
    general = [f"tests/common/test_{part}.py" for part in ("claims", "glossary", "paper", "project", "record")]
    chosen = f"{name} or semicolon or recorded_verdict or expects_nothing or every_picture"
    tested = call(project, "pytest", "-q", "-k", chosen, f"replications/{name}/tests/test_{name}.py", *general)
    assert tested.returncode == 0, tested.stdout
    looked = call(project, "ruff", "check", f"replications/{name}")
    assert looked.returncode == 0, looked.stdout
    again = call(project, "common.engine.scaffold", "--name", name)
    assert again.returncode == 1
    assert again.stderr.strip() == f"error: replications/{name} exists already; choose another name or remove it first"


@pytest.mark.parametrize("name", ["", "My-Result", "class", "2nd"])
def test_bad_names_are_refused(name):
    from common.core.errors import UserError
    from common.engine.scaffold import new

    with pytest.raises(UserError, match="cannot name a replication"):
        new(name)


TARGETS = ("figures", "metrics", "all", "verify", "paper", "test", "clean", "lint", "help")
RULES = ("provenance", "cost", "corpora", "python_docs", "step")
FILES = ("logs",)


@pytest.mark.parametrize("name", [*TARGETS, *RULES, *FILES])
def test_names_that_mean_something_else_are_refused(name, root):
    from common.core.errors import UserError
    from common.engine.scaffold import new

    with pytest.raises(
        UserError, match=f"^'{name}' cannot name a replication: there is .+ already; choose another name$"
    ):
        new(name)
    assert not (root / "replications" / name).exists()


def test_no_replication_has_a_reserved_name_and_every_target_is_reserved(root):
    from common.core.settings import replications
    from common.engine.scaffold import reserved

    found = set(reserved())
    assert not found & set(replications())
    for line in (root / "Makefile").read_text().splitlines():
        if "## " in line and not line.startswith(("$(NAMES)", "help")):
            assert set(line.split(":")[0].split()) <= found
