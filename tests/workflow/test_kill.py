"""A second copy of the project, killed with -9 again and again. No orphan, no stale lock, and in the end the bytes of
the undisturbed copy. What is not in `AGAIN` is taken from there. So this also shows that two copies give byte-identical
metrics."""

import os
import random
import signal
import subprocess
import time

import psutil
import pytest

from tests.workflow.test_run import metrics_bytes

pytestmark = pytest.mark.workflow
AGAIN = ("grokking", "induction_heads", "probing", "superposition")
"""Replications that are computed again: short steps, long ones, training with checkpoints, and a language model."""
READER = "circuit_tracing/*/named_heads/metrics.json"
"""Reads results of `induction_heads`, so it runs again, too."""
VICTIMS = ("launcher", "step", "snakemake")
TRIES = 4  # until a kill finds its victim, which may end in the same moment
PATIENCE = 300.0  # seconds until a step must have started, or a launcher whose child was killed must have ended
DYING = 30.0  # seconds until everything below what was killed must be gone
LATEST_KILL = 2.0  # seconds after that


def family(launcher):
    """Snakemake and the running steps below a launcher, by what their command line says, and everything below it."""
    try:
        children = psutil.Process(launcher.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return [], [], []
    commands = []
    for child in children:
        try:
            commands.append((child, " ".join(child.cmdline())))
        except psutil.NoSuchProcess:
            continue
    snakemake = [child for child, command in commands if "-m common.engine.snakemake_cli" in command]
    steps = [
        child for child, command in commands if command.find("-m replications.") > 0 and "bash" not in command[:20]
    ]
    return snakemake, steps, children


def wait_for_a_step(launcher):
    """Waits until a step runs; returns (snakemake, steps, all processes of the run)."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and launcher.poll() is None:
        snakemake, steps, everybody = family(launcher)
        if snakemake and steps:
            return snakemake[0], steps, everybody
        time.sleep(0.02)
    output, _ = launcher.communicate(timeout=PATIENCE)
    pytest.fail(f"no step started; the launcher said: {output}")


def survivors(processes):
    """Those that still run after `DYING` seconds. A dead one that `init` has not yet reaped does not count."""
    end = time.monotonic() + DYING
    while (living := [one for one in processes if alive(one)]) and time.monotonic() < end:
        time.sleep(0.05)
    return living


def alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_process_that_was_not_reaped_is_no_survivor():
    child = subprocess.Popen(["true"])
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert survivors([psutil.Process(child.pid)]) == []
    child.wait()


def start_and_kill(project, victim, delay):
    """Starts a run, kills `victim` `delay` seconds after a step was seen, and returns True if the kill found it."""
    launcher = project.start("metrics")
    wait_for_a_step(launcher)
    time.sleep(delay)
    snakemake, steps, everybody = wait_for_a_step(launcher)
    try:
        os.kill({"snakemake": snakemake.pid, "step": steps[0].pid, "launcher": launcher.pid}[victim], signal.SIGKILL)
        hit = True
    except ProcessLookupError:
        hit = False
    if hit:
        output, _ = launcher.communicate(timeout=PATIENCE)
        if victim != "launcher" and launcher.returncode:
            assert "error: " in output
    else:
        launcher.kill()
        launcher.communicate(timeout=PATIENCE)
    assert survivors(everybody) == [], "a process outlived its workflow"
    return hit


def test_killed_copy_ends_with_the_same_bytes(copy_finished, finished):
    project, chance = copy_finished(*AGAIN), random.Random(0)
    left = {path: path.stat().st_mtime_ns for path in project.results.glob("*/*/*/metrics.json")}
    for victim in VICTIMS:
        tries = (start_and_kill(project, victim, chance.uniform(0.0, LATEST_KILL)) for _ in range(TRIES))
        assert any(tries), f"no kill found a {victim}"
    done = project.run("metrics")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "another run" not in done.stderr
    expected = metrics_bytes(finished)
    assert len(expected) > len(left) > 0
    assert metrics_bytes(project) == expected
    again = [path.relative_to(project.results) for path, time in left.items() if path.stat().st_mtime_ns != time]
    assert [path for path in again if not path.match(READER)] == [], "a finished replication ran again"
    assert list(project.path.rglob("*.part-landmarks*")) == []
