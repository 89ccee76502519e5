"""Figure: logit lens curves over layers, for the prompts and for the ABC control."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE

VERSIONS = {"original": ("IOI prompts", "-"), "abc": ("control: ABC prompts", "--")}
LOGITS = {"logit_io": ("logit(IO)", PALETTE[0]), "logit_s": ("logit(S)", PALETTE[1])}


def lens(table: pd.DataFrame) -> Figure:
    """Both logits left, their difference right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.7))
    for version, (text, style) in VERSIONS.items():
        for quantity, (name, colour) in LOGITS.items():
            _curve(left, table, version, quantity, f"{name}, {text}", colour, style)
        colour = PALETTE[2] if version == "original" else PALETTE[6]
        _curve(right, table, version, "difference", text, colour, style)
    left.set_ylabel("logit above vocabulary mean")
    right.set_ylabel("logit(IO) \N{MINUS SIGN} logit(S)")
    right.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    for axes, title in ((left, "Both names"), (right, "Difference")):
        axes.set_xlabel("layers read by the lens (0: embedding)")
        axes.set_xlim(0, table["layer"].max())
        axes.set_title(title, loc="left")
        axes.legend(frameon=False)
    return figure


def _curve(axes: Axes, table: pd.DataFrame, version: str, quantity: str, label: str, colour: str, style: str) -> None:
    part = table[(table["version"] == version) & (table["quantity"] == quantity)]
    axes.plot(part["layer"], part["value"], style, color=colour, label=label, linewidth=1.3)
    axes.fill_between(part["layer"], part["ci_low"], part["ci_high"], color=colour, alpha=0.2, linewidth=0)
