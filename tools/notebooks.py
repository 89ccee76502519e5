"""Runs the notebooks `replications/<name>/tour.ipynb`. Runs in `.venv-tools`; the kernels are Pythons of `.venv`.

    .venv-tools/bin/python tools/notebooks.py [name ...]

A kernel looks into `.venv-tools` for what `.venv` lacks (ipykernel). Nothing is written back: the executed notebooks,
with their figures, go to `results/notebooks/`. Exit code 1 with one line for each notebook that fails or takes too
long.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv" / "bin" / "python"
MODEL = ROOT / "resources" / "models" / "smollm2-135m-instruct-q4_1" / "manifest.json"
LONGEST = int(
    os.environ.get("LONGEST", "600")
)  # seconds of one cell; a notebook takes less than two minutes when alone
START = (
    "import sys; sys.path.append({tools!r}); from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"
)


def register_kernel(folder: Path) -> None:
    """Writes the description of the kernel `landmarks` where jupyter_client looks for it."""
    tools = sysconfig.get_path("purelib")
    words = [str(PYTHON), "-c", START.format(tools=tools), "-f", "{connection_file}", "--log-level=40"]
    kernel = folder / "kernels" / "landmarks"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": words, "display_name": "Landmarks", "language": "python"}))
    os.environ["JUPYTER_PATH"] = str(folder)


def need_model() -> None:
    """Unpacks the embedded model where it is missing, as every run does."""
    if not MODEL.exists():
        code = f"""from pathlib import Path
from common.data.materialise import materialise
materialise({MODEL.parent.name!r}, Path({str(MODEL)!r}))"""
        subprocess.run([str(PYTHON), "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def executed(path: Path) -> str | None:
    """Runs one notebook and keeps the result; what went wrong, or None."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=LONGEST, kernel_name="landmarks", resources={"metadata": {"path": str(path.parent)}}
    )
    try:
        client.execute()
    except CellTimeoutError:
        return f"a cell took longer than {LONGEST} seconds"
    except DeadKernelError:
        return "the kernel died; is there enough memory?"
    except CellExecutionError as error:
        return str(error).strip().splitlines()[-1]
    finally:
        out = ROOT / "results" / "notebooks" / f"{path.parent.name}.ipynb"
        out.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, out)
    return None


def main(names: list[str]) -> int:
    """Runs the named notebooks, or all; the exit code."""
    known = {path.parent.name: path for path in sorted(ROOT.glob("replications/*/tour.ipynb"))}
    if unknown := [name for name in names if name not in known]:
        print(f"error: there is no notebook '{unknown[0]}': there are {', '.join(known)}", file=sys.stderr)
        return 1
    need_model()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        register_kernel(Path(folder))
        for name in names or known:
            start = time.perf_counter()
            problem = executed(known[name])
            failed += problem is not None
            print(f"{name}: {problem or 'ok'} ({time.perf_counter() - start:.0f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
