"""The Makefile, run in a folder of its own."""

import shutil
import subprocess

import pytest


@pytest.fixture
def make(root, tmp_path):
    """Runs `make` in an empty folder with the project's Makefile and lock."""
    shutil.copy(root / "Makefile", tmp_path)
    shutil.copytree(root / "envs", tmp_path / "envs")

    def run(*words):
        return subprocess.run(["make", *words], cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("scale", ["", " "])
def test_clean_without_a_scale_removes_nothing(make, tmp_path, scale):
    (tmp_path / "results" / "laptop").mkdir(parents=True)
    done = make("clean", f"SCALE={scale}")
    assert done.returncode != 0
    assert "error: SCALE is empty" in done.stderr
    assert (tmp_path / "results" / "laptop").exists()


def test_clean_removes_the_results_of_one_scale(make, tmp_path):
    for name in ("laptop", "smoke", "smoke-calibration"):
        (tmp_path / "results" / name).mkdir(parents=True)
    assert make("clean", "SCALE=smoke").returncode == 0
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["laptop"]


def test_names_of_models_reach_the_launcher_as_one_word(make):
    assert '--models "a, b"' in make("-n", "all", "MODELS=a, b").stdout
