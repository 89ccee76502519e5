"""Step: compiles `paper/main.typ` with the `typst` package. Sections come from the replications, numbers from results.

Same results, same bytes: the document has no date, and only fonts inside locked packages are used.
"""

from pathlib import Path

from common.cli import run
from common.config import ROOT, replications
from common.errors import UserError
from common.files import atomic


def paper(out: Path) -> None:
    """Writes the PDF of the run in whose folder `out` lies. UserError with typst's message if a number is missing."""
    import matplotlib
    import typst

    sections = [name for name in replications() if (ROOT / "replications" / name / "section.typ").is_file()]
    try:
        with atomic(out) as temporary:
            typst.compile(
                str(ROOT / "paper" / "main.typ"),
                output=str(temporary),
                root=str(ROOT),
                sys_inputs={"results": f"/{out.parent}", "sections": ",".join(sections)},
                ignore_system_fonts=True,
                font_paths=[f"{matplotlib.get_data_path()}/fonts/ttf"],
            )
    except typst.TypstError as error:
        raise UserError(f"the paper does not compile: {' '.join(str(error).split())}") from None


if __name__ == "__main__":
    run(paper)
