"""What an archive reads of a run: a crate that holds what it names."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.workflow


def known_terms(root):
    """The terms of the JSON-LD context that `tools/validate_crate.py` names; the others would be dropped silently."""
    text = (root / "tools" / "validate_crate.py").read_text()
    plain = text.partition('SCHEMA = """')[2].partition('"""')[0].split()
    return {*plain, "File", "conformsTo", "ComputationalWorkflow", "FormalParameter", "input", "output"}


def test_the_crate_of_a_run_names_what_it_holds(finished, root):
    for name in ("README.md", "CITATION.cff", "LICENSE"):
        shutil.copy(root / name, finished.path / name)
    command = [sys.executable, "-m", "common.publish.crate", "--scale", "smoke"]
    environment = finished.environment()
    done = subprocess.run(command, cwd=finished.path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    crate = finished.results / "crate"
    graph = {one["@id"]: one for one in json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]}
    files = {name for name, one in graph.items() if "File" in one["@type"]}
    there = {path.relative_to(crate).as_posix() for path in crate.rglob("*") if path.is_file()}
    assert files == there - {"ro-crate-metadata.json"}
    assert {one["@id"] for one in graph["./"]["hasPart"]} == files
    for line in (crate / "manifest-sha256.txt").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((crate / name).read_bytes()).hexdigest() == digest
    used = {key for one in graph.values() for key in one if not key.startswith("@")}
    types = {
        kind for one in graph.values() for kind in ([one["@type"]] if isinstance(one["@type"], str) else one["@type"])
    }
    assert used | types <= known_terms(root)
    referred = {one["@id"] for one in graph["#run"]["result"]} | {one["@id"] for one in graph["#run"]["object"]}
    assert referred <= graph.keys()
    assert graph["#run"]["startTime"] < graph["#run"]["endTime"]
    if (judge := root / ".venv-tools" / "bin" / "python").exists():
        command = [str(judge), str(root / "tools" / "validate_crate.py"), str(crate)]
        judged = subprocess.run(command, capture_output=True, text=True, check=False)
        assert judged.returncode == 0, judged.stdout + judged.stderr
    shutil.rmtree(crate)
