"""The project itself: lock, documents, paper sources and code say what is true."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.core.claims import load_claims
from common.core.errors import UserError
from common.core.settings import replications
from common.core.verify import read_claims
from common.publish.pages import TESTS, cost_block, every_claim, front_page, pages, with_block

LOCKS = ("lock.txt", "lock-torch.txt", "lock-torch-cpu.txt", "interop.lock")


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
    for file in ("requirements.in", "data.in", "interop.in"):
        for line in (root / "envs" / file).read_text().splitlines():
            if line and not line.startswith("#"):
                assert line.split("==")[0] in locked, line


def test_installed_packages_are_complete_but_for_the_known_ones():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    missing = {line.split(" requires ")[1].split(",")[0] for line in done.stdout.splitlines() if "requires" in line}
    assert missing == {"transformers-stream-generator", "llama-cpp-python", "llm"}


def test_generated_parts_of_the_documents_are_the_gallery_run(root):
    found = pages(root / "figures")
    named = {page.parent.name for page in found if page.parent.parent.name == "replications"}
    if missing := sorted(set(replications()) - named):
        pytest.fail(f"figures/ holds no results of {', '.join(missing)}; run `make` to the end, then `make gallery`")
    assert named == {claim.replication for claim in read_claims(root / "figures" / "claims.json")}
    if stale := [str(page.relative_to(root)) for page, text in found.items() if page.read_text() != text]:
        pytest.fail(f"the generated parts of {', '.join(stale)} are not those of figures/; run `make gallery`")


def test_a_generated_part_changed_by_hand_is_noticed(root):
    folder = root / "figures"
    page = (root / "README.md").read_text()
    for text in ("reproduced", "CPU minutes"):
        assert text in page.split("## What holds")[0 if text == "CPU minutes" else 1]
    claimed = front_page(folder)
    edited = page.replace(claimed, claimed.replace("reproduced", "proved", 1))
    assert edited != page
    assert with_block(edited, "claims", claimed) == page
    with pytest.raises(UserError, match="lost the markers of its block 'claims'"):
        with_block(page.replace("<!-- end of claims -->", ""), "claims", claimed)
    own = "# Title\n\nText.\n"
    once = with_block(own, "results", "A | table", append=True)
    assert once.startswith(own)
    assert with_block(once, "results", "A | table", append=True) == once


def test_the_front_page_shows_a_claim_that_does_not_hold_for_every_replication_that_has_one(root):
    page, missed = front_page(root / "figures"), {}
    for claim in read_claims(root / "figures" / "claims.json"):
        if claim.verdict == "not reproduced":
            missed.setdefault(claim.replication, claim)
    assert len(missed) > 2
    assert all(claim.statement in page for claim in missed.values())


def test_the_front_page_folds_every_claim_and_says_what_make_test_took(root, tmp_path):
    folded = every_claim(root / "figures")
    claims = read_claims(root / "figures" / "claims.json")
    assert folded.count("<details>") == len({claim.replication for claim in claims})
    rows = [line for line in folded.splitlines() if line.startswith("| ")]
    assert len(rows) - folded.count("<details>") == len(claims)  # and one heading each
    for name in ("cost.json", "provenance.json"):
        shutil.copy(root / "figures" / name, tmp_path)
    assert "make test" not in cost_block(tmp_path)
    (tmp_path / TESTS).write_text('{"wall_s": 534, "peak_rss_mb": 2061, "cores": 4}')
    assert "`make test` took 9 minutes on 4 cores and at most 2.1 GB of memory" in cost_block(tmp_path)


@pytest.mark.parametrize("name", replications())
def test_the_page_of_a_replication_shows_all_its_results(root, name):
    page = (root / "replications" / name / "README.md").read_text()
    for claim in read_claims(root / "figures" / "claims.json"):
        assert (claim.statement.replace("|", "\\|") in page) or claim.replication != name, claim.id
    for picture in (root / "figures" / name).glob("*.png"):
        assert f"../../figures/{name}/{picture.name}" in page, picture.name


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
    pages = [page for page in tracked(root, "*.md") if "scaffold" not in page.parts]  # a template without results
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


def test_files_stay_readable(root):
    for path in tracked(root, "common/*.py", "replications/*.py"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 300, f"{path.relative_to(root)} has {len(lines)} lines"
        if path.stat().st_size:
            assert lines[0].startswith('"""'), f"{path.relative_to(root)} has no docstring"


@pytest.mark.parametrize("name", replications())
def test_a_replication_has_its_pages(root, name):
    folder = root / "replications" / name
    for file in ("README.md", "config.yaml", "claims.yaml", "rules.smk", "settings.py", "section.typ"):
        assert (folder / file).is_file(), file
    page = (folder / "README.md").read_text()
    assert f"make {name}" in page
    for part in ("what is claimed", "metric", "details", "limits", "results of the reference run", "figures", "cost"):
        assert re.search(rf"^##+ .*{part}", page, re.MULTILINE | re.IGNORECASE), f"no heading for {part}"
    assert re.search(r"^## .*details.*\n+1\. ", page, re.MULTILINE | re.IGNORECASE), "details are not numbered"
    assert "](http" in page.split("```")[0], "no link to the paper before the command"
    assert "](#results-of-the-reference-run)" in page.split("\n## ")[0], "no link to the results at the top"
    claimed = {claim.id for claim in load_claims(name)}
    named = set(re.findall(r"`(\w+)`", page.split("\n## What is claimed\n")[1].split("\n## ")[0])) & claimed
    assert named in (set(), claimed), f"claims that the page does not name: {sorted(claimed - named)}"
    assert list((root / "tests" / "replications").glob(f"test_{name}*.py"))
