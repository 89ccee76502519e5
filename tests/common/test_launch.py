"""The launcher: what it checks before Snakemake starts, dry runs, and what it names at the end."""

import os

import pytest
import tyro

from common.core.claims import Claim
from common.core.errors import UserError
from common.core.events import Event, Kind
from common.core.settings import replications
from common.engine import conclusion, launch
from common.engine.launch import Options


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Every start of Snakemake, and of the report; the folder is empty."""
    seen = []

    def snakemake(run, options, targets, owner, *, dry):
        (tmp_path / run.results / launch.WORKFLOW_LOG).write_text("rule grokking_train:\n")
        seen.append((run, targets))
        return 0, [Event(Kind.RUN_STARTED, jobs={"grokking_train": 1})]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "_snakemake", snakemake)
    monkeypatch.setattr(launch, "_report", lambda *_: seen.append("report"))
    monkeypatch.setattr(launch, "check_lock", lambda *_, **__: None)
    monkeypatch.setattr(launch, "mark_scored", lambda *_: None)
    return seen


@pytest.mark.parametrize("option", ["-n", "--dry-run", "--dryrun"])
def test_a_dry_run_prints_the_plan_and_nothing_else(calls, capsys, tmp_path, option):
    left = tmp_path / "resources" / "checkpoints" / "a.safetensors"
    left.parent.mkdir(parents=True)
    left.touch()
    assert launch.launch(Options(snakemake=(option,))) == 0
    assert capsys.readouterr().out == "rule grokking_train:\n"
    assert len(calls) == 1, "a dry run scores nothing and has no report"
    assert left.exists()


def test_options_for_snakemake_add_up():
    """If the last one won, a plan asked for with two options would be a run."""
    given = tyro.cli(Options, args=["--snakemake=--dry-run", "--snakemake=--forceall", "verify"])
    assert given.snakemake == ("--dry-run", "--forceall")
    assert given.targets == ("verify",)


def test_a_whole_run_has_a_report(calls, capsys):
    assert launch.launch(Options()) == 0
    assert calls[1:] == ["report"]
    assert capsys.readouterr().out == "Results: results/laptop/\n", "files that are not there are not named"


def test_a_report_is_written_again_only_if_something_is_newer(calls, tmp_path, monkeypatch):
    def idle(run, options, targets, owner, *, dry):
        return 0, [Event(Kind.RUN_FINISHED)]

    results = tmp_path / "results" / "laptop"
    results.mkdir(parents=True)
    monkeypatch.setattr(launch, "_snakemake", idle)
    assert launch.launch(Options()) == 0
    assert calls == ["report"], "there was none"
    (results / "report.html").touch()
    assert launch.launch(Options()) == 0
    assert calls == ["report"]
    (results / "cost.json").touch()
    os.utime(results / "report.html", (0, 0))
    assert launch.launch(Options()) == 0
    assert calls == ["report", "report"], "a step has run since"


def test_only_files_that_exist_are_named(calls, capsys, tmp_path):
    (tmp_path / "results" / "laptop").mkdir(parents=True)
    (tmp_path / "results" / "laptop" / "claims.md").touch()
    assert launch.launch(Options(targets=("verify",))) == 0
    assert capsys.readouterr().out == "Results: results/laptop/ (open claims.md)\n"


@pytest.mark.parametrize(
    "given", ["gpt2, smollm2-135m-shallow", " gpt2,smollm2-135m-shallow,", "gpt2,,smollm2-135m-shallow"]
)
def test_names_of_models_may_have_spaces_and_a_last_comma(calls, given):
    launch.launch(Options(targets=("ioi_circuit",), models=given, hub=True))
    [(run, _)] = calls
    assert run.models == ["gpt2", "smollm2-135m-shallow"]


def test_a_local_model_is_looked_at_before_snakemake_starts(calls, tmp_path, monkeypatch):
    from common.data import models
    from common.engine import config, hub_models

    known = models.registry()
    mine = next(iter(known.values())).model_copy(update={"source": "local", "folder": str(tmp_path / "mine")})
    for module in (models, config, hub_models, launch):
        monkeypatch.setattr(module, "registry", lambda: known | {"mine": mine})
    options = Options(targets=("metrics",), models="mine")
    with pytest.raises(UserError, match=r"mine is no Hugging Face folder \(config.json is missing\)"):
        launch.launch(options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"^model 'mine' has no .safetensors file"):
        launch.launch(options)
    assert calls == []
    (tmp_path / "mine" / "model.safetensors").touch()
    assert launch.launch(options) == 0


def test_a_claim_about_a_model_that_does_not_exist_is_refused_before_anything_runs(calls, monkeypatch):
    real = launch.load_claims
    monkeypatch.setattr(
        launch, "load_claims", lambda name: [claim.model_copy(update={"models": ["gpt3"]}) for claim in real(name)]
    )
    with pytest.raises(
        UserError, match=r"is about the model 'gpt3', which does not exist; use toy or .+ in replications"
    ):
        launch.launch(Options(targets=("metrics",)))
    assert calls == []


@pytest.mark.parametrize("name", ["claims.json", "claims.html", "paper.pdf", "cost.json", "provenance.json"])
def test_a_file_of_the_whole_run_scores_and_judges_every_replication(calls, tmp_path, monkeypatch, name):
    marked = []
    monkeypatch.setattr(launch, "mark_scored", lambda replication, *_: marked.append(replication))
    failed = Claim(
        id="a.x", replication="a", tier="check", statement="x", counterpart=None, source="s", paper_value=None,
        model="toy", verdict="fails", reason="x",
    )  # fmt: skip
    monkeypatch.setattr(conclusion, "read_claims", lambda _: [failed])
    monkeypatch.setattr(conclusion, "record_amendments", lambda *_: [])
    monkeypatch.setattr(conclusion, "overview", lambda _: "1 check fails")
    path = tmp_path / "results" / "smoke" / "claims.json"
    path.parent.mkdir(parents=True)
    path.touch()
    code = launch.launch(Options(targets=(f"results/smoke/{name}",), scale="smoke"))
    assert (marked, code) == (replications(), conclusion.CLAIMS_FAILED)


def test_what_another_replication_reads_is_scored_too(calls, monkeypatch):
    """The rules of circuit tracing read heads of two others, whose steps write metrics of landmarks, too."""
    marked = []
    monkeypatch.setattr(launch, "mark_scored", lambda replication, *_: marked.append(replication))
    launch.launch(Options(targets=("circuit_tracing",), scale="smoke"))
    assert marked == ["circuit_tracing", "induction_heads", "ioi_circuit"]


def test_a_run_that_fails_records_what_it_has_judged_amended(calls, tmp_path, monkeypatch):
    recorded = []
    monkeypatch.setattr(launch, "_snakemake", lambda *_, **__: (1, []))
    monkeypatch.setattr(launch, "explain", lambda *_: "a step failed")
    monkeypatch.setattr(launch, "remove_stale", lambda: None)
    monkeypatch.setattr(conclusion, "read_claims", lambda path: [path.parent.name])
    monkeypatch.setattr(conclusion, "record_amendments", lambda scale, claims: recorded.append((scale, claims)) or [])
    path = tmp_path / "results" / "smoke" / "grokking" / "claims.json"
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(UserError, match="a step failed"):
        launch.launch(Options(targets=("grokking",), scale="smoke"))
    assert recorded == [("smoke", ["grokking"])]
