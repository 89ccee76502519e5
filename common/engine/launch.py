"""`python -m common.engine.launch [targets]`: what `make` calls. Checks the run, owns the results folder, starts
Snakemake, and turns the claims into the exit code. With Snakemake's `--dry-run` it prints the plan instead.

The launcher holds a kernel file lock on `results/<scale>/.owner` and hands it to Snakemake. So the lock lives as long
as any process works there, and dies with the last of them. Snakemake dies with the launcher, and steps with Snakemake.
After any kill there is nothing to unlock, and `make resume` is the same as `make`. Before Snakemake starts, checkpoints
of training that was interrupted go if sources, settings or lock have changed since (`common.engine.checkpoints`).

Exit codes: 0 if all is well, 1 if a step failed or the run could not start. 3 if everything was written, but a required
claim fails or a verdict is not the expected one.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import psutil
import tyro

from common.core.claims import load_claims, load_planned
from common.core.errors import UserError
from common.core.events import EVENTS, Event, Kind, Tail, keep_finished
from common.core.files import sweep_temporary_files
from common.core.seals import check_lock
from common.core.settings import ROOT, load_replication, replications
from common.core.step import die_with_parent
from common.data.models import check_weights, own_folder, registry
from common.engine.checkpoints import remove_stale
from common.engine.conclusion import JUDGING, computed, conclude, note_amendments, with_sources
from common.engine.config import Run, check_fresh, gpu_places, load_run, need_gpu
from common.engine.failure import explain, in_one_sentence
from common.engine.forkserver import forkserver
from common.engine.freeze import mark_scored
from common.engine.hub_models import check_chosen
from common.engine.plan import SNAKEMAKE, logged_to, refuse_copied
from common.engine.progress import follow
from common.engine.renewal import check_renewed

WORKFLOW_LOG = "workflow.log"
PLANNED = "plan.jsonl"  # events of a dry run
TARGETS = ("all", "figures", "metrics", "verify", "paper", "corpora", "browser", "sample_self_chat")
STEPS = {"verify": ("verify", "claims_page"), "paper": ("paper",)}  # targets that are steps, with the rules they run
DRY = {"-n", "--dry-run", "--dryrun"}  # options of Snakemake with which it only plans
FIXED_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",  # waiting threads sleep: ten times faster when cores are shared
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "MALLOC_MMAP_THRESHOLD_": "67108864",  # freed tensors of up to 64 MB are used again, not given back and cleared
    "MALLOC_TRIM_THRESHOLD_": "536870912",  # anew: up to 15 % of a step's time. Without a bound memory grew threefold
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}


@dataclass(frozen=True)
class Options:
    """Runs the workflow."""

    targets: tyro.conf.Positional[tuple[str, ...]] = ()
    """all (default), figures, metrics, verify, report, paper, corpora, browser, a replication, or files to be made"""
    scale: str = "laptop"
    """smoke, laptop, full or gpu"""
    models: str = ""
    """names from config/models.yaml, separated by commas; default: those of the scale"""
    hub: Annotated[bool, tyro.conf.FlagConversionOff] = False
    """True if a model hub can be reached"""
    calibrate: bool = False
    """use the calibration seeds; results go to results/<scale>-calibration"""
    seeds: str = ""
    """fresh seeds, separated by commas; results go to results/<scale>-fresh-<seeds>"""
    cores: str = "all"
    """processor cores to use"""
    snakemake: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """a further option for Snakemake, after all others: --snakemake=--dry-run; may be given several times"""


def launch(options: Options) -> int:
    """Runs the workflow and returns the exit code."""
    options = replace(options, models=names(options.models))
    run = load_run(
        options.scale, calibrate=options.calibrate, models=options.models, hub=options.hub, seeds=options.seeds
    )
    need_gpu(run)
    _check_folders(run.models)
    for name in replications():
        load_replication(name, run.scale)
        _check_claims(name)
    targets = [target for target in options.targets if target != "report"]
    wants_report = not options.targets or bool({"all", "report"} & set(options.targets))
    files = [target for target in targets if target.startswith((f"{run.results}/", "resources/"))]
    known = {*TARGETS, *replications(), *files}
    if unknown := sorted(set(targets) - known):
        raise UserError(
            f"unknown target '{unknown[0]}'; use {', '.join(TARGETS)}, report, a file below {run.results}/ "
            f"or a replication: {', '.join(replications())}"
        )
    named = computed(targets, Path(run.results))
    measured = with_sources(named)
    for name in measured:
        check_lock(name, run.scale, scored=run.kind == "scored")
        if run.kind == "scored":
            check_renewed(name, run.scale)
    if run.kind == "fresh":
        check_fresh(run.seeds, measured)
    if options.models and set(targets or ["all"]) & {*JUDGING, "figures", "metrics"}:
        check_chosen(run.models)
    results = Path(run.results)
    with _owner(results) as owner:
        for folder in (results / name for name in named):
            refuse_copied(sorted(folder.glob("*/*/metrics.json")), folder)
        sweep_temporary_files(results)
        dry = bool(DRY & set(options.snakemake))
        if not dry:
            remove_stale()
        if not dry and run.kind == "scored":
            for name in measured:
                mark_scored(name, run.scale, run.of(name).seeds)
        try:
            code, events = _snakemake(run, options, targets or ["all"], owner, dry=dry)
        finally:
            if not dry:
                note_amendments(results, measured, run)
        if code:
            raise UserError(explain(results, events, results / WORKFLOW_LOG))
        if dry:
            print((results / WORKFLOW_LOG).read_text(encoding="utf-8", errors="replace"), end="")
            return 0
        idle = not any(event.event == Kind.RUN_STARTED for event in events)
        if wants_report and not (idle and report_is_current(results)):
            _report(run, options, owner)
    return conclude(results, list(options.targets), run)


def report_is_current(results: Path) -> bool:
    """Whether the report is newer than its texts, its templates and the last steps."""
    report = results / "report.html"
    texts = [*ROOT.glob("replications/*/captions/*"), *ROOT.glob("replications/*/*.smk"), *ROOT.glob("paper/*.rst")]
    sources = [ROOT / "common" / "publish" / "report.py", *(ROOT / "common" / "publish" / "templates").glob("*")]
    made = [results / "cost.json", results / "paper.pdf", *texts, *sources]
    return report.exists() and all(path.stat().st_mtime < report.stat().st_mtime for path in made if path.exists())


def names(given: str) -> str:
    """Names separated by commas, without spaces and empty ones."""
    return ",".join(name for part in given.split(",") if (name := part.strip()))


def _check_folders(models: list[str]) -> None:
    """UserError if a model of the user's own is not where the registry says; Snakemake would name a missing file."""
    known = registry()
    for name in models:
        if known[name].source == "local":
            check_weights(name, own_folder(known[name]))


def _check_claims(name: str) -> None:
    """UserError if a claim is about a model that does not exist; it would never be judged."""
    models = ["toy", *registry()]
    for claim in [*load_claims(name), *load_planned(name)]:
        if unknown := sorted(set(claim.models) - set(models)):
            raise UserError(
                f"claim {name}.{claim.id} is about the model '{unknown[0]}', which does not exist; use "
                f"{' or '.join(models)} in replications/{name}/claims.yaml"
            )


@contextlib.contextmanager
def _owner(results: Path) -> Iterator[int]:
    """Holds the lock of the results folder. UserError naming the process that works there."""
    with in_one_sentence():
        results.mkdir(parents=True, exist_ok=True)
        handle = os.open(results / ".owner", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(handle, 32).decode().strip() or "unknown"
            raise UserError(f"another run (process {pid}) works in {results}; wait for it or stop it") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield handle
    finally:
        os.close(handle)


def _command(run: Run, options: Options) -> list[str]:
    config = {"scale": run.scale, "hub": int(run.hub), "calibrate": int(options.calibrate), "models": options.models}
    config |= {"seeds": options.seeds}
    pairs = [f"{key}={value}" for key, value in config.items() if value]
    cores = ["--cores", options.cores]
    limits = [f"gpu={gpu_places(run.device)}", f"mem_mb={psutil.virtual_memory().total * 3 // 4_000_000}"]
    return [*SNAKEMAKE, *cores, "--resources", *limits, "--config", *pairs]


def _environment(run: Run) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, **FIXED_ENVIRONMENT, "PATH": path, "HUB": str(int(run.hub))}


def _snakemake(run: Run, options: Options, targets: list[str], owner: int, *, dry: bool) -> tuple[int, list[Event]]:
    """Runs Snakemake to its end; returns its exit code and the events of this run."""
    results = Path(run.results)
    if dry:
        (results / PLANNED).unlink(missing_ok=True)
    else:
        with in_one_sentence():
            keep_finished(results / EVENTS)
    tail = Tail(results / (PLANNED if dry else EVENTS))
    rules = [rule for target in targets for rule in STEPS.get(target, (target,))]
    command = [*_command(run, options), *logged_to(tail.path), *options.snakemake, "--", *rules]
    with forkserver(results, _environment(run)) as environment:
        with (results / WORKFLOW_LOG).open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, pass_fds=[owner], stdout=output, stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
            )  # fmt: skip
        try:
            return follow(process, tail, [target for target in targets if target not in STEPS])
        except KeyboardInterrupt:
            process.wait()
            raise


def _report(run: Run, options: Options, owner: int) -> None:
    report = Path(run.results, "report.html")
    command = [*_command(run, options), "--reporter", "landmarks", "--report-landmarks-path", str(report), "--", "all"]
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(run), pass_fds=[owner], check=False, capture_output=True, text=True
    )
    if done.returncode or not report.exists():
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1]
        raise UserError(f"the report could not be written: {last}")


def main() -> None:
    """Command line: every expected failure is one sentence on stderr."""
    os.chdir(ROOT)
    try:
        code = launch(tyro.cli(Options))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; `make resume` carries on from here")
    sys.exit(code)


if __name__ == "__main__":
    main()
