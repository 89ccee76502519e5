"""Where the sources make a metric, and what they say it is: read from the code, nothing is imported or run.

The rule that writes the metrics of a part names the module of its step. That module and those of the same folder that
it imports are searched for values with the name of the metric. A line is given only where one value alone can be meant;
the kinds of values, best first:

1. the name as key of the call of a function that gives a `Metric`;
2. the name as key of a value inside a function that gives metrics;
3. an f-string that can give the name, as such a key; of several the one that writes out most of it;
4. the name as key of any other value, such as the numbers of one seed;
5. the name as key of a text, as in a table of formulas.
"""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from common.core.settings import ROOT

RULE = re.compile(r"^ *(?:use )?rule .*:$", re.MULTILINE)
OUTPUT = re.compile(r"\boutput:\n(.*?)\n *(?:log|params|resources|priority|threads|wildcard_constraints):", re.DOTALL)
STEP = re.compile(r"\bSTEP\w*\(\s*\"(\w+)\"")
METRICS = "/metrics.json"
STATISTICS = ROOT / "common" / "core" / "statistics.py"
OF_NULL = "against_null"  # its `formula` is that of the null, not of the metric
LETTERS = 3  # of the name that an f-string must write out
UNKNOWN = "…"  # what only a run knows


class Place(NamedTuple):
    """Where a metric is made: a file below the root, and the line if one alone can be meant. With it goes the text that
    the call there hands over as `formula`."""

    path: str
    line: int | None = None
    formula: str | None = None


class Entry(NamedTuple):
    """A value with a name that the code gives it, its module, and the functions around it, the innermost last."""

    key: ast.expr
    value: ast.expr
    module: Path
    scopes: tuple[ast.FunctionDef, ...]


def place_of(replication: str, part: str, metric: str) -> Place | None:
    """Where a metric is made; None if no rule writes its part."""
    modules = closure(replication, steps_of(replication, part))
    if not modules:
        return None
    makers = {"Metric"}.union(*(makers_of(path) for path in [*modules, STATISTICS]))
    every = [entry for path in modules for entry in entries_of(path)]
    kinds: list[Callable[[Entry], int]] = [
        lambda entry: named(entry, metric) and called(entry.value) in makers,
        lambda entry: named(entry, metric) and gives_metrics(entry),
        lambda entry: written(entry, metric) if called(entry.value) in makers or gives_metrics(entry) else 0,
        lambda entry: named(entry, metric) and not says(entry.value),
        lambda entry: named(entry, metric),
    ]
    for kind in kinds:
        most = max(map(kind, every), default=0)
        found = [entry for entry in every if most and kind(entry) == most]
        if len(found) > 1:
            found = [entry for entry in found if is_of(part, entry)] or found
        if len(found) == 1:
            return Place(_shown(found[0].module), found[0].key.lineno, formula_of(found[0]))
        if found:
            break
    return Place(_shown(modules[0]))


def is_of(part: str, entry: Entry) -> bool:
    """Whether a function around a value is named after the part."""
    return any(part.removesuffix("s") in one.name for one in entry.scopes)


def named(entry: Entry, metric: str) -> bool:
    """Whether the key is the name of the metric."""
    return isinstance(entry.key, ast.Constant) and entry.key.value == metric


def written(entry: Entry, metric: str) -> int:
    """How many letters of the metric's name an f-string as key writes out; 0 if it cannot give that name."""
    if not isinstance(entry.key, ast.JoinedStr):
        return 0
    texts = [str(part.value) if isinstance(part, ast.Constant) else None for part in entry.key.values]
    pattern = "".join(r"\w+" if text is None else re.escape(text) for text in texts)
    letters = sum(len(text or "") for text in texts)
    return letters if letters >= LETTERS and re.fullmatch(pattern, metric) else 0


def says(value: ast.expr) -> bool:
    """Whether a value is text, or a tuple of text, and so computes nothing."""
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    return all(isinstance(part, ast.Constant | ast.JoinedStr) for part in parts)


def gives_metrics(entry: Entry) -> bool:
    """Whether the function around a value gives metrics."""
    return bool(entry.scopes) and "Metric" in _type(entry.scopes[-1])


def called(value: ast.expr) -> str:
    """The name of the function that a value is the call of; empty if it is no call."""
    return ast.unparse(value.func).rpartition(".")[2] if isinstance(value, ast.Call) else ""


def formula_of(entry: Entry) -> str | None:
    """The text that the value's call hands over as `formula`; None if it does not, or not in a way that can be read."""
    if not isinstance(entry.value, ast.Call) or called(entry.value) == OF_NULL:
        return None
    given = next((word.value for word in entry.value.keywords if word.arg == "formula"), None)
    return text_of(given, [*reversed(entry.scopes), read(entry.module)])


def text_of(value: ast.expr | None, places: list[ast.FunctionDef | ast.Module]) -> str | None:
    """The text that a value is. A name is followed to where the innermost of `places` that sets it does so once."""
    match value:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr():
            return "".join(str(one.value) if isinstance(one, ast.Constant) else UNKNOWN for one in value.values)
        case ast.Call(func=ast.Attribute(value=text, attr="format")):
            found = text_of(text, places)
            return found and re.sub(r"\{\w*\}", UNKNOWN, found)
        case ast.Name(id=name):
            sets = (_set(place, name) for place in places)
            found_sets = next((found for found in sets if found), [])
            return text_of(found_sets[0], places) if len(found_sets) == 1 else None
    return None


def _set(place: ast.FunctionDef | ast.Module, name: str) -> list[ast.expr]:
    nodes = ast.walk(place) if isinstance(place, ast.FunctionDef) else place.body
    found = [(target, node.value) for node in nodes if isinstance(node, ast.Assign) for target in node.targets]
    return [value for target, value in found if isinstance(target, ast.Name) and target.id == name]


def steps_of(replication: str, part: str) -> list[str]:
    """The modules of the steps that write the metrics of a part; where no rule names it, of those that name none."""
    own, any_part = [], []
    for path in sorted((ROOT / "replications" / replication).glob("*.smk")):
        for rule in RULE.split(path.read_text(encoding="utf-8"))[1:]:
            step, output = STEP.search(rule), OUTPUT.search(rule)
            if step is None or output is None:
                continue
            if f"/{part}{METRICS}" in output[1]:
                own.append(step[1])
            elif f"}}{METRICS}" in output[1]:
                any_part.append(step[1])
    return own or any_part


def closure(replication: str, steps: list[str]) -> list[Path]:
    """The modules of these steps, then those of the same folder that they import, the nearest first."""
    folder, package = ROOT / "replications" / replication, f"replications.{replication}"
    waiting, found = list(steps), list[Path]()
    while waiting:
        path = folder / f"{waiting.pop(0)}.py"
        if path in found or not path.exists():
            continue
        found.append(path)
        for node in ast.walk(read(path)):
            if isinstance(node, ast.ImportFrom) and node.module == package:
                waiting += [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
                waiting.append(str(node.module).removeprefix(f"{package}."))
    return found


@cache
def read(path: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def makers_of(path: Path) -> set[str]:
    """Names of the functions of a module that give one `Metric`."""
    return {node.name for node in ast.walk(read(path)) if isinstance(node, ast.FunctionDef) and _type(node) == "Metric"}


@cache
def entries_of(path: Path) -> list[Entry]:
    """Every `{key: value}` and `name[key] = value` of a module."""
    return list(_entries(read(path), path, ()))


def _entries(node: ast.AST, path: Path, scopes: tuple[ast.FunctionDef, ...]) -> Iterator[Entry]:
    if isinstance(node, ast.FunctionDef):
        scopes = (*scopes, node)
    pairs: list[tuple[ast.expr | None, ast.expr]] = []
    match node:
        case ast.Dict():
            pairs = list(zip(node.keys, node.values, strict=True))
        case ast.DictComp():
            pairs = [(node.key, node.value)]
        case ast.Assign():
            pairs = [(target.slice, node.value) for target in node.targets if isinstance(target, ast.Subscript)]
    yield from (Entry(key, value, path, scopes) for key, value in pairs if key is not None)
    for child in ast.iter_child_nodes(node):
        yield from _entries(child, path, scopes)


def _type(function: ast.FunctionDef) -> str:
    return ast.unparse(function.returns) if function.returns else ""


def _shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
