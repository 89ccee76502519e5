"""Several steps in one process: the command line that the rules write is the one that the process reads."""

import re
import sys

import pytest

from common.core.settings import ROOT
from replications.superposition.draw import PLANS
from replications.superposition.several import run_several, split
from replications.superposition.wiring import calls

FOLDER = ROOT / "replications" / "superposition"


def test_the_process_reads_what_the_rules_write():
    steps = {"intro": "measure_intro", "sets": "measure_sets"}
    files = {"intro__models": "a b.safetensors", "intro__table": "t.csv", "sets__models": "s", "others": "not a file"}
    line = calls(steps, files, {"intro": "--seeds 0 1", "unused": "--x"})
    assert line == "+ measure_intro --models 'a b.safetensors' --table t.csv --seeds 0 1 + measure_sets --models s"
    words = ["+", "measure_intro", "--seeds", "0", "+", "measure_sets"]
    assert split(words) == [["measure_intro", "--seeds", "0"], ["measure_sets"]]


def test_steps_run_in_order_with_their_own_options(monkeypatch):
    seen = []

    def first(*, seeds: list[int]) -> None:
        seen.append(("first", seeds))

    def second(*, name: str = "x") -> None:
        seen.append(("second", name))

    monkeypatch.setattr("replications.superposition.several.run_command", lambda command: command())
    monkeypatch.setattr(
        sys, "argv", ["m", "+", "second", "+", "first", "--seeds", "0", "1", "+", "second", "--name", "y"]
    )
    run_several(first, second)
    assert seen == [("second", "x"), ("first", [0, 1]), ("second", "y")]


def test_an_unknown_step_is_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["m", "+", "paint"])
    with pytest.raises(SystemExit, match="error: unknown step paint; known are run_several"):
        run_several(run_several)


def test_every_measuring_step_is_collected():
    called = (FOLDER / "measure.py").read_text().split("run_several(")[1]
    assert re.findall(r"\w+", called) == sorted(path.stem for path in FOLDER.glob("measure_*.py"))


def test_every_drawing_function_has_a_figure():
    used = {plan.draw.__name__ for plan in PLANS.values()}
    assert used == {path.stem for path in FOLDER.glob("draw_*.py")}
