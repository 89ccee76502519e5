"""The project itself: lock, documents, paper sources and code say what is true."""

import ast
import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.core.claims import load_claims
from common.core.files import read_json, read_yaml
from common.core.settings import replications
from common.core.verify import NOT_RUN, read_claims
from common.engine.config import check_fresh, fresh_seeds
from common.publish.pages import famous_papers, pages, with_block

LOCKS = ("lock.txt", "lock-torch.txt", "lock-torch-cpu.txt", "interop.lock", "tools.lock")


MADE = ("results", "resources", "build", "dist", "__pycache__", "node_modules")  # by runs and tools, not by hand


def tracked(root, *patterns):
    """Files of the project that match: what git lists or, without git or outside a checkout, what lies in the tree."""
    if (root / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(["git", "ls-files", *patterns], cwd=root, capture_output=True, text=True, check=False)
        if listed.returncode == 0:
            return [root / line for line in listed.stdout.splitlines() if (root / line).exists()]
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in MADE and (not name.startswith(".") or name == ".ci")]
        paths = [Path(folder, name).relative_to(root).as_posix() for name in names]
        found += [root / path for path in paths if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)]
    return sorted(found)


@pytest.mark.parametrize("reason", ["no checkout", "no git", "git fails"])
def test_files_are_found_without_git(tmp_path, monkeypatch, reason):
    """As in an archive of the sources: what tools and runs have made is left out, folders below are searched."""
    kept = ["README.md", "common/a.py", "common/saes/b.py", "docs/c.md"]
    for name in [*kept, ".venv/lib/d.py", "results/e.md", "resources/f.md", "common/__pycache__/g.py", "docs/h.svg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if reason != "no checkout":
        (tmp_path / ".git").mkdir()
    if reason == "no git":
        monkeypatch.setenv("PATH", "")
    assert [path.relative_to(tmp_path).as_posix() for path in tracked(tmp_path, "*.md", "common/*.py")] == kept


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_a_version_and_hashes(root, name):
    entries = re.split(r"\n(?=\S)", (root / "envs" / name).read_text().strip())
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry
    torch = [entry for entry in entries if entry.startswith(("torch==", "nvidia-", "triton"))]
    assert bool(torch) == name.startswith("lock-torch")


def test_every_requirement_is_locked(root):
    locked = {re.split("==", line)[0] for name in LOCKS for line in (root / "envs" / name).read_text().splitlines()}
    for file in ("requirements.in", "data.in", "interop.in", "tools.in"):
        for line in (root / "envs" / file).read_text().splitlines():
            if line and not line.startswith("#"):
                assert line.split("==")[0] in locked, line


def test_tools_have_the_versions_of_the_main_lock_where_both_hold_a_package(root):
    """The Python of `.venv` runs the notebooks and looks into `.venv-tools` for what it lacks."""
    main, tools = (
        dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (root / "envs" / name).read_text(), re.MULTILINE))
        for name in ("lock.txt", "tools.lock")
    )
    assert {name for name in main.keys() & tools.keys() if main[name] != tools[name]} == {"rich"}


def test_installed_packages_are_complete_but_for_the_known_ones():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    missing = {line.split(" requires ")[1].split(",")[0] for line in done.stdout.splitlines() if "requires" in line}
    assert missing == {"transformers-stream-generator", "llama-cpp-python", "llm"}


def test_generated_parts_of_the_documents_are_those_of_the_records(root):
    if stale := [
        str(page.relative_to(root)) for page, text in pages(root / "figures").items() if page.read_text() != text
    ]:
        pytest.fail(f"the generated parts of {', '.join(stale)} are not those of figures/; run `make pages`")


def unexpected(landmarks, verdicts, scales):
    """Landmarks whose recorded verdict is not what `claims.yaml` expects at the scale of the record, nor tolerated."""
    found = []
    for name, claim in landmarks.items():
        verdict, expected = verdicts.get(name, NOT_RUN), claim.at(scales[name.split(".")[0]])
        if verdict not in (NOT_RUN, expected.expected_verdict, *expected.tolerated_verdicts):
            found.append(f"{name}: {verdict}, expected {expected.expected_verdict}")
    return found


def recorded(root):
    """The landmarks that have a record, their verdicts there, and the scale of each record."""
    scales = {name: one["scale"] for name, one in read_json(root / "figures/records.json").items()}
    named = {f"{name}.{claim.id}": claim for name in replications() if name in scales for claim in load_claims(name)}
    landmarks = {name: claim for name, claim in named.items() if claim.tier == "landmark"}
    verdicts = {claim.id: claim.verdict for claim in read_claims(root / "figures" / "claims.json")}
    return landmarks, verdicts, scales


def test_every_recorded_verdict_is_expected(root):
    """A scored landmark without an expected verdict could change and no run would fail."""
    assert unexpected(*recorded(root)) == []


def test_every_landmark_has_a_row_in_the_index_of_figures():
    shown = {figure.get("landmark") for paper in famous_papers() for figure in paper["figures"]}
    assert {
        f"{name}.{claim.id}" for name in replications() for claim in load_claims(name) if claim.tier == "landmark"
    } <= shown


def test_a_scored_landmark_that_expects_nothing_would_be_found(root):
    landmarks, verdicts, scales = recorded(root)
    name = next(name for name, verdict in verdicts.items() if name in landmarks and verdict == "reproduced")
    for expected in (None, "not reproduced"):
        changed = {"expected_verdict": expected, "tolerated_verdicts": []}
        others = landmarks | {name: landmarks[name].model_copy(update=changed)}
        assert unexpected(others, verdicts, scales) == [f"{name}: reproduced, expected {expected}"]


def shipped(root):
    """The corpora and dictionaries that lie in the repository, as their registries name them."""
    corpora = read_yaml(root / "config" / "corpora.yaml")["corpora"].values()
    saes = read_yaml(root / "config" / "saes.yaml")["saes"].values()
    own = {f"{one['folder']}/{name}" for one in saes if "repository" not in one for name in one["files"]}
    return own | {one["file"] for one in corpora if "file" in one}


def test_no_tracked_file_is_large(root):
    """The repository holds sources and slim records; pictures of a run belong into its results."""
    sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in tracked(root, "*")}
    assert {name: size for name, size in sizes.items() if size > 500_000 and name not in shipped(root)} == {}
    pictures = {name: size for name, size in sizes.items() if name.endswith((".png", ".svg", ".pdf"))}
    assert {name: size for name, size in pictures.items() if size > 100_000} == {}


LIMITS = {
    "README.md": 8_192 + 600 * max(0, len(replications()) - 10),  # one card more for each further replication
    "docs/performance.md": 6_144,
    "replications/*/README.md": 10_240,
    "replications/*/METHODS.md": 20_480,
}


@pytest.mark.parametrize("pattern", LIMITS)
def test_pages_are_short(root, pattern):
    sizes = {path.relative_to(root).as_posix(): path.stat().st_size for path in root.glob(pattern)}
    too_long = [f"{name}: {size} of {LIMITS[pattern]} bytes" for name, size in sizes.items() if size > LIMITS[pattern]]
    assert not too_long, f"shorten {', '.join(too_long)}"


RELEASE_LIMIT = 2_048  # bytes of one release in the changelog


def releases(text):
    """Bytes of each release in a changelog, by its heading."""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return {part.splitlines()[0]: len(f"## {part}".encode()) for part in parts}


def test_a_release_in_the_changelog_is_short(root):
    sizes = releases((root / "CHANGELOG.md").read_text())
    assert len(sizes) >= 2
    assert {name: size for name, size in sizes.items() if size > RELEASE_LIMIT} == {}


def test_the_size_of_a_release_goes_from_heading_to_heading():
    assert releases("# Changelog\n\n## b\n### c\nü\n\n## a\nd") == {"b": 15, "a": 6}


def anchors(text):
    """What `#...` in a link may name: the headings of a page, as GitHub writes them."""
    headings = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line) for line in re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page):
    """Links and pictures of a page that lead to no file here, or to no heading of one. The web is not asked."""
    dead = []
    for target in re.findall(r"""(?:\]\(|src=")([^)\s"]+)""", page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        found = target.startswith("http") or (file.exists() and (not anchor or anchor in anchors(file.read_text())))
        dead += [] if found else [f"{page.name}: {target}"]
    return dead


def test_links_in_documents_lead_somewhere(root):
    pages = [page for page in tracked(root, "*.md") if "template" not in page.parts]  # a template without results
    assert [link for page in pages for link in dead_links(page)] == []


def test_dead_links_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        '# A [b](page.md): c\n[x](#a-b-c) [y](page.md#d) [z](no.md) <img src="no.png"> [w](https://a.b/c)\n'
    )
    assert dead_links(page) == ["page.md: page.md#d", "page.md: no.md", "page.md: no.png"]


def test_no_typed_in_results_in_the_paper(root):
    """Decimal numbers and percentages in the paper come from results; only settings in code spans may be typed."""
    texts = [*root.glob("replications/*/section.typ"), root / "paper" / "main.typ", root / "paper" / "discussion.typ"]
    assert len(texts) == len(replications()) + 2
    for path in texts:
        prose = re.sub(
            r"(?m)//.*|^#(set|show).*|`[^`]*`|\$[^$]*\$|\d+(\.\d+)?(cm|em|pt)|#[a-z-]+\([^)]*\)", "", path.read_text()
        )
        assert re.findall(r"(?<![\w.])\d+\.\d+|\d+\s?%(?! interval)", prose) == [], path


def test_typed_in_results_would_be_found():
    prose = "the share is 0.97 and 45 % of the heads"
    assert re.findall(r"(?<![\w.])\d+\.\d+|\d+\s?%(?! interval)", prose) == ["0.97", "45 %"]


def test_no_unsafe_loading_and_no_future_annotations(root):
    banned = ("trust_remote_code=" + "True", "torch." + "load(", "import " + "pickle", "allow_pickle=" + "True")
    for path in tracked(root, "*.py", "*.smk", "Snakefile"):
        text = path.read_text()
        for word in (*banned, "from __future__ import " + "annotations"):
            assert word not in text, f"{path.name}: {word}"


def imported(text):
    """Names of the modules that a Python file imports, wherever in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", replications())
def test_tests_of_a_replication_import_no_other_one(root, name):
    """The product code is held by import-linter, which does not read tests."""
    others = tuple(f"replications.{other}." for other in replications() if other != name)
    found = {
        f"{path.name}: {module}"
        for path in tracked(root, f"replications/{name}/tests/*.py")
        for module in imported(path.read_text())
        if f"{module}.".startswith(others)
    }
    assert found == set()


def test_imports_are_found_in_every_form():
    text = "import a.b\nfrom replications import c\ndef f():\n    from replications.d.e import g, h\n"
    assert [*imported(text)] == ["a.b", "replications.c", "replications.d.e.g", "replications.d.e.h"]


def test_files_stay_readable(root):
    for path in tracked(root, "common/*.py", "replications/*.py"):
        if "tests" in path.parts:
            continue
        lines = path.read_text().splitlines()
        assert len(lines) <= 300, f"{path.relative_to(root)} has {len(lines)} lines"
        if path.stat().st_size:
            assert lines[0].startswith('"""'), f"{path.relative_to(root)} has no docstring"


@pytest.mark.parametrize("name", replications())
def test_a_replication_has_its_pages(root, name):
    folder = root / "replications" / name
    for file in ("README.md", "METHODS.md", "config.yaml", "claims.yaml", "rules.smk", "settings.py", "section.typ"):
        assert (folder / file).is_file(), file
    page = (folder / "README.md").read_text()
    with_block(page, "results", "")
    assert list((folder / "tests").glob(f"test_{name}*.py"))


def test_tables_that_steps_read_beside_their_code_are_inputs_of_rules(root):
    """Neither the hash of sources nor that of settings sees a table, so an edit would leave old values in place."""
    found = []
    for path in tracked(root, "replications/*.py"):
        for name in re.findall(r'with_name\("([\w.]+\.yaml)"\)', path.read_text()):
            rules = "".join(file.read_text() for file in path.parent.glob("*.smk"))
            found.append(name)
            assert re.search(rf"{name.removesuffix('.yaml')}\b", rules), f"{path}: no rule names {name}"
    assert {"statements.yaml", "words.yaml", "lists.yaml"} <= set(found)


def test_the_seeds_that_help_and_errors_name_are_fresh(root):
    """Whoever follows an error message must not get the next one."""
    texts = [
        (root / name).read_text() for name in ("Makefile", "README.md", "common/engine/config.py", "docs/claims.md")
    ]
    named = {found for text in texts for found in re.findall(r"SEEDS=(\d[\d,]*\d)", text)}
    assert named
    for seeds in named:
        check_fresh(fresh_seeds(seeds), replications())
