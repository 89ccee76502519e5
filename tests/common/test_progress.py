"""What a person sees of a running workflow, and what is left of Snakemake's message when it fails."""

import contextlib
import subprocess
import sys
from io import StringIO

import pytest
import tyro
from rich.console import Console
from rich.progress import Progress

from common.engine.progress import Follower, last_error, refused_option, unwritten

LOG = """Job stats:
job                 count
----------------  -------
all                     1
superposition_train     2
verify                  1
total                   4

localrule superposition_train:
    output: results/x
    jobid: 2
[Fri Nov 20 09:07:59 2026]
Finished jobid: 2 (Rule: superposition_train)
rule verify:
    jobid: 3
Finished jobid: 3 (Rule: verify)
Finished jobid: 0 (Rule: all)
"""


@pytest.fixture
def follower(tmp_path):
    screen = StringIO()
    log = tmp_path / "workflow.log"
    log.write_text("")
    progress = Progress(console=Console(file=screen, width=500), disable=True)
    follower = Follower(log, progress, ["all"])
    return follower, log, screen


def test_one_line_per_finished_step_and_none_for_targets(follower):
    followed, log, screen = follower
    for end in (180, 300, len(LOG)):  # the file grows between two looks, also in the middle of a line
        log.write_text(LOG[:end])
        followed.read()
    first, *rest = screen.getvalue().splitlines()
    assert first == f"3 steps to run; results go to {log.parent}/"
    assert [line.split()[:2] for line in rest] == [["1/3", "superposition_train"], ["2/3", "verify"]]
    assert followed.running == {}


def test_the_number_of_steps_is_said_before_the_first_one_ends_and_once(follower):
    followed, log, screen = follower
    log.write_text(LOG[: LOG.index("localrule")] + "Job stats:\njob   count\nverify   1\ntotal   1\n")
    followed.read()
    assert screen.getvalue().splitlines() == [f"3 steps to run; results go to {log.parent}/"]
    assert followed.total == 4, "a plan that grows is counted"


def test_a_run_with_nothing_to_do_says_no_number(follower):
    followed, log, screen = follower
    log.write_text("Job stats:\njob   count\n----  ----\nall   1\ntotal   1\n")
    followed.read()
    assert screen.getvalue() == ""


def test_a_running_step_is_known_until_it_ends(follower):
    followed, log, _ = follower
    log.write_text(LOG[: LOG.index("Finished jobid: 2")])
    followed.read()
    assert [rule for rule, _ in followed.running.values()] == ["superposition_train"]


def test_last_error_is_the_message_of_the_workflow(tmp_path):
    log = tmp_path / "workflow.log"
    log.write_text("Using profile\nWorkflowError in file Snakefile, line 3:\nunknown key 'seed'\n")
    assert last_error(log) == "WorkflowError in file Snakefile, line 3: unknown key 'seed'"
    log.write_text(
        'MissingInputException in rule a in file "common/engine/rules.smk", line 5:\nMissing input files for rule a:\n'
        "    output: resources/models/mine/manifest.json\n    wildcards: model=mine\n    affected files:\n"
        "        mine/config.json\n        mine/model.safetensors\n"
    )
    assert last_error(log).endswith(
        "line 5: Missing input files for rule a: affected files: mine/config.json mine/model.safetensors"
    )
    log.write_text("")
    assert last_error(log) == "no message"


def test_a_step_that_refuses_its_options_says_which():
    def step(first: int, second: int) -> None:
        raise AssertionError

    def box(*options: str) -> list[str]:
        with contextlib.redirect_stderr(StringIO()) as screen, pytest.raises(SystemExit):
            tyro.cli(step, args=options, prog="step")
        return screen.getvalue().splitlines()

    assert refused_option(box("--first", "1", "--second", "2", "--third", "3")) == "does not take --third"
    assert refused_option(box("--first", "1")) == "is not given --second"
    assert refused_option(["cost: {}", "Killed"]) is None


def test_an_output_that_was_not_written_is_named(tmp_path):
    (tmp_path / "Snakefile").write_text("rule late:\n    output: 'out/b.json'\n    shell: 'true'\n")
    log = tmp_path / "workflow.log"
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--latency-wait", "0", "out/b.json"]
    with log.open("w") as output:
        subprocess.run(command, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT, check=False)
    assert unwritten(log) == ("late", "out/b.json")
    log.write_text("Finished jobid: 1 (Rule: late)\n")
    assert unwritten(log) is None
