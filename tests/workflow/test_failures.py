"""What goes wrong in practice: one clear sentence, a nonzero exit, and nothing taken as finished."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.workflow
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture(scope="module")
def project(copy_project):
    """A copy in which nothing has run."""
    return copy_project()


def fails(done, *parts, code=1):
    """The last line on stderr is one sentence with all `parts`, and there is no traceback."""
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == code, done.stdout + done.stderr
    assert last.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in last


def test_unknown_model(project):
    fails(project.run("--models", "gpt5"), "unknown model 'gpt5'", "smollm2-135m-instruct-q4_1")


def test_hub_model_without_a_hub(project):
    fails(project.run("--models", "gpt2"), "'gpt2' comes from a model hub", "HUB=1")


def test_a_hub_model_for_everything(project):
    done = project.run("--models", "gpt2", "--hub", "True")
    fails(done, "only claims of feature_steering, ioi_circuit are about 'gpt2'", "HUB=1 alone")
    assert not (project.path / "results" / "smoke").exists()


def test_gpu_scale_without_a_gpu(project):
    done = subprocess.run(
        [sys.executable, "-m", "common.engine.launch", "--scale", "gpu"], cwd=project.path, capture_output=True,
        text=True, env=project.environment(CUDA_VISIBLE_DEVICES=""), check=False,
    )  # fmt: skip
    fails(done, "SCALE=gpu needs an NVIDIA GPU")
    assert not (project.path / "results" / "gpu").exists()


def test_unknown_target(project):
    fails(project.run("superpositon"), "unknown target 'superpositon'", "superposition")


def test_misspelt_key(copy_project):
    project = copy_project()
    path = project.path / "replications" / "superposition" / "config.yaml"
    path.write_text(path.read_text().replace("smoke:", "smoke:\n  misspelt_part: {}", 1))
    fails(project.run(), "replications/superposition/config.yaml", "misspelt_part", "Allowed keys")
    snakemake = [sys.executable, "-m", "snakemake", "-n", "--config", "scale=smoke"]
    plain = subprocess.run(snakemake, cwd=project.path, env=project.environment(), capture_output=True, text=True)
    assert plain.returncode != 0
    assert "misspelt_part" in plain.stdout + plain.stderr


def test_changed_byte_in_the_weights(copy_project, model_folder):
    """A hard copy of the model with one byte changed, as after a bad disk; the manifest is untouched."""
    import shutil

    project = copy_project()
    (project.path / "resources" / "models").unlink()
    folder = project.path / "resources" / "models" / model_folder.name
    shutil.copytree(model_folder, folder)
    with (folder / "model.safetensors").open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        last = handle.read(1)
        handle.seek(-1, os.SEEK_END)
        handle.write(bytes([last[0] ^ 1]))
    target = f"results/smoke/ioi_circuit/{model_folder.name}/baseline/metrics.json"
    fails(project.run(target), "model.safetensors is damaged or was changed", "make resume")
    assert not (project.path / target).exists()
    shutil.rmtree(folder)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte; skipped where the test may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = AS_ROOT and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False)
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk(copy_project, small_disk):
    project = copy_project()
    (project.path / "results").symlink_to(small_disk)
    (small_disk / "filler").write_bytes(b"0" * 900_000)
    target = "results/smoke/superposition/toy/intro/figures/intro.svg"
    fails(project.run(target), "the disk is full", "make resume")
    (small_disk / "filler").unlink()
    assert not (project.path / target).exists()
    complete = [path for path in project.results.rglob("metrics.json")]
    assert all(path.read_text().rstrip().endswith("}") for path in complete)


def test_read_only_results_folder(copy_project, small_disk):
    project = copy_project()
    (project.path / "results").symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    fails(project.run("superposition"), "read-only", "make it writable")


def test_read_only_results_folder_without_mounting(copy_project):
    if AS_ROOT:
        pytest.skip("root writes everywhere; test_read_only_results_folder covers it")
    project = copy_project()
    (project.path / "results").mkdir(mode=0o555)
    fails(project.run("superposition"), "read-only", "make it writable")


def test_broken_claims_are_found_before_the_computing(copy_project):
    project = copy_project()
    path = project.path / "replications" / "superposition" / "claims.yaml"
    path.write_text(path.read_text().replace("paper_value:", "paper_vaule:", 1))
    fails(project.run(), "replications/superposition/claims.yaml", "paper_vaule")
    assert not (project.results / "logs").exists()


def test_second_run_in_the_same_folder(project):
    import fcntl

    project.results.mkdir(parents=True, exist_ok=True)
    with (project.results / ".owner").open("w") as handle:
        handle.write("4711\n")
        handle.flush()
        fcntl.flock(handle, fcntl.LOCK_EX)
        fails(project.run(), "another run (process 4711) works in results/smoke")
