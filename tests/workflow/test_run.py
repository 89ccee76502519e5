"""The whole workflow at scale smoke: everything is written, nothing runs twice, and only what changed runs again."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.core.claims import load_claims
from common.core.metrics import read_metrics
from common.core.settings import replications
from common.publish.cost import costs

pytestmark = pytest.mark.workflow
METRICS = "/metrics.json"
FIGURE_FILES = ("svg", "png", "pdf", "csv", "json")


@pytest.fixture(scope="module")
def every_job(finished):
    """All jobs. Planned once: Snakemake takes seconds for it."""
    return finished.planned("all", options=("--forceall",))


@pytest.fixture(scope="module")
def steps(every_job):
    """Every rule with the module that its shell command runs."""
    found = {job.rule: re.search(r"python -m ([\w.]+)", job.shell) for job in every_job}
    return {rule: match[1] for rule, match in found.items() if match}


def metrics_bytes(project):
    files = sorted(project.results.glob("*/*/*/metrics.json"))
    return {path.relative_to(project.path).as_posix(): path.read_bytes() for path in files}


def test_everything_is_written(finished):
    for name in ("claims.json", "claims.md", "claims.html", "provenance.json", "cost.json", "report.html", "paper.pdf"):
        assert (finished.results / name).stat().st_size > 100, name
    assert (finished.results / "paper.pdf").read_bytes().startswith(b"%PDF")
    claims = json.loads((finished.results / "claims.json").read_text())
    assert len(claims) >= 8
    assert all(claim["controls"] for claim in claims if claim["tier"] == "landmark")
    provenance = json.loads((finished.results / "provenance.json").read_text())
    assert provenance["scale"] == "smoke"
    assert len(provenance["lock_sha256"]) == 64
    cost = json.loads((finished.results / "cost.json").read_text())
    assert set(replications()) <= set(cost["replications"])
    assert cost["total"]["wall_s"] > 0


TABLES_ALONE = {
    "refusal_direction/tuning", "sparse_autoencoders/reference",  # premises that only checks read
    "circuit_tracing/cross_layer",  # four numbers, at scale gpu
}  # fmt: skip


@pytest.mark.parametrize("name", replications())
def test_every_measured_part_has_a_figure(finished, name):
    parts = list((finished.results / name).glob("*/*/metrics.json"))
    assert parts
    for path in parts:
        assert read_metrics(path)
        if f"{name}/{path.parent.name}" not in TABLES_ALONE:
            assert list(path.parent.glob("figures/*.svg")), f"{path.parent} has no figure"


def test_every_figure_has_all_its_files(finished):
    stems = {path.with_suffix("") for path in finished.results.glob("*/*/*/figures/*")}
    assert len(stems) >= 4
    for stem in stems:
        assert all(stem.with_suffix(f".{ending}").stat().st_size > 0 for ending in FIGURE_FILES), stem
        about = json.loads(stem.with_suffix(".json").read_text())
        assert len(about["caption"]) > 40
        assert about["sources"]


def test_the_target_browser_makes_a_page_of_every_autoencoder(finished, every_job):
    done = finished.run("browser")
    assert done.returncode == 0, done.stderr
    for index in (finished.results / "sparse_autoencoders").glob("*/saes/index.json"):
        pages = {path.stem for path in (index.parents[1] / "browser").glob("**/*.html")}
        assert pages == {one["name"] for one in json.loads(index.read_text())}
    assert "verify" not in finished.jobs("all"), "nothing is made anew because of the pages"
    assert "sparse_autoencoders_browse_rest" not in {job.rule for job in every_job}, "they are in no other target"
    assert not [step for step in costs(finished.results)["steps"] if "browse_rest" in step]


def test_second_run_does_nothing_even_after_a_touch(finished):
    for path in [*finished.path.glob("common/*/*.py"), *finished.path.glob("replications/*/*.py")]:
        os.utime(path)
    assert finished.jobs("all") == set()


def imported(module):
    """Modules that a step imports, directly or not."""
    from common.core.source_hash import _parsed

    todo, seen = [module], set()
    while todo:
        if (current := todo.pop()) not in seen:
            seen.add(current)
            todo += _parsed(current)[1]
    return seen


@contextlib.contextmanager
def edited(path, old, new):
    """The file with one change that alters its syntax tree."""
    text = path.read_text()
    assert old in text
    try:
        path.write_text(text.replace(old, new))
        yield
    finally:
        path.write_text(text)


def test_an_edit_in_common_reruns_exactly_the_steps_that_import_it(finished, steps):
    """The importing steps rerun, what follows them comes along, and nothing before."""
    uses = {rule: "common.core.statistics" in imported(module) for rule, module in steps.items()}
    with edited(finished.path / "common" / "core" / "statistics.py", "LEVEL = 0.95", "LEVEL = 0.9"):
        rerun = finished.jobs("all")
    importing = {rule for rule, yes in uses.items() if yes}
    assert len(importing) >= 4
    assert importing <= rerun
    assert {"superposition_train_grids", "sparse_autoencoders_collect", "grokking_train"} <= set(uses) - rerun


def test_an_edited_setting_reruns_the_steps_that_read_it(finished):
    config = finished.path / "replications" / "sparse_autoencoders" / "config.yaml"
    with edited(config, "    windows: 4\n    pool: 1000", "    windows: 5\n    pool: 1000"):
        rerun = finished.jobs("all")
    assert {"sparse_autoencoders_measure_language", "sparse_autoencoders_measure_errors"} <= rerun
    assert (
        not {"sparse_autoencoders_collect", "sparse_autoencoders_train_language", "sparse_autoencoders_planted"} & rerun
    )


def test_every_step_carries_the_hash_of_its_sources(finished, steps):
    """An edit in the module that every step imports reruns every step."""
    with edited(finished.path / "common" / "core" / "step.py", "LOG_INTERVAL = 10.0", "LOG_INTERVAL = 11.0"):
        rerun = finished.jobs("all")
    importing = {rule for rule, module in steps.items() if "common.core.step" in imported(module)}
    assert len(importing) >= 20
    shared = {"materialise_model", "smoke_model", "python_docs"}  # their folders are those of the real project
    assert importing <= rerun | shared


def test_an_edit_that_no_step_runs_renews_the_record_alone(finished):
    """`make record` takes results whose record has the present state, so the record follows what other scales run."""
    with edited(finished.path / "replications" / "grokking" / "rules.smk", "# Grokking", "# On grokking"):
        assert finished.jobs("all") - {"all"} == {"grokking_provenance"}


def test_steps_without_a_language_model_do_not_import_one(root):
    modules = [f"replications.superposition.{p.stem}" for p in (root / "replications/superposition").glob("*.py")]
    modules += [
        "common.core.verify",
        "common.publish.paper",
        "common.publish.cost",
        "common.publish.provenance",
        "common.engine.launch",
        "common.engine.status",
    ]
    code = (
        "import importlib, sys\n"
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(module)\n"
        "    found = {'transformers', 'transformer_lens'} & set(sys.modules)\n"
        "    sys.exit(f'{module} imports {found}') if found else None\n"
    )
    command = [sys.executable, "-c", code, *sorted(modules)]
    done = subprocess.run(
        command, cwd=root, check=False, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_status_names_every_replication_and_step(finished):
    done = subprocess.run(
        [sys.executable, "-m", "common.engine.status", "--scale", "smoke"],
        cwd=finished.path, env=finished.environment(COLUMNS="140"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in replications():
        assert name in done.stdout
    assert "to run" not in done.stdout
    assert "done" in done.stdout
    assert "not run" in done.stdout


def test_a_failed_claim_sets_the_exit_code_after_everything_is_written(finished):
    """A bound is moved out of reach: the run must end with 3, name the claim, and still write all files."""
    name = "superposition"
    path, report = finished.path / "replications" / name / "claims.yaml", finished.results / "report.html"
    text, whole = path.read_text(), report.read_bytes()
    claim = next(c for c in load_claims(name) if "toy" in c.models and c.tier == "check")
    import yaml

    content = yaml.safe_load(text)
    for item in content["claims"]:
        if item["id"] == claim.id:
            item["scales"] = ["smoke", "laptop"]
            item["assertion"] = {"at_least": 1e6}
    try:
        path.write_text(yaml.safe_dump(content))
        done = finished.run()
        assert done.returncode == 3, done.stdout + done.stderr
        assert f"claim failed: {name}.{claim.id} on toy" in done.stderr
        assert f"{name}.{claim.id}" in (finished.results / "claims.html").read_text()
        assert report.read_bytes() != whole
    finally:
        path.write_text(text)
        assert finished.run("paper", name).returncode == 0
        report.write_bytes(whole)  # of the same results; to write it anew takes as long as all the rest


def test_the_paper_knows_the_rule_file_of_every_figure(finished, every_job):
    [paper] = [job for job in every_job if job.rule == "paper"]
    [said] = re.findall(r"common\.publish\.paper .*--settings '(.+?)'", paper.shell)
    makers = json.loads(said)["makers"]
    for section in finished.path.glob("replications/*/section.typ"):
        shown = set(re.findall(r'/figures/([\w-]+)"', section.read_text()))
        own = {path: file for path, file in makers.items() if f"/{section.parent.name}/" in path}
        assert shown <= {Path(path).stem for path in own}, section
        assert all(file.startswith(f"replications/{section.parent.name}/") for file in own.values())


def test_the_paper_compiles_with_what_laptop_measures(finished, every_job):
    """Without the parts that `laptop` does not run, and without the metrics that no claim judges there, but for two
    that are measured all the same."""
    planned = finished.planned("all", config=("scale=laptop",), options=("--forceall",))
    parts = {path.split("/")[2] + "/" + path.split("/")[4] for job in planned for path in job.output if METRICS in path}
    results = finished.path / "results" / "as-laptop"
    shutil.copytree(finished.results, results, ignore=shutil.ignore_patterns("logs", "*.html"))
    try:
        for path in results.glob("*/*/*/metrics.json"):
            name, part = path.parts[-4], path.parts[-2]
            if f"{name}/{part}" not in parts:
                shutil.rmtree(path.parent)
                continue
            judged = {"repetition_kept": True, "names": True}
            for claim in load_claims(name):
                if claim.part == part:
                    judged[claim.metric] = judged.get(claim.metric, False) or "laptop" in claim.scales
            content = json.loads(path.read_text())
            path.write_text(json.dumps({metric: it for metric, it in content.items() if judged.get(metric, True)}))
        provenance = results / "provenance.json"
        provenance.write_text(json.dumps(json.loads(provenance.read_text()) | {"scale": "laptop"}))
        [paper] = [job for job in every_job if job.rule == "paper"]
        command = shlex.split(paper.shell.split(" > ")[0].replace("results/smoke/", "results/as-laptop/"))
        done = subprocess.run(
            [sys.executable, *command[1:]], cwd=finished.path, env=finished.environment(), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    finally:
        shutil.rmtree(results)


def test_rules_and_steps_name_the_same_files_and_settings(every_job, root):
    """Each step can read the arguments that its rule gives it; nothing is run."""
    calls = sorted({job.shell for job in every_job if " --files " in job.shell})
    assert len(calls) >= 40
    code = (
        "import json, runpy, shlex, sys\n"
        "import common.core.step as step\n"
        "step.run_step = lambda function: step.read_arguments(function, sys.argv[1:])\n"
        "for shell in json.load(sys.stdin):\n"
        "    words = shlex.split(shell.split(' > ')[0])\n"
        "    sys.argv = words[2:]\n"
        "    runpy.run_module(words[2], run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(calls), cwd=root, text=True, capture_output=True, check=False,
        env=os.environ | {"PYTHONPATH": "."},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
