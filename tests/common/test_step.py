"""The command line around a step: one sentence for what a user can mend, a cost line, plain progress in a log."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.core.errors import from_os_error
from common.core.events import Event, Kind
from common.core.step import COST_PREFIX, track
from common.publish.cost import costs, step_cost, total, written_mb

STEP = """
from pathlib import Path
from common.core.step import Files, RunInfo, run_step
from common.core.settings import Strict
from common.core.errors import UserError
class Own(Files):
    out: Path
class Sizes(Strict):
    sizes: list[int]
    fail: str = "no"
def step(files: Own, settings: Sizes, run: RunInfo) -> None:
    sizes, fail, out = settings.sizes, settings.fail, files.out
    assert run.scale == "smoke"
    if fail == "user":
        raise UserError("sizes must be even; pass even sizes")
    if fail == "disk":
        import errno
        raise OSError(errno.ENOSPC, "No space left on device", str(out))
    if fail == "nan":
        from common.core.metrics import Metric
        Metric(value=float("nan"), ci_low=0.0, ci_high=1.0, n=1, unit="1", formula="x")
    if fail == "bug":
        raise ZeroDivisionError
    out.write_text(str(sum(sizes)))
run_step(step)
"""


RUN = {"scale": "smoke", "seeds": [0, 1], "device": "cpu"}


def run_step(tmp_path, settings, files=None, **environment):
    arguments = {"files": files or {"out": str(tmp_path / "out")}, "settings": settings, "run": RUN}
    words = [word for key, value in arguments.items() for word in (f"--{key}", json.dumps(value))]
    command = [sys.executable, "-c", STEP, *words]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def test_a_step_runs_and_closes_with_its_cost(tmp_path):
    done = run_step(tmp_path, {"sizes": [2, 4]})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_text() == "6"
    last = done.stdout.splitlines()[-1]
    cost = json.loads(last.removeprefix(COST_PREFIX))
    assert cost["wall_s"] > 0
    assert cost["peak_rss_mb"] > 5
    assert cost["gpu_s"] == 0
    (tmp_path / "x.log").write_text(done.stdout)
    assert step_cost(tmp_path / "x.log") == cost
    assert step_cost(tmp_path / "removed.log") is None


def test_a_metric_that_is_no_number_is_said_in_the_last_line_below_where_it_arose(tmp_path):
    done = run_step(tmp_path, {"sizes": [2], "fail": "nan"})
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: Metric.value: Input should be a finite number (found nan); ")


@pytest.mark.parametrize(
    ("settings", "files", "sentence"),
    [
        ({"sizes": [2], "fail": "user"}, None, "error: sizes must be even; pass even sizes"),
        ({"sizes": [2], "fail": "disk"}, None, "error: the disk is full"),
        ({"sizes": ["two"]}, None, "cannot read 'sizes.0': Input should be a valid integer"),
        ({"size": [2]}, None, "is given 'size', which it does not know; it has sizes, fail"),
        ({}, None, "is not given 'sizes'; it needs sizes, fail"),
        ({"sizes": [2]}, {"out": "x", "table": "t.csv"}, "is given 'table', which it does not know; it has out"),
    ],
)
def test_mendable_errors_have_no_traceback(tmp_path, settings, files, sentence):
    done = run_step(tmp_path, settings, files)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert COST_PREFIX not in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_bug_keeps_its_traceback(tmp_path):
    assert "ZeroDivisionError" in run_step(tmp_path, {"sizes": [2], "fail": "bug"}).stderr


def test_a_step_dies_with_its_workflow(tmp_path):
    code = (
        "from common.core.step import die_with_workflow; die_with_workflow();"
        "print('up', flush=True); import time; time.sleep(600)"
    )
    workflow = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    step = subprocess.Popen(
        ["bash", "-c", f'{sys.executable} -c "{code}"; true'],
        env=os.environ | {"WORKFLOW_PID": str(workflow.pid)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert step.stdout.readline() == "up\n"
    workflow.kill()
    workflow.wait()
    step.wait(timeout=60)  # the shell goes on to `true` as soon as the step is gone


def test_a_step_does_not_start_for_a_dead_workflow(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    done = run_step(tmp_path, {"sizes": [2]}, WORKFLOW_PID=str(gone.pid))
    assert done.returncode < 0
    assert not (tmp_path / "out").exists()


def test_operating_system_errors():
    assert "the disk is full" in str(from_os_error(OSError(errno.ENOSPC, "", "/tmp/x")))
    assert "it is read-only" in str(from_os_error(OSError(errno.EROFS, "", "/tmp/x")))
    assert from_os_error(OSError(errno.ENOENT, "", "/tmp/x")) is None


def test_progress_in_a_log_is_plain_lines(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    assert list(track(range(6), "reading")) == list(range(6))
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["reading: 2 of 6 after 12 s", "reading: 5 of 6 after 24 s"]


def test_total_adds_seconds_and_takes_the_largest_peak():
    one = {"wall_s": 1.0, "cpu_s": 2.0, "gpu_s": 0.0, "peak_rss_mb": 10.0, "peak_gpu_mb": 0.0}
    both = total([one, one | {"peak_rss_mb": 30.0}])
    assert (both["wall_s"], both["cpu_s"], both["peak_rss_mb"]) == (2.0, 4.0, 30.0)


def test_what_a_step_wrote_is_counted_from_its_events(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/one.json").write_bytes(bytes(1_000_000))
    (tmp_path / "results/two.json").write_bytes(bytes(500_000))
    written = ["results/one.json", "results/two.json", "results/gone.json"]
    events = [
        Event(Kind.JOB_STARTED, rule="train", log=["results/logs/train.log"], output=written),
        Event(Kind.JOB_FINISHED, rule="train", log=["results/logs/train.log"], output=written),
        Event(Kind.JOB_FINISHED, rule="all", output=written),
    ]
    (tmp_path / "events.jsonl").write_text("".join(event.line() for event in events))
    assert written_mb(tmp_path / "events.jsonl") == {"results/logs/train.log": 1.5}
    assert written_mb(tmp_path / "nowhere.jsonl") == {}


def test_cost_is_that_of_the_scale_and_of_what_it_uses(tmp_path, monkeypatch):
    """Not counted are logs and folders of other scales and of models without results at this scale, nor logs of steps
    made on demand."""
    monkeypatch.chdir(tmp_path)
    chat, shallow = "smollm2-135m-instruct-q4_1", "smollm2-135m-shallow"
    line = COST_PREFIX + json.dumps({"wall_s": 1.0, "cpu_s": 1.0, "gpu_s": 0.0, "peak_rss_mb": 9.0, "peak_gpu_mb": 0.0})
    logs = {f"resources/logs/{name}.log" for name in (chat, "gpt2", shallow, "smoke_model", "python-docs", "self-chat")}
    logs |= {f"results/{scale}/logs/toys/draw.log" for scale in ("smoke", "laptop")}
    logs |= {"results/laptop/logs/toys/on_demand/pages.log"}
    for file in [
        *logs, f"results/laptop/toys/{chat}/metrics.json", f"results/smoke/toys/{shallow}/metrics.json",
        *(f"resources/models/{name}/model.safetensors" for name in (chat, shallow, "gpt2")),
        f"resources/trained/{shallow}/model.safetensors", "resources/checkpoints/a.safetensors",
        *(f"resources/corpora/{name}/train.jsonl" for name in ("python-docs", "self-chat")),
    ]:  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(line if file in logs else "x" * 1_000_000)
    laptop, smoke = costs(Path("results/laptop")), costs(Path("results/smoke"))
    shared = {f"models/{chat}", "models/python-docs", "models/self-chat"}
    assert set(laptop["steps"]) == shared | {"toys/draw"}
    assert laptop["replications"]["models"]["disk_mb"] == 3
    assert laptop["total"]["cpu_s"] == 4
    assert laptop["total"]["disk_mb"] == 4
    both = {f"models/{name}" for name in (chat, shallow, "smoke_model", "python-docs", "self-chat")}
    assert set(smoke["steps"]) == both | {"toys/draw"}
    assert smoke["replications"]["models"]["disk_mb"] == 5


def test_torch_is_made_deterministic_without_its_compiler():
    """A private function does what the public one does, less an import; this fails if either changes."""
    code = (
        "import torch, sys; from common.core.step import make_deterministic; make_deterministic()\n"
        "assert torch.are_deterministic_algorithms_enabled(); assert 'torch._inductor' not in sys.modules\n"
        "assert torch.get_num_threads() == 1"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
