"""Content hash of what a step runs: its module, everything of ours that it imports, directly or not, and the lock.

Snakemake does not see edits in imported modules. With this hash in a rule's `params` an edit reruns exactly the steps
that import the edited code. A `touch`, a comment, a docstring or a reformat reruns nothing. Imports are read from the
syntax tree, so `importlib.import_module` would be missed: a test bans it in steps. Settings modules do not count: their
values already stand in a rule's `params`, and a test holds these modules to fields and validators.

What was read from a file is kept in `.snakemake/`, by the hash of its bytes: parsing took two fifths of every start.
"""

import ast
import atexit
import contextlib
import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FIRST_PARTY = ("common", "replications")
SETTINGS = "settings"  # name of a module that only declares fields and validators


def source_hash(*modules: str) -> str:
    """16 hex digits over the import closure of `modules` (dotted names). ValueError for an unknown module."""
    todo = list(modules)
    for module in modules:
        if _file(module) is None:
            raise ValueError(f"{module} is no module below {' or '.join(FIRST_PARTY)}")
    seen: dict[str, str] = {}
    while todo:
        module = todo.pop()
        if module not in seen and not _declares_settings(module):
            seen[module], imported = _parsed(module)
            todo += imported
    for lock in sorted(ROOT.glob("envs/lock*.txt")):  # another torch is another program
        seen[lock.name] = hashlib.sha256(lock.read_bytes()).hexdigest()
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(seen.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _declares_settings(module: str) -> bool:
    return module.startswith("replications.") and module.rpartition(".")[2] == SETTINGS


def _file(module: str) -> Path | None:
    if module.split(".")[0] not in FIRST_PARTY:
        return None
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _parsed(module: str) -> tuple[str, frozenset[str]]:
    """The digest of one module's syntax tree without docstrings, and the first-party modules it imports."""
    path = _file(module)
    if path is None:
        return "", frozenset()
    content, package = path.read_bytes(), module if path.name == "__init__.py" else module.rpartition(".")[0]
    key = hashlib.sha256(package.encode() + b"\0" + content).hexdigest()
    known = _known()
    if key not in known:
        known[key] = _read(content, package, str(path))
    digest, imported = known[key]
    parents = {module.rsplit(".", i)[0] for i in range(1, module.count(".") + 1)}  # parent packages run too
    return digest, frozenset(name for name in {*parents, *imported} if _file(name))


def _read(content: bytes, package: str, path: str) -> tuple[str, list[str]]:
    """Digest and names imported, of others' modules too, by a file of `package`."""
    tree = ast.parse(content, path)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    digest = hashlib.sha256(shape(tree).encode()).hexdigest()
    return digest, sorted(name for name in found if name.split(".")[0] in FIRST_PARTY)


def shape(part: Any) -> str:
    """A syntax tree as text, the same from every Python: fields without a value, which newer ones add, are left out."""
    if isinstance(part, list):
        return f"[{','.join(map(shape, part))}]"
    if not isinstance(part, ast.AST):
        return repr(part)
    fields = (f"{name}={shape(value)}" for name, value in ast.iter_fields(part) if value is not None and value != [])
    return f"{type(part).__name__}({','.join(fields)})"


@cache
def _known() -> dict[str, tuple[str, list[str]]]:
    """What earlier processes have read, by the hash of package and bytes; written back when this one ends."""
    path = ROOT / ".snakemake" / "sources.json"
    known: dict[str, tuple[str, list[str]]] = {}
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
        known = {key: (digest, names) for key, (digest, names) in json.loads(path.read_bytes()).items()}
    atexit.register(_keep, path, known, len(known))
    return known


def _keep(path: Path, known: dict[str, tuple[str, list[str]]], before: int) -> None:
    if len(known) == before or not path.parent.is_dir():
        return
    temporary = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):  # without it the next start takes a second longer
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(path)
