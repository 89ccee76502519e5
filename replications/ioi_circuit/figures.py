"""Step: draws all figures of a model, or those of the planted circuit, from the tables of their parts.

Here: behaviour, signals, place or token, trivial circuits, and the planted circuit. The others stand in
head_figures.py, naming_figures.py, circuit_figures.py and edge_figures.py.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.core.figures import PAGE_WIDTH, PALETTE, Plan, run_plans
from common.core.metrics import Metric
from replications.ioi_circuit import circuit_figures, edge_figures, head_figures, naming_figures
from replications.ioi_circuit.templates import TEMPLATES

SHOWN = {
    "original": ("original", "o", PALETTE[0]),
    "nouns_redrawn": ("other place and object", "s", PALETTE[2]),
    "roles_flipped": ("S2 is IO, scored on the new answer", "D", PALETTE[4]),
    "abc_own": ("control: ABC prompts, IO slot against S1 slot", "X", PALETTE[1]),
    "abc_own_s2": ("ABC prompts, IO slot against the subject", "P", PALETTE[3]),
}
TRIVIAL = {
    "circuit": ("circuit", PALETTE[0]), "two_heads": ("two strongest heads", PALETTE[1]),
    "top_four_nodes": ("four strongest nodes", PALETTE[3]), "favouring_writers": ("writers for IO", PALETTE[4]),
    "writers_only": ("its writers alone", PALETTE[2]), "suppressors": ("S-suppressing, S2, S1+1", "0.3"),
    "random_upstream": ("writers, random upstream", "0.6"),
}  # fmt: skip
MEASURES = {
    "circuit_faithfulness": "faithfulness,\nABC means", "faithfulness_neutral": "faithfulness,\nroles averaged",
    "faithfulness_abba": "ABBA\n(ABC means)", "faithfulness_baba": "BABA\n(ABC means)",
    "repetition_kept": "part that needs\na repeated name", "roles_kept": "turns round\nwith the roles",
}  # fmt: skip
BAR_WIDTH = 0.36
FINDERS = {
    "path_patching": "path\npatching",
    "activation_patching": "activation\npatching",
    "attribution": "attribution\npatching",
    "random": "random",
}


def answers(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Logit difference by template left, over prompts right."""
    table["scored"] = np.where(table["version"] == "roles_flipped", -table["difference"], table["difference"])
    grouped = table.groupby(["version", "template"])["scored"]
    summary = grouped.agg(mean="mean", standard_error="sem", n="size").reset_index()
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 6.5), width_ratios=[1.5, 1])
    _by_template(left, summary)
    _distribution(right, table)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure, summary


def template_name(template: str) -> str:
    """What stands in front of the two names, and the two words behind them."""
    before, after = template.split("{first} and {second}")
    return f"{before}... {' '.join(after.split()[:2])}".replace("{place}", "place")


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
            markersize=2.5,
            elinewidth=0.6,
        )
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    for template in summary["template"].unique()[::2]:
        axes.axhspan(template - 0.5, template + 0.5, color="0.95", zorder=-1)
    axes.set_yticks(range(len(TEMPLATES)), [template_name(one) for one in TEMPLATES], fontsize=6)
    axes.set_ylim(len(TEMPLATES) - 0.5, -0.5)
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


def place_or_token(metrics: dict[str, Metric]) -> tuple[Figure, pd.DataFrame]:
    """What stays of the effect of each class when the token, or the place, of the first mention stays."""
    kinds = {"induction": "induction heads, at S2", "inhibition": "S-inhibition heads, at END"}
    records = []
    for kind, label in kinds.items():
        if f"{kind}_token_alone" in metrics:
            metric = metrics[f"{kind}_token_alone"]
            shown = {
                "token kept, place inverted": metric,
                "place kept, token exchanged": metric.control("place_alone"),
                "flip with one token behind both": metrics[f"{kind}_place_only"],
                "the heads say nothing": metric.control("says_nothing"),
                "other heads of the same layers": metric.control("other_heads"),
            }
            records += [
                {"heads": label, "kept": kept, "share": one.value, "low": one.ci_low, "high": one.ci_high}
                for kept, one in shown.items()
            ]
    none = {"heads": "no head was named", "kept": "none", "share": 0.0, "low": 0.0, "high": 0.0}
    table = pd.DataFrame(records or [none])
    figure, axes = plt.subplots(figsize=(0.7 * PAGE_WIDTH, 3.2))
    rows = {label: row for row, label in enumerate(table["heads"].unique())}
    colours = (PALETTE[0], PALETTE[1], PALETTE[2], "0.4", "0.75")
    for shift, (kept, part) in enumerate(table.groupby("kept", sort=False)):
        y = part["heads"].map(rows) + 0.17 * (shift - 2)
        reach = [part["share"] - part["low"], part["high"] - part["share"]]
        colour, thin = colours[shift], {"elinewidth": 0.9}
        axes.barh(y, part["share"], 0.15, xerr=reach, color=colour, label=str(kept), error_kw=thin)
    for value in (0, 1):
        axes.axvline(value, color="0.6", linewidth=0.8, zorder=0)
    axes.set_yticks(list(rows.values()), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("share of the flip's effect that stays")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure, table


def subject_or_repeat(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """How far the other names of the sentence are below A, one panel a form of the mention."""
    words = {
        "clause": "..., [subject], who knew [mention], gave",
        "unlike": "..., [subject], unlike [mention], gave",
        "in_front": "Yesterday [mention] was away. ...",
    }
    cells = {
        "both": "subject B,\nmention C",
        "repeated": "subject C,\nmention B",
        "neither": "subject C,\nmention D",
    }
    width = 0.28
    figure, panels = plt.subplots(1, len(words), figsize=(PAGE_WIDTH, 2.8), sharey=True)
    for axes, (form, title) in zip(panels, words.items(), strict=True):
        for shift, name in enumerate("BCD"):
            part = table[(table["form"] == form) & (table["name"] == name)]
            x = part["cell"].map(list(cells).index) + width * (shift - 1)
            reach = [part["below_a"] - part["ci_low"], part["ci_high"] - part["below_a"]]
            axes.bar(x, part["below_a"], 0.94 * width, yerr=reach, color=PALETTE[shift], label=f"name {name}")
        axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        axes.set_xticks(range(len(cells)), list(cells.values()), fontsize=6.5)
        axes.set_title(title, loc="left", fontsize=7)
    panels[0].set_ylabel("logits below name A")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure, table


def trivial(metrics: dict[str, Metric]) -> tuple[Figure, pd.DataFrame]:
    """The circuit beside trivial circuits, by what is measured."""
    records = []
    for measure in MEASURES:
        metric = metrics[measure]
        shown = {"circuit": metric} | {one.name: one for one in metric.controls if one.name in TRIVIAL}
        records += [
            {"measure": measure, "set": name, "value": one.value, "low": one.ci_low, "high": one.ci_high}
            for name, one in shown.items()
        ]
    table = pd.DataFrame(records)
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 2.8))
    for shift, (name, (label, colour)) in enumerate(TRIVIAL.items()):
        part = table[table["set"] == name]
        x = part["measure"].map(list(MEASURES).index) + 0.125 * (shift - (len(TRIVIAL) - 1) / 2)
        reach = [part["value"] - part["low"], part["high"] - part["value"]]
        axes.bar(x, part["value"], 0.115, yerr=reach, color=colour, label=label, error_kw={"elinewidth": 0.9})
    for value in (0, 1):
        axes.axhline(value, color="0.6", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(MEASURES)), list(MEASURES.values()))
    axes.set_ylabel("share of what the model does")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure, table


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
    "direct_path/heat_map": Plan(head_figures.heat_map, ("heads.csv",)),
    "direct_path/strongest_heads": Plan(head_figures.strongest_heads, ("heads.csv",)),
    "path_patching/sweeps": Plan(head_figures.sweeps, ("heads.csv",)),
    "path_patching/attention": Plan(head_figures.attention, ("attention.csv",), {"dtype": {"head": str}}),
    "path_patching/stability": Plan(head_figures.stability, ("heads.csv",)),
    "other_half/other_half": Plan(naming_figures.other_half, ("classes.csv",), {"dtype": {"head": str}}),
    "receivers_apart/receivers_apart": Plan(
        naming_figures.receivers_apart, ("senders.csv",), {"dtype": {"receiver": str, "sender": str}}
    ),
    "subject_or_repeat/subject_or_repeat": Plan(subject_or_repeat, ("answers.csv",)),
    "path_patching/random_tokens": Plan(head_figures.random_tokens, ("heads.csv",)),
    "signals/signals": Plan(signals, ("signals.csv",)),
    "signals/place_or_token": Plan(place_or_token, ("metrics.json",)),
    "verification/trivial": Plan(trivial, ("metrics.json",)),
    "verification/curve": Plan(circuit_figures.curve, ("curve.csv", "metrics.json")),
    "verification/completeness": Plan(circuit_figures.completeness, ("classes.csv",)),
    "robustness/parts": Plan(circuit_figures.parts, ("parts.csv",)),
    "robustness/minimality": Plan(circuit_figures.minimality, ("nodes.csv",)),
    "robustness/grid": Plan(circuit_figures.grid, ("grid.csv",)),
    "sensitivity/sensitivity": Plan(head_figures.sensitivity, ("heads.csv",), {"dtype": {"head": str}}),
    "verification/diagram": Plan(circuit_figures.diagram, ("circuit.csv",)),
    "edge_attribution/edge_curves": Plan(edge_figures.edge_curves, ("curves.csv",)),
    "edge_attribution/attribution": Plan(edge_figures.attribution, ("nodes.csv",)),
    "ground_truth/planted": Plan(planted, ("scores.csv",)),
    "edge_ground_truth/planted_edges": Plan(edge_figures.planted_edges, ("edges.csv", "curves.csv")),
}


if __name__ == "__main__":
    run_plans(PLANS)
