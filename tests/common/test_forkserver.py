"""The fork server: a step is what `python -m` would have made of it, and nothing outlives its caller."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from common.core.products import by_onednn
from common.engine.forkserver import forkserver

STEP = """
import os, sys, time
if sys.argv[1] == "report":
    print(sorted(name for name in sys.modules if name.startswith("common")))
    print(sys.argv[2:], __name__, os.getcwd(), os.environ.get("COLOUR"), sys.stdin.read(), "colorsys" in sys.modules)
elif sys.argv[1] == "exit":
    sys.exit(int(sys.argv[2]) if sys.argv[2].isdigit() else sys.argv[2])
elif sys.argv[1] == "raise":
    raise ValueError("no such thing")
elif sys.argv[1] == "kill":
    os.kill(os.getpid(), int(sys.argv[2]))
elif sys.argv[1] == "products":
    import torch
    print(torch.backends.mkldnn.matmul.fp32_precision, os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY"))
elif sys.argv[1] == "wait":
    print(os.getpid(), flush=True)
    time.sleep(600)
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fork server is for Linux")


class Steps:
    """Starts `python -m replications.step` in a folder, as the shell of a rule does."""

    def __init__(self, folder, environment):
        self.folder, self.environment = folder, environment

    def start(self, *arguments, **more):
        command = ["/bin/sh", "-c", 'exec python -m replications.step "$@"', "sh", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env={**self.environment, **more}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments, text="", **more):
        step = self.start(*arguments, **more)
        out, err = step.communicate(text, timeout=60)
        return step.returncode, out, err


@contextlib.contextmanager
def served(folder, root, *modules):
    """The steps of a project in `folder` that has the real `common`."""
    for name in ("results", "replications"):
        (folder / name).mkdir()
    (folder / "replications" / "__init__.py").touch()
    (folder / "replications" / "step.py").write_text(STEP)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {**os.environ, "PATH": path, "PYTHONPATH": str(root)}
    with contextlib.chdir(folder), forkserver(Path("results"), given, ("colorsys", *modules)) as environment:
        yield Steps(folder, environment)


@pytest.fixture(scope="module")
def steps(root, tmp_path_factory):
    with served(tmp_path_factory.mktemp("server"), root) as found:
        yield found


def gone(pid, patience=60.0):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_a_step_has_its_arguments_environment_folder_and_files(steps):
    code, out, err = steps.run("report", "a b", "--c", text="asked", COLOUR="blue")
    assert (code, err) == (0, "")
    loaded, rest = out.splitlines()
    assert loaded == "[]", "the step would run project modules that the server imported"
    assert rest == f"['a b', '--c'] __main__ {steps.folder} blue asked True"


@pytest.mark.parametrize(("how", "what", "code"), [("exit", "0", 0), ("exit", "3", 3), ("kill", "9", -9)])
def test_the_caller_ends_as_the_step_ends(steps, how, what, code):
    assert steps.run(how, what)[0] == code


def test_messages_and_tracebacks_reach_the_log(steps):
    assert steps.run("exit", "one sentence") == (1, "", "one sentence\n")
    code, _, err = steps.run("raise")
    assert code == 1
    assert err.startswith("Traceback")
    assert err.endswith("ValueError: no such thing\n")


def test_a_step_dies_with_its_caller(steps):
    caller = steps.start("wait")
    pid = int(caller.stdout.readline())
    assert pid != caller.pid
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    assert gone(pid)


def test_an_edited_step_runs_as_edited(steps):
    path = steps.folder / "replications" / "step.py"
    try:
        path.write_text("print('edited just now')")
        assert steps.run()[1] == "edited just now\n"
    finally:
        path.write_text(STEP)
        shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)


def test_without_a_server_python_is_python(steps):
    """No server at the address, or a module that is not the project's."""
    code, out, _ = steps.run("report", FORKSERVER="results/nobody")
    assert code == 0
    assert out.endswith("False\n")
    command = ["/bin/sh", "-c", "python -c 'import sys; print(sys.argv)' x"]
    done = subprocess.run(command, cwd=steps.folder, env=steps.environment, capture_output=True, text=True, check=True)
    assert done.stdout == "['-c', 'x']\n"


def test_a_step_dies_with_the_server(root, tmp_path):
    before = {child.pid for child in psutil.Process().children()}
    with served(tmp_path, root) as steps:
        (server,) = {child.pid for child in psutil.Process().children()} - before
        caller = steps.start("wait")
        pid = int(caller.stdout.readline())
        os.kill(server, signal.SIGKILL)
        assert caller.wait(timeout=60) == -signal.SIGKILL
        assert gone(pid)


def test_a_library_that_is_missing_is_the_step_s_own_concern(root, tmp_path):
    with served(tmp_path, root, "no_such_library") as steps:
        assert steps.run("exit", "3")[0] == 3


def test_a_server_that_dies_before_it_takes_the_request(root, tmp_path):
    """The caller starts the step itself."""
    (tmp_path / "end_of_the_server.py").write_text("import os\nos._exit(1)\n")
    with served(tmp_path, root, "end_of_the_server") as steps:
        code, out, _ = steps.run("report")
    assert code == 0
    assert out.endswith("False\n")


def test_nothing_is_left_of_the_server(root, tmp_path):
    with served(tmp_path, root) as steps:
        assert (tmp_path / "results/.forkserver").stat().st_mode & 0o777 == 0o700
        assert steps.run("exit", "0")[0] == 0
    assert list((tmp_path / "results").iterdir()) == []


def test_where_no_server_can_be_had_steps_run_without(tmp_path, monkeypatch):
    """A folder that cannot hold a socket, as on a full disk."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".forkserver").write_text("in the way")
    with forkserver(Path(), {"PATH": "/bin"}) as environment:
        assert environment == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("file", "asked", "kept"),
    [
        ("resources/models/small/manifest.json", True, "None"),
        ("results/full/sparse_autoencoders/small/saes/index.json", True, "64"),
        ("results/full/sparse_autoencoders/toy/planted/metrics.json", False, "None"),
        ("results/full/sparse_autoencoders/claims.json", False, "None"),
    ],
)
def test_steps_about_a_language_model_multiply_in_onednn_where_it_pays(steps, file, asked, kept):
    files = json.dumps({"one": file})
    assert steps.run("products", "--files", files)[1].split() == ["bf16" if asked and by_onednn() else "none", kept]
    assert steps.run("products", "--files", files, ONEDNN="0")[1].split() == ["none", kept]
