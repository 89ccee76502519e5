"""Checkpoints of interrupted training survive a start at which nothing they depend on has changed, and no other."""

from pathlib import Path

import pytest

from common.engine import launch
from common.engine.checkpoints import BESIDE, FOLDER, remove_stale

LEFT = (
    "resources/checkpoints/0123456789abcdef.safetensors",
    "results/laptop/sparse_autoencoders/m/saes/index.json.main",
    "results/laptop/sparse_autoencoders/m/saes/index.json.soft",
    "results/laptop/sparse_autoencoders/m/saes/index.json.length50",
    "results/smoke/sparse_autoencoders/toy/planted/saes.safetensors.with_auxk",
    "results/laptop-calibration/sparse_autoencoders/toy/planted/saes.safetensors.easy_frozen",
    "results/full/sparse_autoencoders/m/reference/index.training",
    "results/laptop/grokking/toy/dictionary/metrics.checkpoint",
    "results/laptop/refusal_direction/m/guard/sae.part-landmarks",
)
EVERYBODYS = ("common/toys/training.py", "config/scales/laptop.yaml", "Snakefile", "envs/lock.txt")
NOBODYS = (
    "common/engine/launch.py",
    "common/publish/report.py",
    "replications/sparse_autoencoders/claims.yaml",
    "replications/sparse_autoencoders/language_figures.py",
    "replications/sparse_autoencoders/tests/test_sweep.py",
)
TOY = "replications/grokking/train.py"
OF_ONE = ("replications/sparse_autoencoders/sweep.py", "replications/refusal_direction/rules.smk", TOY)
SOURCES = EVERYBODYS + NOBODYS + OF_ONE
KEPT = (
    "results/laptop/sparse_autoencoders/m/saes/index.json",
    "results/laptop/sparse_autoencoders/toy/planted/saes.safetensors",
    "results/laptop/sparse_autoencoders/toy/planted/.saes.safetensors.17.part-landmarks.easy",
    "results/laptop/refusal_direction/m/models/tuned/model.safetensors.index.json",
    "results/laptop/claims.json",
)


@pytest.fixture
def project(tmp_path):
    """A small project that was started once, with checkpoints left behind by a kill."""
    for name in SOURCES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"first {name}")
    (tmp_path / TOY).write_text("from common.toys.training import train")
    assert remove_stale(tmp_path) == 0
    for name in LEFT + KEPT:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("state")
    return tmp_path


def test_checkpoints_survive_a_start_without_a_change(project, capsys):
    assert remove_stale(project) == 0
    assert all((project / name).exists() for name in LEFT + KEPT)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", EVERYBODYS)
def test_checkpoints_go_after_an_edit(project, name, capsys):
    (project / name).write_text("second")
    assert remove_stale(project) == len(LEFT)
    assert not any((project / name).exists() for name in LEFT)
    assert all((project / name).exists() for name in KEPT)
    [line] = capsys.readouterr().out.splitlines()
    assert f"{len(LEFT)} checkpoints removed" in line
    (project / LEFT[0]).write_text("state")
    assert remove_stale(project) == 0, "the new state was stored"


@pytest.mark.parametrize("name", NOBODYS)
def test_an_edit_that_no_training_can_see_leaves_them(project, name):
    (project / name).write_text("second")
    assert remove_stale(project) == 0
    assert all((project / name).exists() for name in LEFT + KEPT)


def test_an_edit_of_one_replication_leaves_those_of_others(project):
    (project / TOY).write_text("from common.toys.training import train as t")
    assert remove_stale(project) == 2
    gone = [name for name in LEFT if not (project / name).exists()]
    assert gone == [LEFT[0], LEFT[-2]], "toys by `common.toys.training`, and its own"
    (project / "replications/refusal_direction/rules.smk").write_text("second")
    assert remove_stale(project) == 1
    assert not (project / LEFT[-1]).exists()
    assert all((project / name).exists() for name in LEFT[1:-2])


def test_checkpoints_of_a_replication_that_is_gone_go(project):
    (project / "replications/refusal_direction/rules.smk").unlink()
    (project / "replications/refusal_direction").rmdir()
    (project / "replications/sparse_autoencoders/sweep.py").write_text("second")
    assert remove_stale(project) == len(LEFT) - 2


def test_checkpoints_of_unknown_origin_go(project):
    (project / FOLDER / ".state").unlink()
    assert remove_stale(project) == len(LEFT)


def test_no_output_is_taken_for_a_checkpoint(planned_jobs):
    """A step names its checkpoint after an output, with one more suffix."""
    outputs = {path for step in planned_jobs for path in step.output}
    assert len(outputs) > 100
    assert not [path for path in outputs if BESIDE.fullmatch(Path(path).name)]


def test_the_launcher_removes_them_before_snakemake_starts(project, monkeypatch):
    (project / "Snakefile").write_text("second")
    seen = []

    def snakemake(*_, dry):
        seen.append([name for name in LEFT if (project / name).exists()])
        return 0, []

    monkeypatch.chdir(project)
    monkeypatch.setattr(launch, "_snakemake", snakemake)
    monkeypatch.setattr(launch, "mark_scored", lambda *_: None)
    assert launch.launch(launch.Options(targets=("metrics",))) == 0
    assert seen == [[]]
