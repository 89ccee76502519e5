"""Step: draws all figures of a model, or those of the planted circuit, from the tables of their parts.

Here: behaviour, logit lens, signals, MLPs, fine-tuned models and the planted circuit. The others stand in
head_figures.py, circuit_figures.py and edge_figures.py.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE, Plan, run_plans
from common.core.metrics import Control, Metric
from replications.ioi_circuit import circuit_figures, edge_figures, head_figures

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
LENS_VERSIONS = {"original": ("IOI prompts", "-"), "abc": ("control: ABC prompts", "--")}
LENS_LOGITS = {"logit_io": ("logit(IO)", PALETTE[0]), "logit_s": ("logit(S)", PALETTE[1])}
BAR_WIDTH = 0.36
WAYS = {"everywhere": "at every position", "end": "at END", "direct": "at END, direct path alone"}
LABELLED_FROM = 5.0  # percent: heads with a larger effect are named
TUNED_MARKERS = "os^Dv"
FINDERS = {
    "path_patching": "path\npatching",
    "activation_patching": "activation\npatching",
    "attribution": "attribution\npatching",
    "random": "random",
}
ADVERSARIAL = {"logit_difference": "logit difference", "probability_io": "P(IO)", "s_above_io": "share with S above IO"}


def adversarial(metrics: dict[str, Metric]) -> tuple[Figure, pd.DataFrame]:
    """Behaviour after a further sentence about one of the names."""
    records = []
    for key, quantity in ADVERSARIAL.items():
        about_io = metrics[f"adversarial_{key}"]
        shown: dict[str, Metric | Control] = {
            "no further\nsentence": about_io.control("no_sentence"),
            "one about S\n(control)": about_io.control("sentence_about_s"),
            "one about IO": about_io,
        }
        records += [
            {"version": version, "quantity": quantity, "n": one.n}
            | one.model_dump(include={"value", "ci_low", "ci_high"})
            for version, one in shown.items()
        ]
    table = pd.DataFrame(records)
    figure, panels = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.4))
    for axes, quantity in zip(panels, ADVERSARIAL.values(), strict=True):
        part = table[table["quantity"] == quantity]
        reach = [part["value"] - part["ci_low"], part["ci_high"] - part["value"]]
        colours = ["0.6", PALETTE[5], PALETTE[1]]
        bars = axes.bar(range(3), part["value"], yerr=reach, color=colours, error_kw={"elinewidth": 0.9})
        axes.bar_label(bars, fmt="%.2g", padding=2, fontsize=7)
        axes.set_xticks(range(3), part["version"])
        axes.set_title(quantity, loc="left")
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


def lens(table: pd.DataFrame) -> Figure:
    """Both logits left, their difference right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.7))
    for version, (text, style) in LENS_VERSIONS.items():
        for quantity, (name, colour) in LENS_LOGITS.items():
            _lens_curve(left, table, version, quantity, f"{name}, {text}", colour, style)
        colour = PALETTE[2] if version == "original" else PALETTE[6]
        _lens_curve(right, table, version, "difference", text, colour, style)
    left.set_ylabel("logit above vocabulary mean")
    right.set_ylabel("logit(IO) \N{MINUS SIGN} logit(S)")
    right.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    for axes, title in ((left, "Both names"), (right, "Difference")):
        axes.set_xlabel("layers read by the lens (0: embedding)")
        axes.set_xlim(0, table["layer"].max())
        axes.set_title(title, loc="left")
        axes.legend(frameon=False)
    return figure


def _lens_curve(
    axes: Axes, table: pd.DataFrame, version: str, quantity: str, label: str, colour: str, style: str
) -> None:
    part = table[(table["version"] == version) & (table["quantity"] == quantity)]
    axes.plot(part["layer"], part["value"], style, color=colour, label=label, linewidth=1.3)
    axes.fill_between(part["layer"], part["ci_low"], part["ci_high"], color=colour, alpha=0.2, linewidth=0)


def signals(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """A pair of bars for each token, position as it is and inverted."""
    tokens = list(table["token"].unique())
    figure, axes = plt.subplots(figsize=(0.7 * PAGE_WIDTH, 2.6))
    for side, (position, part) in enumerate(table.groupby("position", sort=False)):
        x = np.arange(len(tokens)) + (side - 0.5) * BAR_WIDTH
        axes.bar(x, part["left"], 0.94 * BAR_WIDTH, color=PALETTE[side], label=f"position {position}")
        spread = [part["random"] - part["random_low"], part["random_high"] - part["random"]]
        label = "other heads of the same layers" if side == 0 else None
        axes.errorbar(x, part["random"], spread, fmt="o", color="0.35", markersize=3, capsize=2, label=label)
        label = "published (GPT-2 small)" if side == 0 else None
        axes.scatter(x, part["published"], marker="_", s=140, color="black", zorder=3, label=label)
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(tokens)), [f"token {token}" for token in tokens])
    axes.set_ylabel("what is left of F(M)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure, table


def mlps(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """One panel per way, one bar per layer."""
    figure, panels = plt.subplots(1, len(WAYS), figsize=(PAGE_WIDTH, 2.2), sharey=True)
    for axes, (way, title) in zip(panels, WAYS.items(), strict=True):
        part = table[table["way"] == way]
        spread = np.stack([part["left"] - part["low"], part["high"] - part["left"]])
        axes.bar(part["layer"], part["left"], color=PALETTE[0])
        axes.errorbar(part["layer"], part["left"], spread, fmt="none", ecolor="0.35", elinewidth=0.7)
        axes.axhline(1, color="0.5", linewidth=0.8, linestyle="--")
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.set_title(title, loc="left", fontsize=7)
        axes.set_xlabel("layer of the MLP")
    panels[0].set_ylabel("what is left of F(M)")
    return figure, table


def fine_tuned(shares: pd.DataFrame, heads: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Left: one mark per head and fine-tuned model. Right: one row per intervention, one mark per model."""
    old, *tuned = shares["model"].unique()
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.3), width_ratios=[1, 1.15])
    for number, model in enumerate(tuned):
        style = {
            "marker": TUNED_MARKERS[number % len(TUNED_MARKERS)],
            "color": PALETTE[number % len(PALETTE)],
            "alpha": 0.75,
        }
        left.scatter(
            heads[old], heads[model], s=13, linewidths=0, label=f"fine-tuned, seed {model.split('-')[-1]}", **style
        )
        part = shares[shares["model"] == model]
        places = [row + 0.22 * (number - (len(tuned) - 1) / 2) for row in range(len(part))]
        right.scatter(part["share"], places, s=20, linewidths=0, zorder=3, **style)
    for place, (_, row) in enumerate(heads[heads[old].abs() >= LABELLED_FROM].sort_values(old).iterrows()):
        text, at = f"{row['layer']:.0f}.{row['head']:.0f}", (row[old], row[tuned].mean())
        offset, side = ((6, -6), "left") if place % 2 == 0 else ((-6, 1), "right")
        left.annotate(text, at, xytext=offset, textcoords="offset points", ha=side, fontsize=5.5, color="0.3")
    ends = [min(left.get_xlim()[0], left.get_ylim()[0]), max(left.get_xlim()[1], left.get_ylim()[1])]
    left.plot(ends, ends, color="0.7", linewidth=0.8, zorder=0)
    left.set_xlabel("effect before fine-tuning, %")
    left.set_ylabel("effect after fine-tuning, %")
    left.legend(frameon=False, fontsize=6.5)
    before = shares[shares["model"] == old]
    lines = list(range(len(before)))
    right.scatter(before["share"], lines, marker="|", s=150, color="black", linewidths=1.0, zorder=2, label=old)
    for share in (0, 1):
        right.axvline(share, color="0.8", linewidth=0.8, zorder=0)
    right.set_yticks(lines, [what.replace("_", " ") for what in before["what"]])
    right.invert_yaxis()
    right.set_xlabel("what is left of the logit difference, F / F(M)")
    right.legend(frameon=False, fontsize=6.5)
    return figure, pd.concat([shares, heads.melt(["layer", "head"], var_name="model", value_name="effect_percent")])


def planted(table: pd.DataFrame) -> Figure:
    """Planted circuit left, twin right, one column per finder."""
    largest = table[table["model"] == "planted"].groupby(["seed", "finder"])["score"].max().rename("largest")
    table = table.join(largest, on=["seed", "finder"])
    table["relative"] = table["score"] / table["largest"]
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.8), sharey=True)
    generator = np.random.default_rng(0)
    for axes, (model, title) in zip(panels, {"planted": "planted circuit", "twin": "twin"}.items(), strict=True):
        for column, finder in enumerate(FINDERS):
            part = table[(table["model"] == model) & (table["finder"] == finder)]
            for real, shift, colour in ((False, 0.17, "0.6"), (True, -0.17, PALETTE[0])):
                one = part[part["planted"].notna() == real]
                x = column + shift + generator.uniform(-0.1, 0.1, len(one))
                face = colour if real else "none"
                label = ("planted node" if real else "other node") if column == 0 else None
                axes.scatter(x, one["relative"], s=8, facecolors=face, edgecolors=colour, linewidths=0.6, label=label)
        axes.set_xticks(range(len(FINDERS)), list(FINDERS.values()))
        axes.set_title(title, loc="left")
    panels[0].set_ylabel("score / largest score\nin the planted model")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


PLANS = {
    "baseline/answers": Plan(answers, ("answers.csv",)),
    "baseline/adversarial": Plan(adversarial, ("metrics.json",)),
    "logit_lens/lens": Plan(lens, ("lens.csv",)),
    "direct_path/heat_map": Plan(head_figures.heat_map, ("heads.csv",)),
    "direct_path/strongest_heads": Plan(head_figures.strongest_heads, ("heads.csv",)),
    "path_patching/sweeps": Plan(head_figures.sweeps, ("heads.csv",)),
    "path_patching/attention": Plan(head_figures.attention, ("attention.csv",), {"dtype": {"head": str}}),
    "path_patching/steered": Plan(head_figures.steered, ("steered.csv",), {"dtype": {"head": str}}),
    "path_patching/random_tokens": Plan(head_figures.random_tokens, ("heads.csv",)),
    "signals/signals": Plan(signals, ("signals.csv",)),
    "mlp_knockout/mlps": Plan(mlps, ("mlps.csv",)),
    "verification/curve": Plan(circuit_figures.curve, ("curve.csv", "metrics.json")),
    "verification/completeness": Plan(circuit_figures.completeness, ("classes.csv",)),
    "robustness/parts": Plan(circuit_figures.parts, ("parts.csv",)),
    "robustness/minimality": Plan(circuit_figures.minimality, ("nodes.csv",)),
    "robustness/grid": Plan(circuit_figures.grid, ("grid.csv",)),
    "verification/diagram": Plan(circuit_figures.diagram, ("circuit.csv",)),
    "fine_tuned/fine_tuned": Plan(fine_tuned, ("shares.csv", "heads.csv")),
    "activation_patching/streams": Plan(head_figures.streams, ("effects.csv",)),
    "activation_patching/patched_heads": Plan(head_figures.patched_heads, ("effects.csv",)),
    "edge_attribution/edge_curves": Plan(edge_figures.edge_curves, ("curves.csv",)),
    "edge_attribution/attribution": Plan(edge_figures.attribution, ("nodes.csv",)),
    "edge_search/searched_edges": Plan(edge_figures.searched_edges, ("curves.csv", "edges.csv", "metrics.json")),
    "ground_truth/planted": Plan(planted, ("scores.csv",)),
    "edge_ground_truth/planted_edges": Plan(edge_figures.planted_edges, ("edges.csv", "curves.csv")),
}


if __name__ == "__main__":
    run_plans(PLANS)
