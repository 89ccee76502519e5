"""What an archive reads of the project: citation files that agree, and a crate that holds what it names."""

import hashlib
import json
import re
import shutil
import subprocess
import sys

import pytest

from common.core.files import read_json, read_yaml
from common.core.settings import replications


def test_the_three_citation_files_and_the_changelog_agree(root):
    cff, meta = read_yaml(root / "CITATION.cff"), read_json(root / "codemeta.json")
    zenodo = read_json(root / ".zenodo.json")
    assert str(cff["version"]) == meta["version"] == zenodo["version"]
    assert f"## {cff['version']}" in (root / "CHANGELOG.md").read_text()
    assert cff["title"] == meta["name"] == zenodo["title"]
    assert cff["abstract"] == meta["description"] == zenodo["description"]
    assert cff["date-released"] == meta["datePublished"] == zenodo["publication_date"]
    assert [one["name"] for one in cff["authors"]] == [one["name"] for one in meta["author"]]
    assert [one["name"] for one in cff["authors"]] == [one["name"] for one in zenodo["creators"]]
    assert cff["keywords"] == meta["keywords"] == zenodo["keywords"]
    assert meta["license"] == f"https://spdx.org/licenses/{cff['license']}"
    assert zenodo["license"] == cff["license"]
    papers = {one["identifier"].removeprefix("arXiv:") for one in zenodo["related_identifiers"]}
    assert papers == {one.rpartition("/")[2] for one in meta["referencePublication"]}


def test_the_page_for_tools_is_short_and_its_commands_exist(root):
    text = (root / "AGENTS.md").read_text()
    assert len(text.encode()) <= 3_072
    helped = subprocess.run(["make", "-s", "help"], cwd=root, capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"\bmake (?:[A-Z]+=\S+ )*([a-z][a-z-]+)", text))
    targets = {word for line in helped.splitlines() for word in re.split(r"\s{2,}", line.strip())[0].split()}
    assert named
    assert named <= targets | {*replications(), "my_result"}


def known_terms(root):
    """The terms of the JSON-LD context that `tools/validate_crate.py` names; the others would be dropped silently."""
    text = (root / "tools" / "validate_crate.py").read_text()
    plain = text.partition('SCHEMA = """')[2].partition('"""')[0].split()
    return {*plain, "File", "conformsTo", "ComputationalWorkflow", "FormalParameter", "input", "output"}


@pytest.mark.workflow
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
