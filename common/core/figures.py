"""One look for all figures, and the step that draws several of them in one process.

A replication lists its figures as `{"part/figure": Plan(function, tables)}` and ends with `run_plans(PLANS)`. The
function gets the tables and returns the figure and the data drawn, one row per mark. It returns the figure alone if the
first table is what it draws. `save_figure` writes five files: `.svg`, `.png`, `.pdf`, the plotted data as `.csv`, and a
`.json` with caption and sources. Same data, same bytes: no dates, fixed ids. Colours are the colour-blind safe set of
Okabe and Ito; maps are `viridis` (one-sided) and `RdBu_r` (two-sided).
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.errors import UserError
from common.core.files import atomic, write_json
from common.core.metrics import Estimate, read_metrics
from common.core.step import Files, run_step
from common.core.tables import write_table

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
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


def dots(axes: Axes, rows: dict[str, tuple[Estimate, str]], *, seeds: bool = True) -> pd.DataFrame:
    """Horizontal dots with intervals, each in its colour, and with values of seeds; first row on top."""
    for place, (found, colour) in enumerate(rows.values()):
        axes.plot([found.ci_low, found.ci_high], [place, place], color=colour, linewidth=1.5)
        if seeds:
            each = found.per_seed or []
            axes.plot(each, [place] * len(each), ".", color=colour, alpha=0.4, markersize=4)
        axes.plot(found.value, place, "o", color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    return pd.DataFrame(
        [{"row": name, **found.model_dump(include={"value", "ci_low", "ci_high"})} for name, (found, _) in rows.items()]
    )


def save_figure(figure: Figure, stem: Path, data: pd.DataFrame, caption: Path, sources: list[Path]) -> None:
    """Writes `stem`.{svg,png,pdf,csv,json} and closes the figure.

    `data` is what is drawn, one row per mark. `caption` is the figure's `.rst` file, also shown in the report;
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


Picture = tuple[Figure, pd.DataFrame]


class Plan(NamedTuple):
    """How one figure is drawn."""

    draw: Callable[..., Figure | Picture]
    tables: tuple[str, ...]
    """files in the folder of the part, in the order of the function's arguments: tables, or `metrics.json`"""
    reading: Mapping[str, Any] = MappingProxyType({})
    """options of `pandas.read_csv`"""


class DrawFiles(Files):
    """What a drawing step reads and writes, beside the tables in the folders of its parts."""

    captions: list[Path]
    svg: list[Path]
    others: list[Path]
    """the same figures as PNG, PDF, data and caption"""


def run_plans(plans: Mapping[str, Plan]) -> None:
    """The command line of a drawing step."""

    def draw(files: DrawFiles) -> None:
        """Draws all figures from the tables in the folder of their part."""
        draw_figures(plans, files.captions, files.svg)

    run_step(draw)


def draw_figures(plans: Mapping[str, Plan], captions: list[Path], out: list[Path]) -> None:
    """Draws and saves every figure of `out`.

    Args:
        plans: for each `part/figure`, how it is drawn.
        captions: the `.rst` of each figure, in the same order.
        out: `<folder>/<part>/figures/<figure>.svg` of each figure.
    """
    use_style()
    for caption, path in zip(captions, out, strict=True):
        part = path.parents[1]
        plan = plans[f"{part.name}/{path.stem}"]
        sources = [part / name for name in plan.tables]
        found = [_read(source, plan.reading) for source in sources]
        drawn: Any = plan.draw(*found)
        figure, data = drawn if isinstance(drawn, tuple) else (drawn, found[0])
        save_figure(figure, path.with_suffix(""), data, caption, sources)


def _read(path: Path, reading: Mapping[str, Any]) -> Any:
    return read_metrics(path) if path.suffix == ".json" else pd.read_csv(path, **reading)
