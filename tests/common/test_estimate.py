"""`make estimate`: what is known of a run's cost, from where, and what is not."""

import json

import pytest

from common.core.errors import UserError
from common.core.events import Event, Kind
from common.core.step import COST_PREFIX
from common.engine.estimate import SHARED, Estimate, cells, estimate, estimates, in_total

RAN = {"cpu_s": 30.0, "wall_s": 31.0, "gpu_s": 0.0, "peak_rss_mb": 500.0, "peak_gpu_mb": 0.0}
RECORD = {"cpu_s": 120.0, "peak_rss_mb": 900.0, "peak_gpu_mb": 0.0, "steps": 2}
STEPS = {
    "grokking_train": "grokking/train-a",
    "grokking_draw": "grokking/draw",
    "probing_truth": "probing/m/truth",
    "paper": "paper",
}


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Estimates of four steps, after the named ones have run and with the given records and profile."""
    monkeypatch.chdir(tmp_path)

    def known(scale="laptop", ran=(), records=None, gpu=None, profile=None):
        results = tmp_path / "results" / scale
        for step in ran:
            log = results / "logs" / f"{step}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(COST_PREFIX + json.dumps(RAN) + "\n")
        (tmp_path / "figures" / "gpu").mkdir(parents=True)
        for path, content in {"records.json": records, "gpu/records.json": gpu, "profile.json": profile}.items():
            if content is not None:
                (tmp_path / "figures" / path).write_text(json.dumps(content))
        jobs = [Event(Kind.JOB_PLANNED, rule=rule, log=[f"{results}/logs/{log}.log"]) for rule, log in STEPS.items()]
        return estimates(scale, [*jobs, Event(Kind.JOB_PLANNED, rule="all")], results, tmp_path / "figures")

    return known


def record(scale, device="a CPU", **more):
    return {"scale": scale, "device": device, "cost": RECORD | more}


def test_nothing_is_guessed(known):
    profile = {"scale": "full", "machine": "a CPU", "missing": [], "steps": {"grokking/draw": RAN}}
    found = known(records={"grokking": record("full")}, gpu={"probing": record("gpu")}, profile=profile)
    assert found == {"grokking": Estimate(2), "probing": Estimate(1), SHARED: Estimate(1)}
    assert cells(found["grokking"]) == ["2", "not known", "not known", "not known", ""]
    assert in_total(found) == Estimate(4, None, "0 of 3")


def test_results_count_when_every_step_is_finished(known):
    found = known(ran=["grokking/train-a", "grokking/draw", "paper"], records={"grokking": record("laptop")})
    cost = {"cpu_s": 60.0, "peak_rss_mb": 500.0, "peak_gpu_mb": 0.0}
    assert found["grokking"] == Estimate(2, cost, "results")
    assert found[SHARED].source == "results"
    assert cells(found["grokking"]) == ["2", "1.0", "0.5", "–", "results"]


def test_records_stand_in_for_unfinished_results(known):
    found = known("full", ran=["grokking/draw"], records={"grokking": record("full"), "probing": record("laptop")})
    cost = {key: RECORD[key] for key in ("cpu_s", "peak_rss_mb", "peak_gpu_mb")}
    assert found["grokking"] == Estimate(2, cost, "record", "a CPU")
    assert found["probing"] == Estimate(1)
    assert in_total(found) == Estimate(4, cost, "1 of 3")


def test_a_record_of_a_gpu_says_what_was_used_there(known):
    found = known("gpu", gpu={"probing": record("gpu-calibration", "a GPU", peak_gpu_mb=6848.5)})
    assert cells(found["probing"]) == ["1", "2.0", "0.9", "6.8", "record"]
    assert cells(in_total(found)) == ["4", "2.0", "0.9", "6.8", "1 of 3"]


def test_a_profile_counts_where_it_misses_no_step(known):
    """Its steps may have other names than the planned ones."""
    one = {"cpu_s": 6.0, "wall_s": 7.0, "peak_rss_mb": 100.0}
    steps = {"grokking/train_a": one, "grokking/draw": one | {"peak_rss_mb": 300.0}, "probing/m/truth": one}
    steps |= {"models/m": one, "paper": one}
    found = known(profile={"scale": "laptop", "machine": "a CPU", "missing": ["probing/draw"], "steps": steps})
    assert found["grokking"] == Estimate(
        2, {"cpu_s": 12.0, "peak_rss_mb": 300.0, "peak_gpu_mb": 0.0}, "profile", "a CPU"
    )
    assert found["probing"] == Estimate(1)
    assert found[SHARED].cost["cpu_s"] == 12.0
    assert in_total(found).cost == {"cpu_s": 24.0, "peak_rss_mb": 300.0, "peak_gpu_mb": 0.0}


def test_an_unknown_scale_is_one_sentence():
    with pytest.raises(UserError, match="unknown scale 'huge': use SCALE=smoke"):
        estimate("huge")


def test_every_row_of_the_whole_workflow_is_shown(monkeypatch, planned_jobs, capsys, root):
    monkeypatch.chdir(root)
    monkeypatch.setattr("common.engine.estimate.plan", lambda *targets, **options: planned_jobs)
    monkeypatch.setenv("COLUMNS", "80")
    estimate("laptop")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows][-2:] == [SHARED, "total"]
    steps = [int(row.split("│")[2]) for row in rows]
    assert steps[-1] == sum(steps[:-1]) == sum(bool(job.log) for job in planned_jobs)
