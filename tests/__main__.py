"""`make test`: lint, types and all tests, in parts that two workers take side by side and that share one finished copy
of the project.

The first part makes the finished copy, the last two need it, and all others fill the time between. A part goes to the
worker that is free, so that both end at about the same time.
A part is printed when it is done. After a pass, `results/tests.json` holds how long it took and the largest memory of
one process; `make record` puts it on the front page.
"""

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque

from common.core.files import write_json
from common.core.settings import ROOT
from common.publish.pages import TESTS

WORKERS = 2
PYTEST = [sys.executable, "-m", "pytest", "--durations=10", "--durations-min=5"]
KILLS, FAILURES, NEW = (f"tests/workflow/test_{name}.py" for name in ("kill", "failures", "new"))
IGNORED = [f"--ignore={path}" for path in (KILLS, FAILURES, NEW)]
PARTS = {
    "finished run": [*PYTEST, "tests/workflow", *IGNORED],
    "unit tests": [*PYTEST, "tests/common", "replications"],
    "failures, new replication": [*PYTEST, FAILURES, NEW],
    "pretended GPU": [sys.executable, "-m", "tests.pretended_gpu"],
    "lint": ["make", "--no-print-directory", "lint"],
    "kills": [*PYTEST, KILLS],
    "browser": [*PYTEST, "tests/browser"],
}


def work(waiting: deque[str], finished: str, passed: set[str], printing: threading.Lock) -> None:
    """Takes parts until none is left; those that pass are added to `passed`."""
    environment = {**os.environ, "FINISHED": finished, "PYTHONPATH": str(ROOT)}
    while True:
        try:
            name = waiting.popleft()
        except IndexError:
            return
        start = time.monotonic()
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            done = subprocess.run(
                PARTS[name], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
            )
            output.seek(0)
            with printing:
                print(f"{output.read()}{name}: {time.monotonic() - start:.0f} s\n", flush=True)
        if not done.returncode:
            passed.add(name)


def main() -> int:
    """0 if everything passed."""
    start, passed, waiting = time.monotonic(), set[str](), deque(PARTS)
    print(f"{len(PARTS)} parts, {WORKERS} at a time: {', '.join(PARTS)}", flush=True)
    with tempfile.TemporaryDirectory() as finished:
        shared = (waiting, finished, passed, threading.Lock())
        workers = [threading.Thread(target=work, args=shared) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                worker.join()
        finally:
            waiting.clear()  # after Ctrl-C no further part is taken
    if failed := [name for name in PARTS if name not in passed]:
        print(f"failed: {'; '.join(failed)}")
        return 1
    wall = round(time.monotonic() - start)
    peak = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000)
    write_json(ROOT / "results" / TESTS, {"wall_s": wall, "peak_rss_mb": peak, "cores": os.cpu_count()})
    print(f"all tests passed in {wall / 60:.0f} minutes ({wall} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
