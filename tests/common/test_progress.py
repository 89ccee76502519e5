"""What a person sees of a running workflow."""

from io import StringIO

import pytest
from rich.console import Console
from rich.progress import Progress

from common.core.events import Event, Kind
from common.engine.progress import Follower

STARTED = Event(Kind.RUN_STARTED, jobs={"all": 1, "superposition_train": 2, "verify": 1})
EVENTS = [
    STARTED,
    Event(Kind.JOB_STARTED, time=10.0, rule="superposition_train", jobid=2),
    Event(Kind.JOB_FINISHED, time=12.5, rule="superposition_train", jobid=2),
    Event(Kind.JOB_STARTED, time=13.0, rule="verify", jobid=3),
    Event(Kind.JOB_FINISHED, time=13.1, rule="verify", jobid=3),
    Event(Kind.JOB_STARTED, time=14.0, rule="all", jobid=0),
    Event(Kind.JOB_FINISHED, time=14.0, rule="all", jobid=0),
]


@pytest.fixture
def follower():
    screen = StringIO()
    progress = Progress(console=Console(file=screen, width=500), disable=True)
    return Follower(progress, ["all"], "results/smoke"), screen


def test_one_line_per_finished_step_and_none_for_targets(follower):
    followed, screen = follower
    for part in (EVENTS[:2], [], EVENTS[2:]):
        followed.show(part)
    first, *rest = screen.getvalue().splitlines()
    assert first == "3 steps to run; results go to results/smoke/"
    assert [line.split() for line in rest] == [
        ["1/3", "superposition_train", "2.5", "s"],
        ["2/3", "verify", "0.1", "s"],
    ]
    assert followed.running == {}


def test_the_number_of_steps_is_said_before_the_first_one_ends_and_once(follower):
    followed, screen = follower
    followed.show([STARTED, STARTED])
    assert screen.getvalue().splitlines() == ["3 steps to run; results go to results/smoke/"]


def test_a_run_with_nothing_to_do_says_no_number(follower):
    followed, screen = follower
    followed.show([Event(Kind.RUN_STARTED, jobs={"all": 1}), Event(Kind.RUN_FINISHED)])
    assert screen.getvalue() == ""


def test_a_running_step_is_known_until_it_ends(follower):
    followed, _ = follower
    followed.show(EVENTS[:2])
    assert [event.rule for event in followed.running.values()] == ["superposition_train"]
    assert followed.progress.tasks[0].description == "superposition_train"
    followed.show([Event(Kind.JOB_ERROR, rule="superposition_train", jobid=2)])
    assert followed.running == {}
