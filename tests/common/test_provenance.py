"""A record says whether tracked files differed from its commit. What a launch writes into locks does not count."""

import subprocess

import pytest

import common.publish.provenance as module
from common.publish.provenance import git_state


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A checkout with one lock of claims and one source."""
    for path in ("replications/tiny/claims.lock", "replications/tiny/step.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("one\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def test_seeds_that_a_launch_marks_are_no_change_and_a_source_is_one(repository):
    assert git_state()["dirty"] is False
    (repository / "replications/tiny/claims.lock").write_text("two\n")
    assert git_state()["dirty"] is False
    (repository / "replications/tiny/step.py").write_text("two\n")
    assert git_state()["dirty"] is True


def test_a_source_that_the_commit_lacks_is_a_change_and_a_result_is_none(repository):
    (repository / "results").mkdir()
    (repository / "results/metrics.json").write_text("{}")
    assert git_state()["dirty"] is False
    (repository / "replications/tiny/new.py").write_text("one\n")
    assert git_state()["dirty"] is True


def test_outside_a_checkout_nothing_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert git_state() == {"commit": None, "dirty": None}
