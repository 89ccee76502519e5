"""A process that has imported the heavy libraries once and forks every step of a run from itself.

`import torch`, pandas, matplotlib and transformers cost a step two to six seconds; a run has over a hundred steps. The
launcher puts a program called `python` in front of the PATH of the steps (`common/engine/forkserver_client.py`). So
`python -m <module>` in a rule asks this server. It imports on the first request, then forks

    server -> keeper -> step

where the step runs the module as `__main__` with the caller's arguments, environment, folder and open files. The keeper
waits for the first of two events. If the step ends, the caller gets its exit status; if the caller is gone, the step is
killed. All of them die with the launcher. A step forgets what the server has imported of the project, so it runs the
sources that are on disk. For steps about a language model, the server also chooses who multiplies float32 matrices
(`common/core/products.py`). Where no server takes the request, the caller becomes an ordinary Python. The same idea as
`multiprocessing`'s forkserver with a preload list, for commands in place of functions.
"""

import contextlib
import importlib
import json
import os
import re
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.core.products import use_onednn
from common.core.step import die_with_parent

LIBRARIES = (
    *("torch", "safetensors.torch", "einops", "jaxtyping", "numpy", "pandas", "scipy.stats", "scipy.optimize"),
    *("sklearn.metrics", "sklearn.linear_model", "transformers.models.auto.tokenization_auto"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_agg", "seaborn", "pydantic", "tyro", "psutil", "tokenizers"),
    *("transformer_lens.model_bridge", "transformers.models.llama.modeling_llama"),
)
ADDRESS = "FORKSERVER"
FOLDER, SOCKET = ".forkserver", "socket"
CLIENT = Path(__file__).with_name("forkserver_client.py")
MODELS = "resources/models/"
OF_A_MODEL = re.compile(r"results/[^/]+/[^/]+/(?!toy/)[^/]+/")  # files of a step about a language model
DESCRIPTORS = 3
HEADER = 8
BACKLOG = 64
ACCEPTED = b"!"  # after it the step is the server's; a caller that does not get it starts the step itself


@contextlib.contextmanager
def forkserver(
    results: Path, environment: dict[str, str], modules: tuple[str, ...] = LIBRARIES
) -> Iterator[dict[str, str]]:
    """Runs a server that holds `modules` while `results`, relative to this folder, is worked on; gives the environment
    with which steps find it. Unchanged where no server can be had."""
    try:
        server = _start(results / FOLDER, environment, modules) if sys.platform == "linux" else None
    except OSError:  # a full disk, or a file system without sockets: steps import for themselves, and say what is wrong
        server = None
    if server is None:
        yield environment
        return
    path = f"{(results / FOLDER).resolve()}{os.pathsep}{environment['PATH']}"
    try:
        yield {**environment, ADDRESS: str(results / FOLDER / SOCKET), "PATH": path}
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(results / FOLDER, ignore_errors=True)


def _start(folder: Path, environment: dict[str, str], modules: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)  # who reaches the socket runs code as this user
    address, program = folder / SOCKET, folder / "python"
    address.unlink(missing_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS {shlex.quote(str(CLIENT))} "$@"\n')
    program.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen(BACKLOG)
        return subprocess.Popen(
            [sys.executable, "-m", "common.engine.forkserver", str(listening.fileno()), *modules],
            env={**environment, "OMP_NUM_THREADS": "1"},  # as Snakemake sets it for steps; a step sets its own later
            pass_fds=[listening.fileno()],
            preexec_fn=die_with_parent,
        )


def serve(listening: socket.socket, modules: list[str]) -> None:
    """Forks a keeper for every connection, until killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the callers end, and their keepers with them
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries ended keepers
    while True:
        connection, _ = listening.accept()
        for module in modules:  # at the first request only; later this is a look into a table
            with contextlib.suppress(Exception):  # a step that needs it will say what is wrong
                importlib.import_module(module)
        server = os.getpid()
        if os.fork() == 0:
            listening.close()
            die_with(server)
            keep(connection)
        connection.close()


def die_with(parent: int) -> None:
    """`die_with_parent`, also if the parent died before the kernel was asked."""
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)


def keep(connection: socket.socket) -> None:
    """Runs the request that comes over `connection` in a child, and reports how it ended. Does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, descriptors, _, _ = socket.recv_fds(connection, HEADER, DESCRIPTORS)
    if len(size) < HEADER or len(descriptors) < DESCRIPTORS:
        os._exit(1)  # the caller died while asking
    length = int.from_bytes(size, "little")
    sent = connection.recv(length, socket.MSG_WAITALL)
    if len(sent) < length:
        os._exit(1)
    request = json.loads(sent)
    connection.sendall(ACCEPTED)
    keeper, step = os.getpid(), os.fork()
    if step == 0:
        connection.close()
        die_with(keeper)
        os._exit(run(request, descriptors))
    ended = os.pidfd_open(step)
    ready, _, _ = select.select([ended, connection.fileno()], [], [])
    if ended not in ready:
        os.kill(step, signal.SIGKILL)
        os._exit(1)
    _, status = os.waitpid(step, 0)
    connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "little", signed=True))
    os._exit(0)


def run(request: dict[str, Any], descriptors: list[int]) -> int:
    """Becomes the process that was asked for and runs its module. Returns the exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    _, module, *arguments = request["arguments"]
    sys.argv = [module, *arguments]
    sys.path[0] = request["folder"]
    reads = any(MODELS in word for word in arguments)
    if reads or any(map(OF_A_MODEL.search, arguments)):
        use_onednn(training=not reads)
    for name in [name for name in sys.modules if name.split(".")[0] == "common"]:
        del sys.modules[name]  # a step reads the sources that are on disk now
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    die_with_parent()
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
