"""The step that draws several figures in one process: importing the plotting libraries takes longer than drawing.

A replication lists its figures as `{"part/figure": Plan(function, tables)}` and ends with `run_plans(PLANS)`. The
function gets the tables and returns the figure and the data drawn, one row per mark, or the figure alone if the first
table is what it draws.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from common.cli import run
from common.plotting import save_figure, use_style
from common.records import read_metrics

Picture = tuple[Figure, pd.DataFrame]


class Plan(NamedTuple):
    """How one figure is drawn."""

    draw: Callable[..., Figure | Picture]
    tables: tuple[str, ...]
    """files in the folder of the part, in the order of the function's arguments: tables, or `metrics.json`"""
    reading: Mapping[str, Any] = MappingProxyType({})
    """options of `pandas.read_csv`"""


def run_plans(plans: Mapping[str, Plan]) -> None:
    """The command line of a drawing step."""

    def draw(*, captions: list[Path], out: list[Path]) -> None:
        """Writes all figures of `out` from the tables in the folder of their part.

        Args:
            captions: one for each figure.
            out: the SVG of each figure, in the same order; PNG, PDF, data and caption are written beside it.
        """
        draw_figures(plans, captions, out)

    run(draw)


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
