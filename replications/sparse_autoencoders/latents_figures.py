"""Draws what latents tell apart, miss and share: probes, contrasts, absorption, completeness, layers, overlap."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from common.core.figures import PAGE_WIDTH, PALETTE, Picture
from replications.sparse_autoencoders.language_figures import plain_ticks
from replications.sparse_autoencoders.probing import VIEWS
from replications.sparse_autoencoders.token_classes import LEAST_F1

GREY = "0.6"
KINDS = {  # features: colour, marker
    "latents": (PALETTE[0], "o"),
    "random": (GREY, "s"),
    "principal components": (PALETTE[2], "^"),
    "coordinates": (PALETTE[4], "v"),
}
NAMES = {"latents": "latents", "random": "random directions", "principal components": "principal components",
         "coordinates": "coordinates"}  # fmt: skip
THRESHOLD, BINS = 0.7, 10


def probes(rows: pd.DataFrame) -> Picture:
    """Every task at k = 1 and k = 5, with the plain probe on all coordinates and the probe on all latents."""
    rows = rows[rows["view"] == VIEWS[0]]
    means = rows.groupby(["task", "features", "k"], sort=False)["accuracy"].agg(["mean", "min", "max"]).reset_index()
    plain = means[(means["features"] == "coordinates") & (means["k"] == 0)].set_index("task")["mean"]
    order = plain.sort_values().index.tolist()
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 0.6 + 0.27 * len(order)), sharey=True)
    for axis, k in zip(axes, (1, 5), strict=True):
        for at, (features, (colour, marker)) in enumerate(KINDS.items()):
            own = means[(means["features"] == features) & (means["k"] == k)].set_index("task").loc[order]
            y = np.arange(len(order)) + 0.12 * (at - 1.5)
            axis.hlines(y, own["min"], own["max"], color=colour, linewidth=1)
            axis.plot(own["mean"], y, marker, color=colour, markersize=4, label=f"k {NAMES[features]}")
        whole = means[(means["features"] == "latents") & (means["k"] == 0)].set_index("task")["mean"].loc[order]
        axis.plot(plain.loc[order], range(len(order)), "|", color="black", markersize=11, label="plain probe")
        axis.plot(whole, range(len(order)), "|", color=PALETTE[1], markersize=11, label="probe on all latents")
        axis.axvline(0.5, color="0.75", linewidth=0.7)
        axis.set(xlabel="balanced accuracy", title=f"k = {k}", yticks=range(len(order)), yticklabels=order)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure, means


ARMS = {"latents": PALETTE[0], "random": GREY, "coordinates": PALETTE[4], "plain": "black"}
ARM_NAMES = ("latents", "random directions", "coordinates", "plain probe")


def contrasts(probes: pd.DataFrame, others: pd.DataFrame) -> Picture:
    """Flagged calls by what the probe sees; contrast scores. Four arms in each."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.7), width_ratios=[1.2, 1])
    calls = probes[probes["task"] == "flagged call"]
    for at, (arm, colour) in enumerate(ARMS.items()):
        features, k = ("coordinates", 0) if arm == "plain" else (arm, 5)
        own = calls[(calls["features"] == features) & (calls["k"] == k)]
        for place, view in enumerate(VIEWS):
            values = own[own["view"] == view]["accuracy"].to_numpy()
            marks(left, place + 0.2 * (at - 1.5), values, colour, ARM_NAMES[at] if place == 0 else None)
    left.axhline(0.5, color="0.75", linewidth=0.7)
    left.set(xticks=range(3), xticklabels=["whole\nwindow", "without\nits name", "before\nthe call"])
    left.set(ylabel="balanced accuracy", title="flagged or ordinary call", xlim=(-0.5, 2.5))
    means = others.groupby(["what", "seed"], sort=False)["value"].mean()
    there = {*means.index.get_level_values("what")}

    def arms(axis: Axes, names: list[dict[str, str]]) -> None:
        for place, own in enumerate(names):
            for at, (arm, colour) in enumerate(ARMS.items()):
                if own.get(arm) in there:
                    marks(axis, place + 0.2 * (at - 1.5), means[own[arm]].to_numpy(), colour, None)

    kinds = {"latents": "latents", "random": "random", "coordinates": "coordinates", "plain": "a plain probe"}
    ends = ("", ", chosen elsewhere")
    arms(right, [{arm: f"contrast of {kind}{end}" for arm, kind in kinds.items()} for end in ends])
    right.set(xticks=[0, 1], xticklabels=["the largest\n(CE-Bench)", "chosen on\nother stories"], xlim=(-0.5, 1.5))
    right.set(ylabel="contrast, standard deviations", title="stories of two subjects", ylim=(0, None))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    data = pd.concat([calls.assign(what=calls["features"]), others], ignore_index=True)
    return figure, data


def marks(axis: Axes, x: float, values: np.ndarray, colour: str, label: str | None) -> None:
    """One mark per seed and a line at their mean."""
    axis.plot(np.full(len(values), x), values, "o", color=colour, markersize=3.5, alpha=0.8, label=label)
    axis.hlines(values.mean(), x - 0.08, x + 0.08, color=colour, linewidth=1.4)


def natural_absorption(rows: pd.DataFrame) -> Picture:
    """Left: recall on frequent and on rare members, class by class. Right: share of tokens fully absorbed."""
    own = rows[(rows["classes"] == "natural") & (rows["dictionary"] == "trained")]
    good = own[own["f1"] >= min(LEAST_F1, float(own["f1"].max()))][["seed", "class"]]
    rows = rows.merge(good, on=["seed", "class"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.9), width_ratios=[1, 1.1])
    groups = {
        ("trained", "natural"): ("natural classes", PALETTE[0], "o"),
        ("trained", "random"): ("random classes", PALETTE[1], "x"),
        ("untrained", "natural"): ("untrained dictionary", GREY, "s"),
    }
    for at, ((dictionary, kind), (label, colour, marker)) in enumerate(groups.items()):
        own = rows[(rows["dictionary"] == dictionary) & (rows["classes"] == kind)]
        if dictionary == "trained":
            left.plot(own["rare"], own["frequent"], marker, color=colour, markersize=4, alpha=0.7, label=label)
        jitter = at + np.linspace(-0.25, 0.25, max(1, len(own)))[: len(own)]
        right.plot(jitter, own["absorbed"].sort_values(), marker, color=colour, markersize=3, alpha=0.7)
        if len(own):
            right.hlines(own["absorbed"].mean(), at - 0.3, at + 0.3, color=colour, linewidth=1.4)
    left.plot([0, 1], [0, 1], color="0.75", linewidth=0.7)
    left.set(xlabel="recall of the main latents on rare members", ylabel="on frequent members", xlim=(-0.03, 1.03))
    left.set_ylim(-0.03, 1.03)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    right.set(xticks=range(3), xticklabels=["natural\nclasses", "random\nclasses", "natural classes,\nuntrained"])
    right.set_ylabel("share of the class's tokens absorbed")
    return figure, rows


def layers(rows: pd.DataFrame) -> Picture:
    """Left: best correlations. Right: the same by tenth of the firing rate."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.7))
    arms = {
        "later": ("later layer, other start", PALETTE[0]),
        "random": ("random directions of the later layer", GREY),
        "shuffled": ("later layer, tokens shuffled", PALETTE[1]),
        "other_seed": ("another seed, same layer", PALETTE[2]),
        "same_start": ("later layer, same start", PALETTE[4]),
    }
    tenth = pd.qcut(rows["density"].rank(method="first"), 10, labels=False)
    for name, (label, colour) in arms.items():
        values = np.sort(rows[name].to_numpy())
        left.step(values, np.linspace(0, 1, len(values)), color=colour, where="post", label=label)
        own = rows.groupby(tenth)[["density", name]].mean()
        right.plot(own["density"], own[name], "-o", color=colour, markersize=3)
    left.set(xlabel="correlation with the best partner", ylabel="share of latents below", xlim=(0, 1), ylim=(0, 1))
    right.set(xscale="log", xlabel="share of tokens on which latents fire (tenths)", ylim=(0, 1))
    right.set_ylabel("mean correlation")
    plain_ticks(right.xaxis, [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure, rows


def completeness(rows: pd.DataFrame) -> Picture:
    """What is left of each behaviour, by how many latents are kept."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.9), sharey=True)
    arms = {
        ("best", False): ("best latents", PALETTE[0], "-o", 6.0),
        ("best", True): ("best latents and the error", PALETTE[4], "--^", 3.5),
        ("random dictionary", False): ("best of a random dictionary", PALETTE[1], "-D", 4.0),
        ("random", False): ("random latents that fire as often", GREY, "-s", 4.0),
    }
    lines = {("none", True): ("the error alone", ":"), ("all", False): ("all latents, no error", "--")}
    tasks = {"syntax": "a bracket closes", "ioi": "indirect objects (IOI)"}
    for axis, (task, title) in zip(axes, tasks.items(), strict=True):
        found = rows[rows["task"] == task]
        for (name, error), (label, colour, style, size) in arms.items():
            own = found[(found["latents"] == name) & (found["error"] == error)]
            by_seed = own.groupby(["k", "seed"])["survives"].mean()
            means, low, high = (by_seed.groupby("k").agg(how) for how in ("mean", "min", "max"))
            axis.plot(means.index, means, style, color=colour, markersize=size, label=label)
            axis.vlines(means.index, low, high, color=colour, linewidth=1)
        for (name, error), (label, style) in lines.items():
            value = found[(found["latents"] == name) & (found["error"] == error)]["survives"].mean()
            axis.axhline(value, color="black", linestyle=style, linewidth=0.9, label=label)
        axis.axhline(0, color="0.75", linewidth=0.7)
        ticks = sorted(found[found["latents"] == "best"]["k"].unique())
        axis.set(xscale="log", xlabel="latents kept", title=title)
        plain_ticks(axis.xaxis, [float(one) for one in ticks])
    axes[0].set_ylabel("share of the behaviour that is left")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure, rows


def overlap(rows: pd.DataFrame, pairs: pd.DataFrame) -> Picture:
    """Distribution of cosines; both by tenth of the firing rate; both by width; overlap by what differs."""
    figure, ((left, right), (width, other)) = plt.subplots(2, 2, figsize=(PAGE_WIDTH, 4.8))
    edges = np.linspace(0, 1, 41)
    for key, label, colour in (
        ("cosine", "other seed", PALETTE[0]),
        ("random_cosine", "random directions, same covariance", GREY),
    ):
        left.hist(rows[key], edges, density=True, histtype="stepfilled", alpha=0.35, color=colour)
        left.hist(rows[key], edges, density=True, histtype="step", color=colour, label=label)
    left.axvline(THRESHOLD, color="0.3", linestyle=":", linewidth=0.8, label="least cosine of a shared latent")
    left.set(xlabel="decoder cosine with the matched latent", ylabel="density of latents", xlim=(0, 1))
    for place, (seed, own) in enumerate(rows.groupby("seed")):
        tenth = pd.qcut(own["log10_density"].rank(method="first"), BINS, labels=False)
        means = own.groupby(tenth)[["log10_density", "cosine", "shared"]].mean()
        firing = 10 ** means["log10_density"]
        right.plot(firing, means["shared"], "-o", color=PALETTE[place], markersize=3.5, label=f"shared, seed {seed}")
        right.plot(firing, means["cosine"], "--", color=PALETTE[place], linewidth=0.9, label=f"cosine, seed {seed}")
    right.set(xscale="log", xlabel="share of tokens on which latents fire (tenths)", ylim=(0, None))
    right.set_ylabel("share shared, mean cosine")
    plain_ticks(right.xaxis, [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
    by_width(width, pairs[pairs["what"] == "seeds"])
    by_difference(other, pairs)
    handles, labels = left.get_legend_handles_labels()
    more, names = right.get_legend_handles_labels()
    figure.legend(handles + more, labels + names, loc="outside lower center", ncols=3, frameon=False)
    return figure, pd.concat([rows.assign(panel="latents"), pairs.assign(panel="pairs")], ignore_index=True)


def by_width(axis: Axes, seeds: pd.DataFrame) -> None:
    """Pairs of seeds as marks, means as lines."""
    widths = sorted(seeds["width"].unique())
    axis.set_xscale("log", base=2)
    for key, style, colour, label in (
        ("overlap", "-o", PALETTE[0], "shared"),
        ("cosine", "--s", PALETTE[0], "mean cosine"),
        ("cosine_random", ":", GREY, "mean cosine, random"),
        ("overlap_random", "-", GREY, "shared, random"),
    ):
        means = seeds.groupby("width")[key].mean()
        axis.plot(means.index, means, style, color=colour, markersize=3.5, linewidth=1, label=label)
        if key in ("overlap", "cosine"):
            axis.plot(seeds["width"], seeds[key], ".", color=colour, markersize=3, alpha=0.6)
    axis.set(xlabel="latents", ylabel="share shared, mean cosine", ylim=(0, None))
    axis.set_xticks(widths, [str(one) for one in widths])
    axis.minorticks_off()
    axis.legend(frameon=False)


def by_difference(axis: Axes, pairs: pd.DataFrame) -> None:
    """Overlap of pairs at the largest width, by what they differ in, with random directions beside them."""
    own = pairs[pairs["width"] == pairs["width"].max()]
    names = {
        "seeds": "seed", "seeds of topk": "seed,\nTopK", "seeds of relu_bricken": "seed,\nReLU + L1",
        "sparsity": "sparsity", "seeds and sparsity": "seed and\nsparsity",
    }  # fmt: skip
    names = {what: name for what, name in names.items() if what in set(own["what"])}
    for place, what in enumerate(names):
        part = own[own["what"] == what]
        for offset, key, colour, marker in (
            (-0.1, "overlap", PALETTE[0], "o"),
            (0.1, "overlap_random", GREY, "s"),
        ):
            axis.plot(np.full(len(part), place + offset), part[key], marker, color=colour, markersize=4, alpha=0.8)
    axis.set(
        xticks=range(len(names)), xticklabels=list(names.values()), xlim=(-0.5, len(names) - 0.5), ylim=(-0.002, None)
    )
    axis.set(ylabel="share shared", xlabel="dictionaries differ in")
