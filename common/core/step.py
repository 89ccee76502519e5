"""The command line around every step: `if __name__ == "__main__": run(public_function)`.

`run` turns the function's typed arguments into options (tyro), ties the process to the workflow that started it, fixes
threads and determinism, prints user errors as one sentence, and closes the log with one `cost: {...}` line.
"""

import ctypes
import json
import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

import psutil
import tyro
from pydantic import ValidationError

from common.core.errors import UserError, from_broken_record, from_os_error

Item = TypeVar("Item")
LOG_INTERVAL = 10.0
COST_PREFIX = "cost: "


def run(step: Callable[..., Any]) -> None:
    """Parses the command line, calls `step`, and exits: 0, or 1 after a user error, or 2 after a bad option."""
    run_command(lambda: tyro.cli(step))


def run_command(command: Callable[[], Any]) -> None:
    """As `run`, for a command that reads the command line itself."""
    die_with_workflow()
    try:
        make_deterministic()
        command()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if (known := from_os_error(error)) is None:
            raise
        sys.exit(f"error: {known}")
    except ValidationError as error:
        traceback.print_exc()
        sys.exit(f"error: {from_broken_record(error)}")
    print(COST_PREFIX + json.dumps(process_cost()), flush=True)
    sys.stderr.flush()
    os._exit(0)  # all files are closed; taking a process with TransformerLens apart would cost seconds more


def make_deterministic(threads: int = 1) -> None:
    """Same seed, lock, number of threads and CPU type give the same bytes. Touches torch only if it is imported.

    One thread, since the workflow runs one step a core: threads that wait for each other cost up to a third more.
    """
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
        torch._C._set_deterministic_algorithms(True)  # the public function also imports the compiler, for over a second
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs a quarter of the time
        if torch.cuda.is_available():
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False


def process_cost() -> dict[str, float]:
    """Wall and CPU seconds since the process began, imports included; peak RSS in MB; GPU seconds (wall time of a step
    that used a GPU) and peak GPU memory in MB."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    wall = time.time() - psutil.Process().create_time()
    torch = sys.modules.get("torch")
    gpu_bytes = torch.cuda.max_memory_allocated() if torch is not None and torch.cuda.is_initialized() else 0
    return {
        "wall_s": round(wall, 3),
        "cpu_s": round(sum(u.ru_utime + u.ru_stime for u in usage), 3),
        "peak_rss_mb": round(max(u.ru_maxrss for u in usage) / 1024, 1),
        "gpu_s": round(wall, 3) if gpu_bytes else 0.0,
        "peak_gpu_mb": round(gpu_bytes / 2**20, 1),
    }


def die_with_workflow() -> None:
    """Kills this process when the workflow that started it dies, even by SIGKILL. No-op outside a workflow.

    The parent shell's death is signalled by the kernel (PR_SET_PDEATHSIG); Snakemake's own death by a pidfd, since the
    shell between it and this process survives it. Where pidfd is missing (not Linux) the process id is polled.
    """
    workflow = os.environ.get("WORKFLOW_PID")
    if workflow is None:
        return

    def wait() -> None:
        if handle is None:
            while _alive(int(workflow)):
                time.sleep(0.5)
        else:
            select.select([handle], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    handle = None
    die_with_parent()
    if sys.platform == "linux":
        try:
            handle = os.pidfd_open(int(workflow))
        except ProcessLookupError:
            os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=wait, daemon=True).start()


def die_with_parent() -> None:
    """Asks the kernel to kill this process when its parent dies (PR_SET_PDEATHSIG; Linux only, elsewhere a no-op)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterates with a progress bar in a terminal, or with one plain line every ten seconds in a log."""
    count = total if total is not None else len(items) if isinstance(items, Sized) else None
    if sys.stderr.isatty():
        from rich.progress import track as bar

        yield from bar(items, description=description, total=count)
        return
    start = last = time.perf_counter()
    for done, item in enumerate(items):
        if (now := time.perf_counter()) - last >= LOG_INTERVAL:
            print(f"{description}: {done} of {count or '?'} after {now - start:.0f} s", flush=True)
            last = now
        yield item
