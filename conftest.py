"""Fixtures shared by all tests. TransformerLens is imported by itself: from inside a checked module it would be slower.
Workflow and browser tests do without it, since they load models in other processes only.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers run side by side; read when torch loads, as the next
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the launcher does

import pytest

from tests.project import alone, copy_finished, copy_project, corpus_folder, finished  # noqa: F401

PATHS = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
if not PATHS or not all(path.startswith(("tests/workflow", "tests/browser")) for path in PATHS):
    import transformer_lens.model_bridge  # noqa: F401

    from tests.fixtures.ioi_circuit_tiny import bridge, decoder, knockout, no_gradients  # noqa: F401

if TYPE_CHECKING:
    from common.core.events import Event

ROOT = Path(__file__).resolve().parent
DEFAULT_MODEL = "smollm2-135m-instruct-q4_1"


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture
def unsaved_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out and not rendered, which takes most of the time; the run at scale smoke writes every one."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: Path(path).write_text("drawn"))


@pytest.fixture(scope="session")
def planned_jobs() -> "list[Event]":
    """All jobs of scale laptop. Planned once: Snakemake takes seconds for it."""
    from common.engine.plan import whole_workflow

    return whole_workflow()


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The embedded language model as a Hugging Face folder, made once below resources/."""
    import subprocess

    manifest = ROOT / "resources" / "models" / DEFAULT_MODEL / "manifest.json"
    with alone(ROOT / "resources"):
        if not manifest.exists():
            code = f"from common.data.materialise import *; materialise({DEFAULT_MODEL!r}, Path({str(manifest)!r}))"
            command = [sys.executable, "-c", code]
            subprocess.run(command, cwd=ROOT, check=True)
    return manifest.parent
