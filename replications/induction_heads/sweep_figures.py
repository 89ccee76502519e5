"""Figure of when the in-context gain and the prefix score change, for settings that change at different times."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.core.figures import PAGE_WIDTH, PALETTE

MARKERS = ("o", "s", "^", "D")


def sweep(lines: pd.DataFrame, points: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Left and middle: curves of all settings. Right: one time against the other, with the line of equal times."""
    figure, axes = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.5))
    colours = {rate: PALETTE[i % len(PALETTE)] for i, rate in enumerate(sorted(points["rate"].unique(), reverse=True))}
    periods = sorted(points["longest"].unique())
    for setting, one in lines.groupby("setting"):
        about = points[points["setting"] == setting].iloc[0]
        style = {
            "color": colours[about["rate"]],
            "linestyle": ("-", "--", ":", "-.")[periods.index(about["longest"]) % 4],
        }
        for ax, what in zip(axes, ("gain", "prefix"), strict=False):
            ax.plot(one["step"], one[what], linewidth=0.9, **style)
        axes[2].plot(
            about["prefix_at"], about["gain_at"], MARKERS[periods.index(about["longest"]) % 4], markersize=4,
            color=style["color"], linestyle="none",
        )  # fmt: skip
    axes[0].set(xlabel="step", ylabel="in-context gain (nats)")
    axes[1].set(xlabel="step", ylabel="prefix matching (best head)")
    ends = [0.85 * points["gain_at"].min(), 1.15 * points["gain_at"].max()]
    axes[2].plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
    axes[2].set(xscale="log", yscale="log", xlabel="step of half the prefix score", ylabel="step of half the gain")
    ticks = [
        tick for tick in (10, 20, 50, 100, 200, 300, 400, 600, 800, 1200, 1600, 2400) if ends[0] <= tick <= ends[1]
    ]
    for axis in (axes[2].xaxis, axes[2].yaxis):
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axis.set_minor_formatter("")
    handles = [Line2D([], [], color=colour, label=f"rate x {rate:g}") for rate, colour in colours.items()]
    handles += [
        Line2D(
            [], [], color="0.3", marker=MARKERS[i % 4], markersize=4, linestyle=("-", "--", ":", "-.")[i % 4],
            label=f"periods up to {period}",
        )
        for i, period in enumerate(periods)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False)
    return figure, points
