"""Step: draws all figures from the tables of their parts."""

from pathlib import Path

from common.cli import run
from common.drawing import Plan, draw_figures
from replications.monosemanticity import dictionary_figures, unit_figures

TEXT = {"keep_default_na": False}
PLANS = {
    "loss/loss": Plan(dictionary_figures.loss, ("ways.csv", "curves.csv", "metrics.json")),
    "splitting/splitting": Plan(dictionary_figures.splitting, ("nests.csv",)),
    "splitting/families": Plan(dictionary_figures.families, ("families.csv",), TEXT),
    "universality/universality": Plan(dictionary_figures.universality, ("twins.csv",)),
    "units/units": Plan(unit_figures.units, ("quarters.csv", "units.csv")),
    "units/examples": Plan(unit_figures.examples, ("examples.csv",), TEXT),
    "logits/logits": Plan(unit_figures.logits, ("units.csv",)),
}


def draw(*, captions: list[Path], out: list[Path]) -> None:
    """Writes all figures of `out` from the tables in the folder of their part.

    Args:
        captions: one for each figure.
        out: the SVG of each figure, in the same order; PNG, PDF, data and caption are written beside it.
    """
    draw_figures(PLANS, captions, out)


if __name__ == "__main__":
    run(draw)
