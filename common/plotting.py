"""One look for all figures, and one way to save them.

`save_figure` writes five files: `.svg`, `.png`, `.pdf`, the plotted data as `.csv`, and a `.json` with caption and
sources. Same data, same bytes: no dates, fixed ids. Colours are the colour-blind safe set of Okabe and Ito; maps are
`viridis` (one-sided) and `RdBu_r` (two-sided).
"""

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from common.errors import UserError
from common.files import atomic, write_json
from common.tables import write_table

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
ENDINGS = ("svg", "png", "pdf", "csv", "json")
COLUMN_WIDTH, PAGE_WIDTH = 3.4, 7.0  # inches
RESULTS = re.compile(r"\bresults/([a-z-]+)/")


def use_style() -> None:
    """Sets the style of all figures. Call once before drawing."""
    sns.set_theme(
        context="paper",
        style="ticks",
        palette=PALETTE,
        rc={
            "svg.hashsalt": "landmarks",
            "svg.fonttype": "path",
            "pdf.fonttype": 42,
            "font.family": "DejaVu Sans",
            "font.size": 8,
            "axes.titlesize": 8,
            "axes.labelsize": 8,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 7,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.dpi": 100,
            "savefig.dpi": 200,
            "figure.constrained_layout.use": True,
        },
    )


def save_figure(figure: Figure, stem: Path, data: pd.DataFrame, caption: Path, sources: list[Path]) -> None:
    """Writes `stem`.{svg,png,pdf,csv,json} and closes the figure.

    `data` is what is drawn, one row per mark; `caption` is the figure's `.rst` file, also shown in the report, and
    `sources` are the result files that the figure was made from. The stored caption ends with the scale, which tells
    the sizes that were run. UserError if there is nothing to draw, or nothing to say about it.
    """
    if data.empty:
        raise UserError(f"no data for figure {stem.name}; delete {sources[0].parent} and run `make resume`")
    text = re.sub(r"\s+", " ", caption.read_text(encoding="utf-8")).strip()
    if not text:
        raise UserError(f"{caption} is empty; write what the figure shows, with its seeds and its control")
    figure.draw_without_rendering()  # lays the figure out
    with plt.rc_context({"figure.constrained_layout.use": False}):  # or saving would lay it out again each time
        figure.set_layout_engine(None)
        for ending, metadata in {
            "svg": {"Date": None},
            "png": {"Software": None},
            "pdf": {"CreationDate": None},
        }.items():
            with atomic(stem.with_suffix(f".{ending}")) as temporary:
                figure.savefig(temporary, format=ending, metadata=metadata)
    plt.close(figure)
    write_table(stem.with_suffix(".csv"), data)
    if scale := RESULTS.search(stem.as_posix()):
        text += f" Scale {scale[1]}."
    write_json(stem.with_suffix(".json"), {"caption": text, "sources": [str(path) for path in sources]})
