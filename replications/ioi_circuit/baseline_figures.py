"""Figure step: logit difference by template and its distribution over prompts, for the prompts and their controls."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from common.cli import run
from common.plotting import PAGE_WIDTH, PALETTE, save_figure, use_style

CAPTION = Path(__file__).parent / "captions" / "answers.rst"
SHOWN = {
    "original": ("original", "o", PALETTE[0]),
    "nouns_redrawn": ("other place and object", "s", PALETTE[2]),
    "names_swapped": ("names swapped, scored on the new answer", "D", PALETTE[4]),
    "abc": ("control: three unrelated names (ABC)", "X", PALETTE[1]),
}
TEMPLATE_NAMES = (
    "walked to",
    "had great fun",
    "busy, decided to give",
    "planned a trip",
    "quarrelled, said to",
    "after ... went into",
    "found, give it",
    "bought, give the ...",
    "while ... busy",
    "while ... driving",
    "after the lunch",
    "afterwards",
    "quarrel. Afterwards",
    "the place ... visited",
    "two friends, noticed",
)


def answers(*, answers: Path, out: Path) -> None:
    """Draws the figure from `answers.csv`. `out` is one of the five files; the others are written beside it."""
    table = pd.read_csv(answers)
    table["scored"] = np.where(table["version"] == "names_swapped", -table["difference"], table["difference"])
    grouped = table.groupby(["version", "template"])["scored"]
    summary = grouped.agg(mean="mean", standard_error="sem", n="size").reset_index()
    use_style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 4.0), width_ratios=[1.5, 1])
    _by_template(left, summary)
    _distribution(right, table)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    save_figure(figure, out.with_suffix(""), summary, CAPTION, [answers])


def _by_template(axes: Axes, summary: pd.DataFrame) -> None:
    for row, (version, (label, marker, colour)) in enumerate(SHOWN.items()):
        part = summary[summary["version"] == version]
        axes.errorbar(
            part["mean"],
            part["template"] + 0.18 * (row - 1.5),
            xerr=part["standard_error"],
            fmt=marker,
            color=colour,
            label=label,
            markersize=4,
            elinewidth=0.8,
        )
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    for template in summary["template"].unique()[::2]:
        axes.axhspan(template - 0.5, template + 0.5, color="0.95", zorder=-1)
    axes.set_yticks(range(len(TEMPLATE_NAMES)), TEMPLATE_NAMES)
    axes.set_ylim(len(TEMPLATE_NAMES) - 0.5, -0.5)
    axes.set_xlabel("logit(IO) \N{MINUS SIGN} logit(S), mean ± standard error")
    axes.set_title("By template", loc="left")


def _distribution(axes: Axes, table: pd.DataFrame) -> None:
    edges = np.histogram_bin_edges(table["scored"], bins=30).tolist()
    for version, (_, _, colour) in SHOWN.items():
        values = table.loc[table["version"] == version, "scored"]
        style = {"linewidth": 1.4} if version in ("original", "abc") else {"linewidth": 0.9, "linestyle": "--"}
        axes.hist(values, edges, histtype="step", color=colour, **style)
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlabel("logit(IO) \N{MINUS SIGN} logit(S)")
    axes.set_ylabel("prompts")
    axes.set_title("All prompts", loc="left")


if __name__ == "__main__":
    run(answers)
