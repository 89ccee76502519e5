"""Step: compiles `paper/main.typ` with the `typst` package. Sections and references come from the replications, numbers
from results.

Same results, same bytes: the document has no date, and only fonts inside locked packages are used.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.core.claims import Claim
from common.core.errors import UserError
from common.core.files import atomic
from common.core.settings import ROOT, Strict, replications
from common.core.step import Files, run_step
from common.core.verify import read_claims
from common.publish.controls import definition
from common.publish.misses import bound_of, missed
from common.publish.texts import chronological

REFERENCES = "paper/references.bib"


def references() -> list[str]:
    """The lists of references, relative to the project: the shared one and those that replications bring themselves.

    A key that stands in two of them stops the compilation.
    """
    own = [f"replications/{name}/references.bib" for name in replications()]
    return [REFERENCES, *(path for path in own if (ROOT / path).is_file())]


def figure_rules(rules: Iterable[Any]) -> dict[str, str]:
    """The file of the rule that makes each figure: `{"<figure>.svg": "replications/.../figures.smk"}`. Wildcards
    (`{model}`) become `*`."""
    return {
        re.sub(r"{.*?}", "*", str(output)): Path(str(rule.snakefile)).resolve().relative_to(ROOT).as_posix()
        for rule in rules
        for output in rule.output
        if str(output).endswith(".svg")
    }


def found_figures(makers: dict[str, str], results: Path) -> dict[str, str]:
    """The figures that exist in `results`, without ending and relative to it, each with the file of its rule."""
    return {
        svg.relative_to(results).with_suffix("").as_posix(): file
        for pattern, file in sorted(makers.items())
        for svg in sorted(Path().glob(pattern))
    }


def reasons(claims: Iterable[Claim]) -> dict[str, str]:
    """Why landmarks are not reproduced, by `<id> <model>`."""
    failed = (one for one in claims if one.tier == "landmark" and one.verdict == "not reproduced")
    return {f"{one.id} {one.model}": missed(one) for one in failed}


def controls(claims: Iterable[Claim]) -> dict[str, str]:
    """What the strongest control of each landmark is, by `<id> <model>`."""
    found = (one for one in claims if one.tier == "landmark")
    return {f"{one.id} {one.model}": definition(one.id, one.strongest_control) for one in found}


def bounds(claims: Iterable[Claim]) -> dict[str, list[float | None]]:
    """Lower and upper bound of each landmark, by id; None for an open side."""
    found = ((one.id, bound_of(one)) for one in claims if one.tier == "landmark")
    return {name: [bound.at_least, bound.at_most] for name, bound in found if bound is not None}


class PaperFiles(Files):
    pdf: Path
    """in the folder of the run"""


class Figures(Strict):
    """The file of the rule that makes each figure, from `figure_rules`."""

    makers: dict[str, str]


def paper(files: PaperFiles, settings: Figures) -> None:
    """Writes the PDF of a run. UserError with typst's message if a number is missing."""
    import matplotlib
    import typst

    out = files.pdf
    sections = [name for name in chronological() if (ROOT / "replications" / name / "section.typ").is_file()]
    claims = read_claims(out.parent / "claims.json")
    inputs = {
        "results": f"/{out.parent}",
        "sections": ",".join(sections),
        "references": ",".join(f"/{path}" for path in references()),
        "makers": json.dumps(found_figures(settings.makers, out.parent)),
        "missed": json.dumps(reasons(claims)),
        "controls": json.dumps(controls(claims)),
        "bounds": json.dumps(bounds(claims)),
    }
    try:
        with atomic(out) as temporary:
            typst.compile(
                str(ROOT / "paper" / "main.typ"),
                output=str(temporary),
                root=str(ROOT),
                sys_inputs=inputs,
                ignore_system_fonts=True,
                font_paths=[f"{matplotlib.get_data_path()}/fonts/ttf"],
            )
    except typst.TypstError as error:
        raise UserError(f"the paper does not compile: {' '.join(str(error).split())}") from None


if __name__ == "__main__":
    run_step(paper)
