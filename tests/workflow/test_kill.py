"""kill -9 of Snakemake or of a step: no orphan, no stale lock, and the next run ends with the same bytes."""

import os
import random
import signal
import time

import psutil
import pytest

from tests.workflow.test_run import metrics_bytes

pytestmark = pytest.mark.workflow
TARGET = "superposition"


def family(launcher):
    """Snakemake and the running steps below a launcher, by what their command line says."""
    try:
        children = psutil.Process(launcher.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return [], []
    commands = []
    for child in children:
        try:
            commands.append((child, " ".join(child.cmdline())))
        except psutil.NoSuchProcess:
            continue
    snakemake = [child for child, command in commands if "-m snakemake" in command]
    steps = [
        child for child, command in commands if command.find("-m replications.") > 0 and "bash" not in command[:20]
    ]
    return snakemake, steps


def wait_for_a_step(launcher, deadline=60.0):
    """Waits until a step runs, then a little; returns (snakemake, steps), or None if the run ended before."""
    end = time.monotonic() + deadline
    while time.monotonic() < end and launcher.poll() is None:
        snakemake, steps = family(launcher)
        if snakemake and steps:
            return snakemake[0], steps
        time.sleep(0.02)
    return None


@pytest.mark.parametrize("victim", ["snakemake", "step", "launcher"])
def test_kill_and_resume(victim, finished, copy_project):
    project = copy_project()
    chance = random.Random(victim)
    kills = 0
    for _ in range(2 if victim == "step" else 1):
        launcher = project.start(TARGET)
        found = wait_for_a_step(launcher)
        if found is None:
            launcher.communicate()
            break
        snakemake, steps = found
        time.sleep(chance.uniform(0.0, 2.0))
        if launcher.poll() is not None:
            break
        try:
            victims = {"snakemake": snakemake.pid, "step": steps[0].pid, "launcher": launcher.pid}
            os.kill(victims[victim], signal.SIGKILL)
            kills += 1
        except ProcessLookupError:
            pass
        output, _ = launcher.communicate(timeout=120)
        alive = psutil.wait_procs([snakemake, *steps], timeout=10)[1]
        assert alive == [], "a process outlived its workflow"
        if victim == "snakemake" and launcher.returncode:
            assert "error: " in output
    assert kills >= 1
    done = project.run(TARGET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "another run" not in done.stderr
    expected = {name: content for name, content in metrics_bytes(finished).items() if f"/{TARGET}/" in name}
    assert metrics_bytes(project) == expected
    left = [path for path in project.path.rglob("*.part-landmarks*")]
    assert left == []
