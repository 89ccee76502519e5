"""`make test`: lint, types and all tests, in two sets side by side that share one finished copy of the project.

The first set prints as it goes, the second when both are done. After a pass, `results/tests.json` holds how long it
took and the largest memory of one process; `make gallery` puts it on the front page.
"""

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO

from common.config import ROOT
from common.files import write_json
from common.pages import TESTS

PYTEST = [sys.executable, "-m", "pytest"]
KILLS = "tests/workflow/test_kill.py"
FIRST = [[*PYTEST, "tests/workflow", "tests/browser", "--ignore", KILLS]]
SECOND = [["make", "--no-print-directory", "lint"], [*PYTEST, "tests/common", "tests/replications"], [*PYTEST, KILLS]]


def run(commands: list[list[str]], finished: str, output: IO[str] | None, failed: list[str]) -> None:
    """Runs commands one after the other, all of them; those that fail are appended to `failed`."""
    environment = {**os.environ, "FINISHED": finished, "PYTHONPATH": str(ROOT)}
    for command in commands:
        if subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False).returncode:
            failed.append(" ".join(command[1:]))


def main() -> int:
    """0 if everything passed."""
    start, failed = time.monotonic(), list[str]()
    with tempfile.TemporaryDirectory() as finished, tempfile.TemporaryFile("w+") as output:
        second = threading.Thread(target=run, args=(SECOND, finished, output, failed))
        second.start()
        run(FIRST, finished, None, failed)
        second.join()
        output.seek(0)
        print(output.read(), flush=True)
    if failed:
        print(f"failed: {'; '.join(failed)}")
        return 1
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
    found = {"wall_s": round(time.monotonic() - start), "peak_rss_mb": round(peak), "cores": os.cpu_count()}
    write_json(ROOT / "results" / TESTS, found)
    print(f"all tests passed in {found['wall_s'] / 60:.0f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
