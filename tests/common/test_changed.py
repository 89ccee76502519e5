"""What CI asks after an upgrade: which verdicts and values differ from the records; and the action that asks it."""

import re

import pytest

from common.core.claims import Claim
from common.core.errors import UserError
from common.core.files import read_json, read_yaml, write_json
from common.engine import changed as module
from common.engine.changed import changed
from common.engine.conclusion import CLAIMS_FAILED


@pytest.fixture
def run(root, tmp_path, monkeypatch):
    """A folder with the records of probing, and a function that writes a run of it with some claims changed."""
    claims = [claim for claim in read_json(root / "figures" / "claims.json") if claim["replication"] == "probing"]
    records = {"probing": read_json(root / "figures" / "records.json")["probing"]}
    write_json(tmp_path / "figures" / "claims.json", claims)
    write_json(tmp_path / "figures" / "records.json", records)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))

    def write(**changes):
        new = [claims[0] | changes, *claims[1:]]
        write_json(tmp_path / "results" / "full" / "probing" / "claims.json", new)
        return Claim.model_validate(claims[0])

    return write


def test_the_same_run_has_changed_nothing(run, capsys):
    run()
    assert changed(names="probing") == 0
    assert "0 values have left" in capsys.readouterr().out


def test_another_verdict_fails_and_is_named(run, capsys, tmp_path):
    claim = run()
    run(verdict="not reproduced" if claim.verdict == "reproduced" else "reproduced")
    assert changed(names="probing") == CLAIMS_FAILED
    assert claim.id in capsys.readouterr().out
    assert claim.id in (tmp_path / "summary.md").read_text()


def test_a_value_outside_the_recorded_interval_is_named_but_does_not_fail(run, capsys):
    claim = run(value=0.5)
    assert changed(names="probing") == 0
    assert f"| {claim.id} |" in capsys.readouterr().out


def test_nothing_to_compare_is_one_sentence(run):
    with pytest.raises(UserError, match="there is nothing to compare"):
        changed(scale="laptop", names="probing")
    with pytest.raises(UserError, match="unknown replication 'probbing'"):
        changed(names="probbing")


def test_the_action_uses_each_input_and_the_workflow_gives_no_other(root):
    """A misspelt input is ignored by GitHub, so that the locked torch would be tested instead of the new one."""
    text = (root / ".github" / "actions" / "verify" / "action.yml").read_text()
    inputs = set(read_yaml(root / ".github" / "actions" / "verify" / "action.yml")["inputs"])
    assert inputs == {"replications", "scale", "torch", "device"}
    assert set(re.findall(r"inputs\.(\w+)", text)) == inputs
    jobs = read_yaml(root / ".github" / "workflows" / "ci.yml")["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"] if step.get("uses") == "./.github/actions/verify"]
    assert steps
    assert all(set(step["with"]) <= inputs for step in steps)


def test_what_action_and_workflow_make_exists(root):
    targets = set(re.findall(r"^([a-z-]+(?: [a-z_-]+)*):", (root / "Makefile").read_text(), re.MULTILINE))
    known = {word for line in targets for word in line.split()}
    for file in ("actions/verify/action.yml", "workflows/ci.yml"):
        for target in re.findall(r"\bmake ([a-z-]+)", (root / ".github" / file).read_text()):
            assert target in known, f"{file}: make {target}"
