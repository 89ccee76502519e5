"""Copies of the project in which the real workflow runs at scale `smoke`."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.core.events import Event
from common.core.settings import load_scale
from common.engine.plan import plan

COPIED = ("Snakefile", "common", "config", "paper", "profiles", "replications", "envs", "pyproject.toml")


@dataclass(frozen=True)
class Project:
    """A copy of the project; models and corpus are shared with the real one, results are not."""

    path: Path

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "common.engine.launch", "--scale", "smoke", *options]

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
        return {job.rule for job in self.planned(*targets)}

    def planned(
        self, *targets: str, config: tuple[str, ...] = ("scale=smoke",), options: tuple[str, ...] = ()
    ) -> list[Event]:
        """The jobs that a run would execute now."""
        return plan(*targets, config=config, options=options, folder=self.path, environment=self.environment())

    @property
    def results(self) -> Path:
        return self.path / "results" / "smoke"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """`make test` runs two parts at a time; only one of them makes what they share in `folder`."""
    folder.mkdir(exist_ok=True)
    with (folder / ".tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def corpus_folder(root, model_folder) -> Path:
    """The corpus `python-docs`, made once below resources/ by its own rule, as is the model of scale smoke.

    The parts of `make test` share a folder `FINISHED`: the first to come lets Snakemake look whether both are there."""
    manifest = Path("resources/corpora/python-docs/manifest.json")
    models = [f"resources/models/{name}/manifest.json" for name in load_scale("smoke").models]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "common.engine.launch", "--scale", "smoke", str(manifest), *models]
    asked = Path(os.environ["FINISHED"]) / "asked" if os.environ.get("FINISHED") else None
    with alone(root / "resources"):
        if asked is None or not asked.exists():
            subprocess.run(command, cwd=root, env=environment, check=True)
        if asked is not None:
            asked.touch()
    return root / manifest.parent


@pytest.fixture(scope="session")
def copy_project(root, model_folder, corpus_folder, tmp_path_factory) -> Callable[..., Project]:
    """Makes a fresh copy of the project, as a clone would be, with models and corpus already there."""

    def copy(path: Path | None = None) -> Project:
        path = path or tmp_path_factory.mktemp("landmarks")
        path.mkdir(exist_ok=True)
        for name in COPIED:
            ignored = shutil.ignore_patterns("__pycache__")
            copying = shutil.copytree if (root / name).is_dir() else shutil.copy
            copying(root / name, path / name, **({"ignore": ignored} if (root / name).is_dir() else {}))
        (path / "resources" / "corpora").mkdir(parents=True)
        (path / "resources" / "corpora" / corpus_folder.name).symlink_to(corpus_folder)
        (path / "resources" / "models").symlink_to(model_folder.parent)
        (path / "resources" / "trained").symlink_to(root / "resources" / "trained")
        return Project(path)

    return copy


KEPT = ("results", ".snakemake/metadata", "resources/corpora/self-chat")
AS_FINISHED = "as-finished"  # what is kept of the copy as it was when the run ended


@pytest.fixture(scope="session")
def finished(copy_project, tmp_path_factory) -> Project:
    """A copy in which `make smoke` has run to its end. Tests must leave it finished. The parts of tests that `make
    test` runs at a time share one, in the folder `FINISHED`. The first to come runs it, the other waits."""
    folder = Path(os.environ.get("FINISHED") or tmp_path_factory.mktemp("finished"))
    project, end = Project(folder / "landmarks"), folder / "end"
    with alone(folder):
        if not end.exists():
            shutil.rmtree(project.path, ignore_errors=True)
            done = copy_project(project.path).run()
            assert done.returncode == 0, done.stdout + done.stderr
            for name in KEPT:
                shutil.copytree(project.path / name, folder / AS_FINISHED / name, dirs_exist_ok=True)
            end.touch()
    return project


@pytest.fixture(scope="session")
def copy_finished(finished, copy_project) -> Callable[..., Project]:
    """Makes a copy in which all is finished but the given replications, of which nothing is left. What it takes from
    the shared copy was set aside when that was finished, so tests of other parts may change things there meanwhile."""

    def copy(*unfinished: str) -> Project:
        project = copy_project()
        for name in KEPT:
            shutil.copytree(finished.path.parent / AS_FINISHED / name, project.path / name)
        for name in unfinished:
            shutil.rmtree(project.results / name)
            shutil.rmtree(project.results / "logs" / name)
        return project

    return copy
