"""Figures: logit difference by template and over prompts, with its controls; and the adversarial prompts."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE
from common.core.metrics import Metric

SHOWN = {
    "original": ("original", "o", PALETTE[0]),
    "nouns_redrawn": ("other place and object", "s", PALETTE[2]),
    "names_swapped": ("names swapped, scored on the new answer", "D", PALETTE[4]),
    "abc_own": ("control: ABC prompts, IO slot against S1 slot", "X", PALETTE[1]),
    "abc_own_s2": ("ABC prompts, IO slot against the subject", "P", PALETTE[3]),
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


VERSIONS = {"plain": "no further\nsentence", "extra_s": "one about S\n(control)", "extra_io": "one about IO"}
QUANTITIES = {"": "logit difference", "_probability_io": "P(IO)", "_s_above_io": "share with S above IO"}


def adversarial(found: dict[str, Metric]) -> tuple[Figure, pd.DataFrame]:
    """Behaviour after a further sentence about one of the names."""
    records = [
        {"version": version, "quantity": name, **found[f"adversarial_{version}{end}"].model_dump()}
        for end, name in QUANTITIES.items()
        for version in VERSIONS
    ]
    table = pd.DataFrame(records).drop(columns="per_seed")
    figure, panels = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.4))
    for axes, name in zip(panels, QUANTITIES.values(), strict=True):
        part = table[table["quantity"] == name]
        reach = [part["value"] - part["ci_low"], part["ci_high"] - part["value"]]
        colours = ["0.6", PALETTE[5], PALETTE[1]]
        bars = axes.bar(range(3), part["value"], yerr=reach, color=colours, error_kw={"elinewidth": 0.9})
        axes.bar_label(bars, fmt="%.2g", padding=2, fontsize=7)
        axes.set_xticks(range(3), list(VERSIONS.values()))
        axes.set_title(name, loc="left")
        axes.set_ylim(0.0, max(0.05, 1.08 * axes.get_ylim()[1]))
    return figure, table


def answers(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Logit difference by template left, over prompts right."""
    table["scored"] = np.where(table["version"] == "names_swapped", -table["difference"], table["difference"])
    grouped = table.groupby(["version", "template"])["scored"]
    summary = grouped.agg(mean="mean", standard_error="sem", n="size").reset_index()
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 4.0), width_ratios=[1.5, 1])
    _by_template(left, summary)
    _distribution(right, table)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure, summary


def _by_template(axes: Axes, summary: pd.DataFrame) -> None:
    for row, (version, (label, marker, colour)) in enumerate(SHOWN.items()):
        part = summary[summary["version"] == version]
        axes.errorbar(
            part["mean"],
            part["template"] + 0.16 * (row - 2),
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
        style = {"linewidth": 1.4} if version in ("original", "abc_own") else {"linewidth": 0.9, "linestyle": "--"}
        axes.hist(values, edges, histtype="step", color=colour, **style)
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xlabel("logit(IO) \N{MINUS SIGN} logit(S)")
    axes.set_ylabel("prompts")
    axes.set_title("All prompts", loc="left")
