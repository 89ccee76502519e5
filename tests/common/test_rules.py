"""What `complete_steps` gives rules: a log for each job, and a place on the GPU for steps that compute there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.engine import rules
from common.engine.rules import takes_device

LISTED = r"""
import json
import re
from pathlib import Path

Path("{out}").write_text(json.dumps({{
    one.name: {{
        "module": one.params.get("module"),
        "log": [re.sub(r"{{(\w+),[^{{}}]*}}", r"{{\1}}", str(file)) for file in one.log],
        "wildcards": [sorted(file.get_wildcard_names()) for file in [*one.log, *one.output]],
        "gpu": one.resources["gpu"].value if "gpu" in one.resources else None,
        "runs": bool(one.shellcmd),
    }}
    for one in workflow.rules
}}))
"""
STEPS = """
import sys
sys.path.insert(0, "{root}")
from common.engine.rules import Steps, complete_steps
STEP = Steps("replications.grokking", {{"scale": "gpu", "seeds": [0], "device": "cuda"}})
include: "{root}/common/engine/step.smk"
use rule step as grokking_fit with:
    output: "out/{{model}}/{{part}}/{{seed}}.json", "out/{{seed}}/{{part}}/{{model}}.csv"
    params: **STEP("train")
use rule grokking_fit as grokking_fit_again with:
    output: "again/{{seed}}.json"
use rule step as bound with:
    output: "out/bound.json"
    log: "<logs>/elsewhere/bound.log"
    resources: gpu=0
    params: **STEP("train")
use rule step as draw with:
    output: "out/draw.json"
    params: **STEP("draw", run=False)
complete_steps(workflow.rules, "cuda")
"""


def listed(snakefile: Path, root: Path, *options: str):
    """The rules of a workflow, by name; nothing is planned."""
    command = [sys.executable, "-m", "snakemake", "--nolock", "--snakefile", str(snakefile), "--directory", str(root)]
    environment = {key: value for key, value in os.environ.items() if key != "WORKFLOW_PID"} | {"PYTHONPATH": str(root)}
    subprocess.run([*command, *options, "--list-rules"], env=environment, check=True, capture_output=True, text=True)
    return json.loads((snakefile.parent / "rules.json").read_text())


@pytest.fixture(scope="module")
def of_scale(root, tmp_path_factory):
    """The rules of the project at a scale."""

    def of_scale(scale):
        folder = tmp_path_factory.mktemp(scale)
        text = f'include: "{root}/Snakefile"\n' + LISTED.format(out=folder / "rules.json")
        (folder / "Snakefile").write_text(text)
        return listed(folder / "Snakefile", root, "--config", f"scale={scale}")

    return {scale: of_scale(scale) for scale in ("laptop", "gpu")}


@pytest.mark.parametrize("scale", ["laptop", "gpu"])
def test_every_rule_has_a_log_of_its_own(of_scale, scale):
    """Two jobs of a rule differ in a wildcard, so the log holds all of them."""
    found = {name: rule for name, rule in of_scale[scale].items() if rule["runs"]}
    assert len(found) > 100
    for name, rule in found.items():
        assert len(rule["log"]) == 1, name
        assert all(wildcards == rule["wildcards"][0] for wildcards in rule["wildcards"]), name
    logs = [rule["log"][0] for rule in found.values()]
    assert len(set(logs)) == len(logs)
    assert found["refusal_direction_study_sham"]["log"] == [
        f"results/{scale}/logs/refusal_direction/{{model}}/study_sham-{{switch}}-{{seed}}.log"
    ]
    assert found["claims_page"]["log"] == [f"results/{scale}/logs/claims_page.log"]


def test_steps_that_compute_on_the_gpu_have_a_place_there(of_scale, root):
    """`measure_planted` hands `run` to a function of another step, which trains on the GPU; all others say it."""
    steps = {name: rule for name, rule in of_scale["gpu"].items() if rule["module"]}
    sources = {name: Path(root, *rule["module"].split(".")).with_suffix(".py") for name, rule in steps.items()}
    told = {name for name, path in sources.items() if "run.device" in path.read_text()}
    assert {name for name, rule in steps.items() if rule["gpu"] == 1} == told | {"circuit_tracing_measure_planted"}
    assert {"grokking_train", "probing_truth"} < told
    assert not {name for name, rule in of_scale["laptop"].items() if rule["gpu"] is not None}


def test_what_a_rule_says_itself_is_kept(root, tmp_path):
    (tmp_path / "Snakefile").write_text(STEPS.format(root=root) + LISTED.format(out=tmp_path / "rules.json"))
    found = listed(tmp_path / "Snakefile", tmp_path)
    assert {name: (rule["log"][0], rule["gpu"]) for name, rule in found.items()} == {
        "step": ("logs/step.log", None),
        "grokking_fit": ("logs/{model}/fit-{part}-{seed}.log", 1),
        "grokking_fit_again": ("logs/fit_again-{seed}.log", 1),
        "bound": ("logs/elsewhere/bound.log", 0),
        "draw": ("logs/draw.log", None),
    }


MODULES = {
    "tells": "def step(run):\n    place(run.device)\n",
    "hands": "from common.tells import step as other\n\n\ndef step(files, run):\n    other(files, run=run)\n",
    "imports": "from common.tells import step as other\n\n\ndef step(files, run):\n    other(files, run.seeds)\n",
    "own": "def step(run):\n    model(device='cpu').device\n    again(run)\n\n\ndef again(run):\n    print(run)\n",
    "library": "from torch import step as other\n\n\ndef step(run):\n    other(run)\n",
}


@pytest.mark.parametrize(
    ("module", "takes"), [("tells", True), ("hands", True), ("imports", False), ("own", False), ("library", False)]
)
def test_a_step_takes_the_device_that_it_or_a_module_it_calls_reads(tmp_path, monkeypatch, module, takes):
    (tmp_path / "common").mkdir()
    for name, text in MODULES.items():
        (tmp_path / "common" / f"{name}.py").write_text(text)
    monkeypatch.setattr(rules, "ROOT", tmp_path)
    takes_device.cache_clear()
    assert takes_device(f"common.{module}") is takes
    takes_device.cache_clear()
