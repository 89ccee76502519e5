"""A landmark in one small picture, a forest plot: the effect, its controls and the bound, as SVG.

Values with their intervals stand in rows, the effect first, then the strongest controls. The side of the bound that
passes is shaded; a control that reaches it is orange. Made from `claims.json` alone, so the front page, the claims page
and the site show the same picture. The words and sizes are for a width of 240 to 480 pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from common.core.claims import Claim, ControlResult
from common.publish.misses import bound_of
from common.publish.templating import behind, render

MOST_CONTROLS = 5
LONGEST_NAME = 24  # characters
WIDTH, LEFT, RIGHT = 480, 212, 466  # pixels; the axis reaches from LEFT to RIGHT
TOP, ROW, BOTTOM = 34, 27, 34
MARGIN = 0.06  # of the range, on both sides
TICKS = 3


class Row(NamedTuple):
    """One value with its interval, in pixels along the axis."""

    name: str
    kind: str
    """`effect`, `fails` or `passes` the bound"""
    y: float
    x: float
    low: float
    high: float
    seeds: list[float]


def forest_plot(claim: Claim) -> Markup | None:
    """The picture of a landmark that was judged; None for any other claim."""
    bound = bound_of(claim)
    if claim.tier != "landmark" or claim.value is None or bound is None:
        return None
    controls = sorted(
        (control for control in claim.controls if control.value is not None),
        key=lambda control: bound.margin(control.value or 0.0),
    )
    shown = controls[:MOST_CONTROLS]
    one: list[Claim | ControlResult] = [claim, *shown]
    seeds = claim.per_seed or []
    ends = [end for row in one for end in (row.value, row.ci_low, row.ci_high) if end is not None] + seeds
    bounds = [end for end in (bound.at_least, bound.at_most) if end is not None]
    first, last = _range(ends + bounds)

    def at(value: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (value - first) / (last - first), 1)

    rows = []
    for place, row in enumerate(one):
        name, kind, dots = "ours", "effect", [at(seed) for seed in seeds]
        if isinstance(row, ControlResult):
            name, kind, dots = _short(row.name), "fails" if row.fails else "passes", []
        x, low, high = (at(end) for end in (row.value, row.ci_low, row.ci_high) if end is not None)
        rows.append(Row(name, kind, TOP + ROW * (place + 0.5), x, low, high, dots))
    weaker = len(controls) - len(shown)
    height = TOP + ROW * (len(rows) + bool(weaker)) + BOTTOM
    ticks = [float(tick) for tick in MaxNLocator(TICKS).tick_values(first, last) if first <= tick <= last]
    passing = (at(max(bound.low, first)), at(min(bound.high, last)))
    values = {"rows": rows, "weaker": weaker, "ticks": [(at(tick), f"{tick:g}") for tick in ticks], "claim": claim}
    values |= {"unit": behind(claim.unit), "bounds": [at(end) for end in bounds], "passing": passing}
    values |= {"height": height, "bottom": height - BOTTOM}
    return Markup(render("forest_plot.svg.j2", width=WIDTH, left=LEFT, right=RIGHT, top=TOP, **values))


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The ends of the axis."""
    margin = MARGIN * (max(values) - min(values))
    return min(values) - margin, max(values) + margin


def _short(name: str) -> str:
    said = name.replace("_", " ")
    return said if len(said) <= LONGEST_NAME else f"{said[: LONGEST_NAME - 1].rstrip()}…"
