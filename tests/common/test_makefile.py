"""The Makefile, run in a folder of its own."""

import os
import shutil
import subprocess
import sys

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


PYTHON = """#!/bin/sh
[ "$1" = -m ] || exec {real} "$@"
mkdir -p "$3/bin"
cp pip "$3/bin/pip"
"""
PIP = """#!/bin/sh
echo "$@" >> asked
case "$*" in *cpu*) echo "ERROR: no torch+cpu here" >&2; echo "a hint" >&2; exit 1;; esac
"""


@pytest.mark.parametrize("target", ["setup", "test-interop"])
def test_why_the_cpu_build_is_not_installed_is_said(make, tmp_path, monkeypatch, target):
    for name, text in {"bin/python3": PYTHON.format(real=sys.executable), "pip": PIP}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    said = make(target, "TORCH=cpu").stdout
    assert "Installing torch with CUDA (several GB): the CPU build cannot be had (ERROR: no torch+cpu here)" in said
    assert "envs/lock-torch.txt" in (tmp_path / "asked").read_text()
