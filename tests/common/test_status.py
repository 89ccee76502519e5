"""`make status`: state and logs of every rule, also of those that serve all replications."""

import subprocess

import pytest

from common.core.errors import UserError
from common.core.events import Event, Kind
from common.core.settings import ROOT
from common.core.step import COST_PREFIX
from common.engine import status
from common.publish.workflow_picture import owner_of


def job(rule, log=None):
    return Event(Kind.JOB_PLANNED, rule=rule, log=[f"results/smoke/logs/{log}.log"] if log else [])


def test_logs_are_those_of_the_plan_and_targets_are_left_out():
    to_run = [job("toys_train", "toys/train_a"), job("toys_train", "toys/train_b"), job("all")]
    found = status.combine(to_run, [job("python_docs", "python-docs"), *to_run])
    assert {rule: plan.state for rule, plan in found.items()} == {"python_docs": "done", "toys_train": "to run"}
    assert found["python_docs"].logs == [ROOT / "results/smoke/logs/python-docs.log"]
    assert [log.name for log in found["toys_train"].logs] == ["train_a.log", "train_b.log"]


def test_every_rule_of_the_workflow_has_its_log(planned_jobs):
    found = status.combine([], planned_jobs)
    for rule, log in {
        "python_docs": "python-docs",
        "self_chat": "self-chat",
    }.items():
        assert found[rule].logs == [ROOT / "resources" / "logs" / f"{log}.log"]
    assert {"verify", "paper", "grokking_claims"} <= set(found)
    assert not {"all", "grokking"} & set(found)


def test_state_and_seconds_are_read_from_the_log(tmp_path):
    log = tmp_path / "python-docs.log"
    log.write_text("error: the disk is full\n")
    assert status.state_of([log], "to run", active=False) == ("failed or interrupted", "")
    assert status.state_of([log], "to run", active=True) == ("running", "")
    log.write_text(COST_PREFIX + '{"wall_s": 2.5}\n')
    assert status.state_of([log], "done", active=False) == ("done", "2.5")
    assert status.state_of([], "to run", active=False) == ("to run", "")


def test_a_rule_belongs_to_the_longest_name(monkeypatch):
    monkeypatch.setattr("common.publish.workflow_picture.replications", lambda: ["toy", "toy_models"])
    assert [owner_of(rule) for rule in ("toy_models_train", "toy_train", "toy", "verify")] == [
        "toy_models", "toy", "toy", None,
    ]  # fmt: skip


def test_a_damaged_file_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(status, "ROOT", tmp_path)
    monkeypatch.setattr(status, "planned", lambda _: {})
    path = tmp_path / "results" / "smoke" / "grokking" / "claims.json"
    path.parent.mkdir(parents=True)
    for text in ("[{", '[{"id": "of another version"}]', '{"a": 1}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"claims\.json .+ `make resume`"):
            status.status("smoke")


def test_models_and_hub_reach_the_plan(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(status, "ROOT", tmp_path)
    monkeypatch.setattr(status, "planned", lambda config: seen.append(config) or {})
    status.status("smoke", models="gpt2, ", hub=True)
    assert seen == [["scale=smoke", "models=gpt2", "hub=1"]]
    with pytest.raises(UserError, match="comes from a model hub"):
        status.status("smoke", models="gpt2")


def test_make_passes_models_and_hub(root):
    said = subprocess.run(
        ["make", "-n", "status", "MODELS=gpt2", "HUB=1"], cwd=root, capture_output=True, text=True
    ).stdout
    assert '--models "gpt2" --hub True' in said
