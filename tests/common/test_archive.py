"""What an archive reads of the project: citation files that agree, and a crate that holds what it names."""

import re
import subprocess

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
