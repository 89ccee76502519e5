"""What rule files need: the parameters of a step, the files of its figures, and the tie to this process."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from snakemake.io import report

from common.core.source_hash import source_hash

__all__ = ["Steps", "captions", "figure_files", "parts", "source_hash", "tie_steps_to_this_process"]
Figures = Mapping[str, Mapping[str, list[str] | Mapping[str, str]]]
FIGURE_ENDINGS = ("svg", "png", "pdf", "csv", "json")
RUN = ("scale", "seeds", "device")


class Steps:
    """Gives the rules of one replication their parameters.

    A rule is `use rule step as <name> with:` inputs, outputs, log, memory, and `params: **STEP("<module>", settings)`.
    Named inputs and outputs become the fields of the step's `Files`; unnamed ones only order the workflow.
    """

    def __init__(self, package: str, config: Mapping[str, Any]) -> None:
        self.package = package
        self.run = {key: config[key] for key in RUN}

    def __call__(self, module: str, settings: Any = None, *, run: bool = True) -> dict[str, Any]:
        """`module` of the step, `arguments` as its command line takes them, and what makes it run again: `given`, its
        settings and run, and `sources`, the hash of its sources.

        Snakemake does not record a parameter that depends on files, as `arguments` does, so `given` stands apart.

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
