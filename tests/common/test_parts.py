"""`make test` fails if a part of it fails, whatever the part prints, and if a part could not be run."""

import subprocess
import sys

import pytest

import tests.__main__ as parts


@pytest.fixture(autouse=True)
def _nothing_written(monkeypatch):
    monkeypatch.setattr(parts, "write_json", lambda *_: None)


def python(code):
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("code", ["print('well')", r"import sys; sys.stdout.buffer.write(b'\xff')"])
def test_all_parts_pass(monkeypatch, code):
    monkeypatch.setattr(parts, "PARTS", {"one": python(code), "two": python(code), "three": python(code)})
    assert parts.main() == 0


def test_a_part_that_fails_is_named(monkeypatch, capsys):
    bad = python(r"import sys; sys.stdout.buffer.write(b'\xff'); sys.exit(1)")
    monkeypatch.setattr(parts, "PARTS", {"one": bad, "two": python(""), "three": bad})
    assert parts.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "failed: one; three"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_part_that_could_not_be_run_has_not_passed(monkeypatch, capsys):
    monkeypatch.setattr(parts, "PARTS", {"one": ["/no/such/program"], "two": python("")})
    assert parts.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "failed: one"


def test_lint_fails_if_a_command_of_it_fails(root, tmp_path):
    """`make` runs a recipe line by line; of a pipe, only the exit code of its end would count."""
    lines = (root / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0].splitlines()[1:]
    piped = [line.strip().lstrip("@") for line in lines if "|" in line]
    assert piped
    for line in piped:
        command = "(exit 1) | " + line.split("|", 1)[1].replace("$$", "$")
        assert subprocess.run(["bash", "-c", command], cwd=tmp_path, check=False).returncode == 1, line
