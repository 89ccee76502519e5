"""The documents in docs/ say what is true: quoted error sentences occur in the code, named files and targets exist."""

import ast
import functools
import re
import subprocess

import pytest

from common.core.claims import load_claims
from common.core.files import read_yaml
from common.core.settings import ROOT, replications
from common.publish.controls import definition, definitions
from common.publish.reference import FAMOUS

DOCS = ("architecture", "claims", "extend", "gpu", "performance", "running", "troubleshooting")
PLACEHOLDER = "<>"


def spoken(node):
    """The text of a string in the code, with a placeholder for every value, or None for other expressions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values)
    return None


@functools.cache
def sentences(root):
    """Every sentence with which the code ends a run: what errors and `sys.exit` are called with."""
    found = set()
    for folder in ("common", "replications"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and node.args:
                    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    if (name == "exit" or name.endswith("Error")) and (text := spoken(node.args[0])):
                        found.add(text)
    return found


def failures(root):
    """What is said of a failed run, with the log that is named at the end."""
    tree = ast.parse((root / "common" / "engine" / "failure.py").read_text())
    said = [text for node in ast.walk(tree) if (text := spoken(node))]
    return {text if "(log: " in text else f"{text} (log: {PLACEHOLDER})" for text in said}


def quoted(page):
    """The sentences that the page quotes: every line in quotation form that begins with `error:`."""
    return [line for _, line in re.findall(r"^> (`+) ?error: (.+?) ?\1$", page, re.MULTILINE)]


def test_every_quoted_error_sentence_occurs_in_the_sources(root):
    known = sentences(root) | {"Python 3.11 or newer is needed", *failures(root)}
    assert "Python 3.11 or newer is needed" in (root / "Makefile").read_text()
    lines = quoted((root / "docs" / "troubleshooting.md").read_text())
    assert len(lines) >= 25
    for line in lines:
        assert re.sub(r"<[^<>]*>", PLACEHOLDER, line) in known, line


def test_a_sentence_that_nobody_says_would_be_found(root):
    assert quoted("> `error: the moon is full`\n> `another line`") == ["the moon is full"]
    assert "the moon is full" not in sentences(root)


@pytest.mark.parametrize("name", DOCS)
def test_named_files_and_make_targets_exist(root, name):
    page = (root / "docs" / f"{name}.md").read_text()
    assert page.startswith("# ")
    for path in re.findall(r"`((?:common|config|envs|profiles|figures|tests)/[\w./-]+)`", page):
        assert "my_result" in path or (root / path).exists(), path
    rules = set(re.findall(r"^\.PHONY: (.+) \$\(NAMES\)", (root / "Makefile").read_text(), re.MULTILINE)[0].split())
    targets = rules | {path.name for path in (root / "replications").iterdir()} | {"my_result"}
    for line in re.findall(r"(?:`|^)make( [^`\n#]+)", page, re.MULTILINE):
        for word in line.split():
            assert word in targets or "=" in word or word.startswith(("HUB", "&&", "<")), f"make {word}"


def test_make_help_names_every_target(root):
    """All of `.PHONY`, the replications in one line."""
    [phony] = re.findall(r"^\.PHONY: (.+) \$\(NAMES\)$", (root / "Makefile").read_text(), re.MULTILINE)
    shown = subprocess.run(["make", "help"], cwd=root, capture_output=True, text=True, check=True).stdout
    described = {word for line in shown.splitlines() for word in re.split(r"\s{2,}", line.strip())[0].split()}
    assert set(phony.split()) | {"<replication>"} <= described


def test_profiles_are_settings_of_snakemake(root):
    import yaml

    for path in sorted((root / "profiles").glob("*/*.yaml")):
        settings = yaml.safe_load(path.read_text())
        assert settings["executor"] in ("local", "slurm", "kubernetes")
        assert settings["rerun-incomplete"] is True


@pytest.mark.parametrize("name", replications())
def test_every_control_of_a_claim_is_defined_once(name):
    """`controls.yaml` says what each control is: one line for a name, or one for each claim that lists it."""
    claims = [one for one in load_claims(name) if one.tier in ("landmark", "check")]
    listed = {(control, one.id) for one in claims for control in one.controls}
    known = definitions(name)
    by_claim = {(control, of) for control, text in known.items() if isinstance(text, dict) for of in text}
    for_all = {control for control, text in known.items() if isinstance(text, str)}
    assert by_claim <= listed
    assert for_all | {control for control, _ in by_claim} == {control for control, _ in listed}
    assert [pair for pair in listed if not definition(f"{name}.{pair[1]}", pair[0])] == []


@pytest.mark.parametrize("name", replications())
def test_famous_figures_name_landmarks_of_their_folder(name):
    """What stands for a figure of the paper exists; what has no counterpart says why."""
    papers = read_yaml(ROOT / "replications" / name / FAMOUS)["papers"]
    figures = [figure for paper in papers for figure in paper["figures"]]
    assert all(("landmark" in figure) != ("reason" in figure) for figure in figures)
    named = {figure["landmark"] for figure in figures if "landmark" in figure}
    assert named
    assert named <= {f"{name}.{claim.id}" for claim in load_claims(name) if claim.tier == "landmark"}
