"""The notebooks of the replications: short, without outputs, without our library. `make notebooks` runs them."""

import ast

import nbformat
import pytest

from common.core.settings import ROOT, replications

FOUND = sorted(ROOT.glob("replications/*/tour.ipynb"))


def test_there_are_notebooks():
    assert {path.parent.name for path in FOUND} <= set(replications())
    assert {"superposition", "ioi_circuit", "induction_heads", "probing"} <= {path.parent.name for path in FOUND}


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.parent.name)
def test_a_notebook_is_short_and_stripped(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 10
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code), "strip the outputs"
    tree = ast.parse("\n".join(cell.source for cell in code))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in names if name.split(".")[0] in ("common", "replications")], (
        "a student needs none of ours"
    )
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree)), "a run must be able to fail"
