"""Fixtures shared by all tests. TransformerLens is imported first: from inside a checked module it would be slower."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the launcher does; read when torch loads

import pytest
import transformer_lens.model_bridge  # noqa: F401

from tests.project import alone, copy_project, corpus_folder, finished  # noqa: F401
from tests.replications.ioi_circuit_tiny import bridge, decoder, knockout, no_gradients  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_MODEL = "smollm2-135m-instruct-q4_1"


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The embedded language model as a Hugging Face folder, made once below resources/."""
    import subprocess

    manifest = ROOT / "resources" / "models" / DEFAULT_MODEL / "manifest.json"
    with alone(ROOT / "resources"):
        if not manifest.exists():
            command = [sys.executable, "-m", "common.materialise", "--name", DEFAULT_MODEL, "--out", str(manifest)]
            subprocess.run(command, cwd=ROOT, check=True)
    return manifest.parent
