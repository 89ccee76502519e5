"""The contract of every step, and the command line around it.

A step is a function `step(files: Files, settings: Settings, run: RunInfo)`; it may leave out `settings` or `run`. Its
module ends with `run_step(step)`. `Files` names what the step reads and writes, field by field as the rule names its
inputs and outputs. `settings` is one typed object from `config.yaml`. Both arrive as JSON: `--help` lists the fields.

`run_step` ties the process to the workflow that started it, and fixes threads and determinism. It prints user errors as
one sentence, and closes the log with one `cost: {...}` line.
"""

import argparse
import ctypes
import inspect
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
from typing import Any, Literal, TypeVar, get_type_hints

import psutil
import tyro
from pydantic import TypeAdapter, ValidationError

from common.core.errors import UserError, from_broken_record, from_os_error
from common.core.settings import Scale, Strict

Item = TypeVar("Item")
LOG_INTERVAL = 10.0
COST_PREFIX = "cost: "
ARGUMENTS = ("files", "settings", "run")


class Files(Strict):
    """Base of what a step reads and writes: fields of type `Path`, `list[Path]` or `Path | None`."""


class RunInfo(Strict):
    """What every step may know of the run: its scale, its seeds, and where torch computes."""

    scale: Scale
    seeds: list[int]
    device: Literal["cpu", "cuda"]


def run_step(step: Callable[..., None]) -> None:
    """Reads `--files`, `--settings` and `--run`, calls `step`, and exits: 0, or 1 after a user error."""
    run_command(lambda: step(**read_arguments(step, sys.argv[1:])))


def read_arguments(step: Callable[..., None], words: list[str]) -> dict[str, Any]:
    """The checked arguments of `step` from its command line.

    Raises:
        UserError: a field is missing, unknown or of the wrong type; the sentence names the step and the field.
    """
    hints = get_type_hints(step)
    module = sys.modules[step.__module__]
    name = module.__spec__.name if module.__spec__ is not None else step.__module__
    types = {key: hints[key] for key in inspect.signature(step).parameters if key in ARGUMENTS}
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=inspect.getdoc(step),
        epilog="\n".join(line for key, kind in types.items() for line in _fields(key, kind)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for key in types:
        parser.add_argument(f"--{key}", required=True, metavar="JSON")
    given = vars(parser.parse_args(words))
    return {key: _checked(name, key, kind, given[key]) for key, kind in types.items()}


def _fields(key: str, kind: Any) -> Iterator[str]:
    yield f"\nfields of --{key}:"
    for field, about in getattr(kind, "model_fields", {}).items():
        shown = getattr(about.annotation, "__name__", str(about.annotation))
        yield f"  {field}: {shown}" + (f"  {about.description}" if about.description else "")


def _checked(name: str, key: str, kind: Any, text: str) -> Any:
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        found = error.errors()
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        place = ".".join(map(str, first["loc"])) or key
        known = ", ".join(getattr(kind, "model_fields", {}))
        what = {
            "extra_forbidden": f"is given '{place}', which it does not know; it has {known}",
            "missing": f"is not given '{place}'; it needs {known}",
        }.get(first["type"], f"cannot read '{place}': {first['msg']}")
        raise UserError(f"step {name} {what} (--{key}; the rule in rules.smk and the step must agree)") from None


def run(step: Callable[..., Any]) -> None:
    """Runs a command with typed arguments (tyro) that is no step of a replication."""
    run_command(lambda: tyro.cli(step))


def run_command(command: Callable[[], Any]) -> None:
    """Calls `command` as `run_step` calls a step, for a command that reads its own command line."""
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
    """Wall and CPU seconds since the process began, imports included; peak RSS and peak GPU memory in MB. GPU seconds
    are the wall time of a step that used a GPU."""
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

    The parent shell's death is signalled by the kernel (PR_SET_PDEATHSIG). Snakemake's own death is signalled by a
    pidfd, since the shell between it and this process survives it. Where pidfd is missing (not Linux) the process id is
    polled.
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
