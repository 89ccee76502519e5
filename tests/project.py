"""Copies of the project in which the real workflow runs at scale `smoke`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

COPIED = ("Snakefile", "common", "config", "paper", "profiles", "replications", "envs", "pyproject.toml")


@dataclass(frozen=True)
class Project:
    """A copy of the project; models and corpora are shared with the real one, results are not."""

    path: Path

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "common.launch", "--scale", "smoke", *options]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in ("WORKFLOW_PID", "HUB")}
        return {**kept, "PYTHONPATH": str(self.path), **more}

    def run(self, *options: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*options), cwd=self.path, env=self.environment(**more), capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def start(self, *options: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*options), cwd=self.path, env=self.environment(), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def jobs(self, *targets: str) -> set[str]:
        """Names of the rules that a run would execute now."""
        command = [sys.executable, "-m", "snakemake", "--nolock", "-n", "--config", "scale=smoke", "--", *targets]
        done = subprocess.run(
            command, cwd=self.path, env=self.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        lines = [line.split() for line in (done.stdout + done.stderr).splitlines()]
        return {words[1].rstrip(":") for words in lines if len(words) == 2 and words[0] in ("rule", "localrule")}

    @property
    def results(self) -> Path:
        return self.path / "results" / "smoke"


@pytest.fixture(scope="session")
def copy_project(root, model_folder, tmp_path_factory) -> Callable[[], Project]:
    """Makes a fresh copy of the project, as a clone would be, with models and corpora already there."""

    def copy() -> Project:
        path = tmp_path_factory.mktemp("landmarks")
        for name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__")
            copying = shutil.copytree if (root / name).is_dir() else shutil.copy
            copying(root / name, path / name, **({"ignore": ignored} if (root / name).is_dir() else {}))
        (path / "resources").mkdir()
        (path / "resources" / "models").symlink_to(model_folder.parent)
        corpora = root / "resources" / "corpora"  # made once, whichever copy needs them first
        corpora.mkdir(exist_ok=True)
        (path / "resources" / "corpora").symlink_to(corpora)
        return Project(path)

    return copy


@pytest.fixture(scope="session")
def finished(copy_project) -> Project:
    """A copy in which `make smoke` has run to its end. Tests must leave it finished."""
    project = copy_project()
    done = project.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return project
