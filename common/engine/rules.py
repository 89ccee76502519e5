"""What rule files need: the parameters of a step, its log, its place on the GPU and the files of its figures.

It also ties steps to this process.
"""

import ast
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from snakemake.io import WILDCARD_REGEX, report

from common.core.settings import ROOT
from common.core.source_hash import source_hash

__all__ = ["Steps", "captions", "complete_steps", "figure_files", "parts", "tie_steps_to_this_process"]
Figures = Mapping[str, Mapping[str, list[str] | Mapping[str, str]]]
FIGURE_ENDINGS = ("svg", "png", "pdf", "csv", "json")
RUN = ("scale", "seeds", "device")


class Steps:
    """Gives the rules of one replication their parameters.

    A rule is `use rule step as <name> with:` inputs, outputs, memory, and `params: **STEP("<module>", settings)`.
    Named inputs and outputs become the fields of the step's `Files`; unnamed ones only order the workflow. Log and GPU
    come from `complete_steps`.
    """

    def __init__(self, package: str, config: Mapping[str, Any]) -> None:
        self.package = package
        self.run = {key: config[key] for key in RUN}

    def __call__(self, module: str, settings: Any = None, *, run: bool = True) -> dict[str, Any]:
        """`module` of the step, `arguments` as its command line takes them, and what makes it run again.

        That is `given`, its settings and run, and `sources`, the hash of its sources. Snakemake does not record a
        parameter that depends on files, as `arguments` does, so `given` stands apart.

        Args:
            module: of the step, below the package.
            settings: for the argument `settings`, or a function that gives them for the wildcards; None for a step
                without settings.
            run: whether the step has the argument `run`.
        """
        name = f"{self.package}.{module}"

        def known(wildcards: Any) -> dict[str, Any]:
            found = {} if settings is None else {"settings": settings(wildcards) if callable(settings) else settings}
            return found | ({"run": self.run} if run else {})

        def given(wildcards: Any) -> str:
            return json.dumps(known(wildcards), sort_keys=True)

        def arguments(wildcards: Any, input: Any, output: Any) -> str:
            words = {"files": _named(input) | _named(output)} | known(wildcards)
            return " ".join(f"--{key} {shlex.quote(json.dumps(value))}" for key, value in words.items())

        return {"module": name, "arguments": arguments, "given": given, "sources": source_hash(name)}


def _named(files: Any) -> dict[str, Any]:
    """Named files of a rule; a list where the rule gives a list."""
    return {key: str(value) if isinstance(value, str) else list(map(str, value)) for key, value in files.items()}


def complete_steps(rules: Iterable[Any], device: str) -> None:
    """Gives each rule of a step what it leaves out: its log and, where the step computes on the GPU, a place there.

    Snakemake lets no rule name its log by itself, so this is called once all rules of the workflow are read.

    Args:
        rules: of the workflow; those with a log or `gpu` of their own keep them.
        device: on which torch computes.
    """
    for rule in rules:
        module = rule.params.get("module", "")
        if rule.shellcmd and not rule.log:
            rule.log_modifier = rule.ruleinfo.path_modifier
            rule.set_log(_log(rule, module))
        if device == "cuda" and module and "gpu" not in rule.resources and takes_device(module):
            rule.resources["gpu"] = 1


def _log(rule: Any, module: str) -> str:
    """The log of a rule, with the wildcards of its output: `<logs>/{model}/name-{seed}.log`."""
    place, _, rest = module.partition(".")
    name = rule.name.removeprefix(f"{rest.partition('.')[0]}_" if place == "replications" else "")
    wildcards = dict.fromkeys(found["name"] for found in WILDCARD_REGEX.finditer("".join(map(str, rule.output[:1]))))
    folder = "{model}/" if "model" in wildcards else ""
    words = [name, *(f"{{{wildcard}}}" for wildcard in wildcards if wildcard != "model")]
    return f"<logs>/{folder}{'-'.join(words)}.log"


@cache
def takes_device(module: str) -> bool:
    """Whether a step computes where its run says: it reads `run.device`, or hands `run` to another module that does."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    nodes = list(ast.walk(ast.parse(path.read_bytes()))) if path.is_file() else []
    if any(isinstance(node, ast.Attribute) and ast.unparse(node) == "run.device" for node in nodes):
        return True
    imported = {
        alias.asname or alias.name: str(node.module)
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    handed = {
        imported.get(ast.unparse(node.func), "")
        for node in nodes
        if isinstance(node, ast.Call)
        and "run" in map(ast.unparse, [*node.args, *(word.value for word in node.keywords)])
    }
    return any(takes_device(one) for one in handed if one.startswith(("common.", "replications.")))


def tie_steps_to_this_process() -> None:
    """Steps started from here die with this process (see `common.core.step.die_with_workflow`)."""
    os.environ["WORKFLOW_PID"] = str(os.getpid())


def figure_files(folder: str, figures: Figures, category: str, **labels: str) -> dict[str, list[Any]]:
    """Output files of a step that draws several figures: `svg`, which the report shows, and `others`.

    Args:
        folder: where the parts are; may hold wildcards.
        figures: for each subcategory of the report, its parts, each with the names of its figures, or with their titles
            by name.
        category: of the report.
        labels: more columns of the report's tables; may hold wildcards.
    """
    svg, others = [], []
    for subcategory, part, name, title in _each(figures):
        stem = f"{folder}/{part}/figures/{name}"
        about = {"category": category, "subcategory": subcategory, "labels": {"figure": title, **labels}}
        svg.append(report(f"{stem}.svg", caption=f"captions/{name}.rst", **about))
        others += [f"{stem}.{ending}" for ending in FIGURE_ENDINGS[1:]]
    return {"svg": svg, "others": others}


def captions(folder: str, figures: Figures) -> list[str]:
    """The caption of each figure, in the order of `figure_files`."""
    return [f"{folder}/{name}.rst" for _, _, name, _ in _each(figures)]


def parts(figures: Figures) -> list[str]:
    """The parts that have figures."""
    return list(dict.fromkeys(part for _, part, _, _ in _each(figures)))


def _each(figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    for subcategory, found in figures.items():
        for part, names in found.items():
            titles = names if isinstance(names, Mapping) else {name: name for name in names}
            yield from ((subcategory, part, name, title) for name, title in titles.items())
