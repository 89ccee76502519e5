"""The record of a run: what Snakemake's events become in the file, and what is read back from it."""

import pytest

from common.core.events import Event, Kind, Tail, keep_finished, last_finished, parse, read_events
from common.engine.failure import explain, one_line, unfinished
from common.engine.plan import SNAKEMAKE, logged_to, plan
from common.engine.progress import follow
from common.publish.cost import written_mb

SNAKEFILE = """
rule all:
    input: "out/a.json"
rule good:
    input: "in.txt"
    output: "out/{name}.json"
    log: "logs/{name}.log"
    shell: "echo '{}' > {output}"
rule bad:
    output: "out/bad.txt"
    log: "logs/bad.log"
    shell: "echo 'error: the table is empty' > {log}; false"
rule late:
    output: "out/late.txt", "out/there.txt"
    log: "logs/late.log"
    shell: "touch out/there.txt"
rule missing:
    input: "mine/config.json", "mine/model.safetensors"
    output: "out/missing.txt"
    shell: "touch {output}"
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.replace("{}", "{{}}"))
    (tmp_path / "in.txt").touch()
    return tmp_path


@pytest.fixture
def run(project, root, monkeypatch):
    """Runs targets of a small workflow with the plugin; gives the exit code and the events."""
    import os
    import subprocess

    monkeypatch.setenv("PYTHONPATH", str(root))

    def run(*targets):
        tail = Tail(project / "events.jsonl")
        command = [*SNAKEMAKE, "--cores", "1", "--latency-wait", "0", *logged_to(tail.path), "--", *targets]
        with (project / "workflow.log").open("wb") as output:
            process = subprocess.Popen(command, cwd=project, stdout=output, stderr=output, env={**os.environ})
        return follow(process, tail, ["all"])

    monkeypatch.chdir(project)
    return run


def test_a_run_is_recorded_from_start_to_end(run, capsys):
    code, events = run("all")
    assert code == 0
    assert [event.event for event in events] == [
        Kind.RUN_STARTED, Kind.JOB_STARTED, Kind.JOB_FINISHED, Kind.JOB_STARTED, Kind.JOB_FINISHED, Kind.RUN_FINISHED,
    ]  # fmt: skip
    assert events[0].jobs == {"good": 1, "all": 1}
    started, finished = events[1:3]
    assert (started.rule, started.wildcards) == ("good", {"name": "a"})
    assert (started.input, started.output, started.log) == (["in.txt"], ["out/a.json"], ["logs/a.log"])
    assert started.shell == "echo '{}' > out/a.json"
    assert (finished.jobid, finished.rule, finished.output) == (started.jobid, "good", ["out/a.json"])
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["1/1", "good"]
    code, events = run("all")
    assert (code, [event.event for event in events]) == (0, [Kind.RUN_FINISHED]), "nothing was to be done"


def test_a_failed_step_is_explained_by_its_log(run, project):
    code, events = run("out/bad.txt")
    assert code != 0
    [error] = [event for event in events if event.event == Kind.JOB_ERROR]
    assert (error.rule, error.log) == ("bad", ["logs/bad.log"])
    assert explain(project, events, project / "workflow.log") == "the table is empty (log: logs/bad.log)"
    (project / "logs" / "bad.log").write_text("usage: no\npython -m a.b: error: unrecognized arguments: --such\n")
    assert "a.b: error: unrecognized arguments: --such" in explain(project, events, project / "workflow.log")
    (project / "logs" / "bad.log").write_text("")
    assert explain(project, events, project / "workflow.log").startswith("step bad ended without a message; it was")


NUMPY = (
    "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 728. TiB for an array with shape "
    "(100000000000000,) and data type float64"
)
TORCH = (
    "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 40000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a total capacity of 23.65 GiB "
    "of which 11.06 MiB is free. Including non-PyTorch memory, this process has 23.60 GiB memory in use. Of the "
    "allocated memory 22.90 GiB is allocated by PyTorch, and 194.87 MiB is reserved by PyTorch but unallocated. If "
    "reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid "
    "fragmentation.  See documentation for Memory Management  "
    "(https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"
)


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ("MemoryError", "ran out of memory; the"),
        (NUMPY, "ran out of memory (it asked for 728 TiB more); the"),
        (TORCH, "ran out of memory (it asked for 37,252.90 GiB more); the"),
        (CUDA, "ran out of GPU memory (it asked for 22.00 MiB more); the"),
        ("torch.cuda.OutOfMemoryError: CUDA out of memory.", "ran out of GPU memory; the"),
        ("torch.AcceleratorError: CUDA error: out of memory", "ran out of GPU memory; the"),
    ],
)
def test_a_step_without_memory_is_named_with_the_remedy(tmp_path, last, said):
    log = tmp_path / "train.log"
    log.write_text(f'epoch 3\nTraceback (most recent call last):\n  File "train.py", line 3, in train\n{last}\n')
    failed = Event(Kind.JOB_ERROR, rule="toys_train", log=[str(log)])
    sentence = explain(tmp_path, [failed], tmp_path / "workflow.log")
    assert sentence.startswith(f"step toys_train {said} same command with CORES=1 ")
    assert sentence.endswith(f"(log: {log})")
    assert "Traceback" not in sentence


@pytest.mark.parametrize(
    "last",
    [
        "RuntimeError: CUDA error: device-side assert triggered",
        "ValueError: the text says MemoryError",
        "error: MemoryError is the name of a column",
    ],
)
def test_other_errors_are_told_as_they_are(tmp_path, last):
    """Also where an error of memory was caught before."""
    log = tmp_path / "train.log"
    log.write_text(f"MemoryError\n\nDuring handling of the above exception, another exception occurred:\n\n{last}\n")
    failed = Event(Kind.JOB_ERROR, rule="toys_train", log=[str(log)])
    assert explain(tmp_path, [failed], tmp_path / "workflow.log") == f"{last.removeprefix('error: ')} (log: {log})"


def test_an_output_that_was_not_written_is_named(run, project):
    code, events = run("out/late.txt")
    said = explain(project, events, project / "workflow.log")
    assert code != 0
    assert said.startswith("a step ended without writing an output that its rule in rules.smk names: ")
    assert "in rule late" in said
    assert "out/late.txt (missing" in said


def test_missing_input_and_an_unknown_target_are_named(run, project):
    log = project / "workflow.log"
    said = explain(project, run("out/missing.txt")[1], log)
    assert said.startswith("the workflow stopped: MissingInputException in rule missing")
    assert "mine/config.json" in said
    assert "mine/model.safetensors" in said
    assert "No rule to produce nothing" in explain(project, run("nothing")[1], log)
    log.write_text("usage:\nerror: unrecognized arguments: --such\n")
    assert "unrecognized arguments: --such" in explain(project, [], log)


def test_a_workflow_that_was_killed_names_what_ran(project):
    events = [Event(Kind.JOB_STARTED, rule=rule, jobid=index) for index, rule in enumerate(("train", "draw"))]
    events.append(Event(Kind.JOB_FINISHED, rule="train", jobid=0))
    assert unfinished(events) == ["draw"]
    assert explain(project, events, project / "workflow.log").startswith(
        "the workflow was killed while draw ran; `make"
    )


def test_long_messages_keep_beginning_and_end():
    message = one_line("MissingInputException:\n" + "  file\n" * 1000 + "last.json")
    assert len(message) < 700
    assert message.startswith("MissingInputException: file")
    assert message.endswith("last.json")


def test_a_plan_names_jobs_with_their_files_and_runs_nothing(project, root):
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}
    [good, every] = sorted(plan("all", folder=project, environment=environment), key=lambda job: job.rule)[::-1]
    assert (good.rule, every.rule) == ("good", "all")
    assert (good.event, good.output, good.log) == (Kind.JOB_PLANNED, ["out/a.json"], ["logs/a.log"])
    assert not (project / "out").exists()


def test_torn_lines_are_skipped_and_unfinished_ones_wait(tmp_path):
    path, first = tmp_path / "events.jsonl", Event(Kind.JOB_STARTED, rule="train", jobid=1)
    path.write_text('{"event": "job start\n[]\n{"event": "of another version"}\n' + first.line())
    assert read_events(path) == [first]
    tail = Tail(path)
    with path.open("a") as handle:
        handle.write(first.line()[:20])
        handle.flush()
        assert tail.read() == []
        handle.write(first.line()[20:])
    assert tail.read() == [first]
    assert tail.read() == []
    assert Tail(tmp_path / "none.jsonl").read() == []


def test_of_earlier_runs_the_last_finish_of_each_step_is_kept(tmp_path):
    path = tmp_path / "events.jsonl"
    finishes = [
        Event(Kind.JOB_FINISHED, time=time, rule="train", log=[log], output=[output])
        for time, log, output in ((1.0, "a.log", "old"), (2.0, "b.log", "b"), (3.0, "a.log", "new"))
    ]
    path.write_text("".join(event.line() for event in [Event(Kind.RUN_STARTED), *finishes, Event(Kind.RUN_FINISHED)]))
    keep_finished(path)
    assert read_events(path) == finishes[1:] == last_finished(finishes)
    keep_finished(tmp_path / "none.jsonl")


def test_what_steps_have_written_is_measured_from_their_outputs(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, size in (("weights", 2_000_000), ("folder/a", 500_000), ("folder/b", 500_000)):
        (tmp_path / name).write_bytes(b"0" * size)
    outputs = [str(tmp_path / name) for name in ("weights", "folder", "removed")]
    path = tmp_path / "events.jsonl"
    path.write_text(Event(Kind.JOB_FINISHED, rule="train", log=["train.log"], output=outputs).line())
    assert written_mb(path) == {"train.log": 3.0}
    assert written_mb(tmp_path / "none.jsonl") == {}


def test_empty_fields_are_left_out_of_the_file():
    assert "wildcards" not in Event(Kind.RUN_FINISHED).line()
    assert parse(Event(Kind.RUN_FINISHED, time=1.0).line()) == [Event(Kind.RUN_FINISHED, time=1.0)]
