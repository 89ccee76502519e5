"""Records are carried across an edit only if code alone has changed and every compared file is the same."""

import json
import subprocess
from pathlib import Path

import pytest

import common.engine.carry as module
from common.core.errors import UserError
from common.engine.carry import carried, carry, differences, judged_otherwise
from common.publish import pages
from common.publish.reference import records

METRICS = {"gain": {"value": 1.0}}


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def results(tree: Path, name: str, **files: object) -> None:
    folder = tree / "results" / "smoke" / name
    for path, content in {"toy/part/metrics.json": METRICS, "claims.json": [], **files}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(content))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with the record of one replication, and an edit after it. `smoke` writes the number in `value`."""
    root = tmp_path / "here"
    (root / "figures").mkdir(parents=True)
    (root / "value").write_text("1")
    (root / "code").write_text("old")
    (root / ".gitignore").write_text("results/\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "what is recorded")
    record = {"state": "old.same", "scale": "full", "commit": git(root, "rev-parse", "HEAD"), "written": "today"}
    (root / "figures/records.json").write_text(json.dumps({"tiny": record}))
    git(root, "add", ".")
    git(root, "commit", "-qm", "record")
    (root / "code").write_text("new")
    git(root, "commit", "-qam", "edit")

    def smoke(tree: Path, commit: str, names: list[str]) -> None:
        assert git(tree, "rev-parse", "HEAD") == commit
        for name in names:
            results(tree, name, **{"toy/part/metrics.json": (tree / "value").read_text()})

    for target, stand_in in {
        "ROOT": root, "stale": lambda: ["tiny"], "chosen": lambda name, scale: "same", "_smoke": smoke,
        "_state": lambda tree, name, scale: f"{(tree / 'code').read_text()}.same", "replications": lambda: ["tiny"],
        "records": lambda: json.loads((root / "figures/records.json").read_text()), "write_pages": lambda folder: None,
        "remedy": lambda name, by_code: f"run {name}", "judged_otherwise": lambda name, scale: [],
    }.items():  # fmt: skip
        monkeypatch.setattr(module, target, stand_in)
    return root


def record_of(root: Path) -> dict[str, object]:
    return json.loads((root / "figures/records.json").read_text())["tiny"]


def test_an_edit_without_effect_carries_the_record_and_says_between_which_commits(project):
    base, head = git(project, "rev-parse", "HEAD~2"), git(project, "rev-parse", "HEAD")
    carry()
    found = record_of(project)
    assert found["state"] == "new.same"
    assert found["carried"] == [{"since": base, "to": head}]
    assert (found["commit"], found["written"]) == (base, "today")
    assert len(git(project, "worktree", "list").splitlines()) == 1
    assert f"`{base[:8]}` to `{head[:8]}`" in pages.carried(found)
    assert pages.carried({}) == ""
    git(project, "commit", "-qam", "carried")
    (project / "code").write_text("newer")
    git(project, "commit", "-qam", "another edit")
    carry(name="tiny")
    assert [step["since"] for step in record_of(project)["carried"]] == [base, head]


def test_a_changed_value_carries_nothing(project):
    (project / "value").write_text("2")
    git(project, "commit", "-qam", "another value")
    with pytest.raises(
        UserError, match=r"changes values of tiny, so their records were not carried: tiny/toy/part/metrics.json"
    ):
        carry()
    assert record_of(project)["state"] == "old.same"


def test_another_verdict_on_the_recorded_values_carries_nothing(project, monkeypatch):
    monkeypatch.setattr(module, "judged_otherwise", lambda name, scale: [f"{name}.one"])
    with pytest.raises(UserError, match=r"changes verdicts on the recorded values.*tiny\.one"):
        carry()


@pytest.mark.parametrize("path", ["value", "forgotten.py"])
def test_what_is_not_committed_is_refused(project, path):
    (project / path).write_text("1 ")
    with pytest.raises(UserError, match="uncommitted changes"):
        carry()


def test_a_base_whose_code_did_not_make_the_record_is_refused(project):
    with pytest.raises(UserError, match="the code was not that of the record of tiny"):
        carry(base="HEAD")
    with pytest.raises(UserError, match="git rev-parse"):
        carry(base="nowhere")


def test_another_environment_is_refused(project):
    (project / "envs").mkdir()
    (project / "envs/lock.txt").write_text("torch")
    git(project, "add", ".")
    git(project, "commit", "-qm", "lock")
    with pytest.raises(UserError, match="envs/ has changed"):
        carry()


def test_recorded_values_give_the_recorded_verdicts_and_a_changed_rule_is_seen(monkeypatch):
    name = "superposition"
    scale = records()[name]["scale"]
    assert judged_otherwise(name, scale) == []
    monkeypatch.setattr(module, "judge_landmark", lambda assertion, neutral, effect: ("not reproduced", ""))
    assert len(judged_otherwise(name, scale)) >= 5


def test_only_code_may_have_changed(project, monkeypatch, capsys):
    monkeypatch.setattr(module, "chosen", lambda name, scale: "other")
    with pytest.raises(UserError, match="by its code alone"):
        carried()
    assert "run tiny" in capsys.readouterr().out
    with pytest.raises(UserError, match="unknown replication 'tinny'; there is tiny"):
        carried("tinny")
    monkeypatch.setattr(module, "stale", list)
    with pytest.raises(UserError, match="nothing to carry"):
        carried()
    with pytest.raises(UserError, match="the record of tiny is up to date"):
        carried("tiny")


def test_files_that_differ_or_are_missing_are_named(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    results(before, "tiny", **{"toy/part/table.csv": "a", "toy/part/metrics.json": METRICS})
    results(after, "tiny", **{"toy/part/table.csv": "b", "toy/other/metrics.json": METRICS})
    assert differences(before, after, "tiny") == ["tiny/toy/other/metrics.json", "tiny/toy/part/table.csv"]
    assert differences(before, before, "tiny") == []
    with pytest.raises(UserError, match="no result of other"):
        differences(before, after, "other")
