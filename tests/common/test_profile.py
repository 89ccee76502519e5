"""The profile of a run: names of steps, the longest chain, time by the clock, and what the page says of it."""

from pathlib import Path

import pytest

import benchmarks
from common.core.events import Event, Kind
from common.engine.profile import by_the_clock, critical_path, name_of, own_steps
from common.publish.performance import benchmarks_block, profile_block, profile_totals, spread

RESULTS = Path("results/laptop")


def job(name, inputs=(), outputs=(), event=Kind.JOB_PLANNED, time=0.0):
    log = [f"results/laptop/logs/{name}.log"] if name else []
    return Event(event, time=time, log=log, input=list(inputs), output=list(outputs))


def test_names_are_those_of_the_cost_file():
    assert name_of("results/laptop/logs/a/m/step.log", RESULTS) == "a/m/step"
    assert name_of("resources/logs/python-docs.log", RESULTS) == "models/python-docs"


def test_the_critical_path_is_the_longest_chain_and_not_the_longest_step():
    jobs = [
        job("a/first", [], ["x"]),
        job("a/second", ["x"], ["y"]),
        job("a/third", ["y", "elsewhere"], ["z"]),
        job("a/alone", [], ["w"]),
        job("", ["z", "w"]),
    ]
    seconds = {"a/first": 4.0, "a/second": 5.0, "a/third": 3.0, "a/alone": 10.0}
    assert critical_path(jobs, seconds, RESULTS) == ["a/first", "a/second", "a/third"]
    assert critical_path(jobs, seconds | {"a/alone": 13.0}, RESULTS) == ["a/alone"]
    assert critical_path([], {}, RESULTS) == []


def test_the_clock_counts_for_a_run_that_made_every_step():
    events = [
        Event(Kind.RUN_STARTED, time=100.0),
        job("a/first", event=Kind.JOB_FINISHED, time=130.0),
        job("a/second", event=Kind.JOB_FINISHED, time=160.0),
        Event(Kind.RUN_FINISHED, time=170.0),
    ]
    assert by_the_clock(events, 2) == 60.0
    assert by_the_clock(events, 3) is None
    assert by_the_clock([], 1) is None


def test_models_that_another_run_has_made_are_not_missing():
    shared = Event(Kind.JOB_PLANNED, log=["resources/logs/python-docs.log"], output=["docs"])
    assert own_steps([shared, job("a/first"), job("")], RESULTS) == {"a/first"}


def test_the_page_has_shares_and_what_is_missing():
    steps = {
        "a/train": {"cpu_s": 90.0, "wall_s": 100.0, "peak_rss_mb": 2000.0},
        "b/m/draw": {"cpu_s": 30.0, "wall_s": 30.0, "peak_rss_mb": 500.0},
    }
    found = {
        "scale": "laptop", "machine": "one", "cores": 2, "clock_s": None, "missing": ["b/m/late"],
        "critical_path": ["a/train"], "steps": steps,
    }  # fmt: skip
    text = profile_block(found)
    assert "| a | 1.5 | 75% | 2.0 |" in text
    assert "| b/m/draw | 30 | 30 | 0.5 | 25.0% | 100% |" in text
    assert "Critical path, 100 s of wall time: a/train 100." in text
    assert "Not finished: b/m/late." in text
    assert profile_block(found | {"steps": dict(reversed(steps.items()))}) == text, (
        "costliest first, as a record has names"
    )
    assert profile_totals(found) == "2 CPU minutes, at most 2.0 GB of memory in one step"
    clocked = profile_totals(found | {"clock_s": 95.0})
    assert clocked == "2 CPU minutes, 2 by the clock on 2 cores, at most 2.0 GB of memory in one step"


def test_a_ratio_is_that_of_runs_in_turn(monkeypatch):
    clock = iter([0.0, 1.0, 1.0, 4.0, 4.0, 6.0, 6.0, 10.0, 10.0, 11.0, 11.0, 15.0])
    monkeypatch.setattr(benchmarks, "cpu_seconds", lambda: next(clock))
    row = benchmarks.measured(benchmarks.Task("one", lambda: 1, "other", lambda: 1, lambda a, b: f"{a} and {b}"))
    assert (row["ours"], row["theirs"], row["ratio"]) == ([1, 2, 1], [3, 4, 4], [3, 2, 4])
    assert spread(row["ratio"]) == "3 [2, 4]"
    record = {"machine": "m", "threads": 1, "runs": 3, "versions": {"torch": "2"}, "rows": {"one": [row]}}
    assert "| one | 1 [1, 2] | other | 4 [3, 4] | 3 [2, 4] | 1 and 1 |" in benchmarks_block(record)


def test_sides_may_report_their_own_seconds():
    row = benchmarks.measured(
        benchmarks.Task("one", lambda: (2.0, "a"), "other", lambda: (3.0, "b"), lambda a, b: a + b, report_seconds=True)
    )
    assert row["ratio"] == [1.5, 1.5, 1.5]
    assert row["check"] == "ab"


def test_recorded_timings_have_at_least_three_runs(root):
    path = root / "figures" / "benchmarks.json"
    if not path.exists():
        pytest.skip("no timings are recorded")
    from common.core.files import read_json

    for row in (row for rows in read_json(path)["rows"].values() for row in rows):
        assert min(len(row["ours"]), len(row["theirs"]), len(row["ratio"])) >= 3, row["task"]
