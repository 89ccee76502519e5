"""Figures of what the direction does, and of what else its ablation changes; and what all figures share."""

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from common.core.figures import PAGE_WIDTH, PALETTE, Picture
from replications.refusal_direction.comparisons import Studied

GREY = "0.6"
HISTOGRAMS = 5  # layers whose projections are drawn as histograms
ABLATIONS = {
    "before": "before tuning",
    "tuned": "tuned",
    "ablated": "r ablated",
    "random ablated": "random",
    "permuted ablated": "permuted",
    "unrelated ablated": "unrelated",
    "earlier ablated": "earlier",
    "subtracted": "r subtracted",
    "random subtracted": "random subtracted",
    "permuted subtracted": "permuted subtracted",
    "unrelated subtracted": "unrelated subtracted",
    "earlier subtracted": "earlier subtracted",
}
ADDITIONS = {
    "before": "before tuning",
    "tuned": "tuned",
    "added": "r added",
    "before, added": "r, untouched",
    "random added": "random",
    "permuted added": "permuted",
    "unrelated added": "unrelated",
    "earlier added": "earlier",
}


class Data(NamedTuple):
    """What `study` left of every seed and of the sham models, and the paper's table."""

    studies: list[Studied]
    shams: list[Studied]
    published: pd.DataFrame


def joined(studies: list[Studied], table: str) -> pd.DataFrame:
    """One table of all seeds, with a column `seed` that counts them."""
    return pd.concat(
        [study.tables[table].assign(seed=number) for number, study in enumerate(studies)], ignore_index=True
    )


def dots(table: pd.DataFrame, **look: Any) -> None:
    """A strip plot. Its jitter comes from numpy's global state, which is set here: same data, same bytes."""
    np.random.seed(0)  # noqa: NPY002
    sns.stripplot(table, **look)


def shares(data: Data) -> pd.DataFrame:
    """Share refused by model, seed, class and condition."""
    tables = [joined(data.studies, "answers").assign(model="refuses harm")]
    if data.shams:
        tables.append(joined(data.shams, "answers").assign(model="sham: refuses food"))
    keys = ["model", "seed", "class", "condition"]
    return pd.concat(tables).groupby(keys, sort=False)["refused"].mean().reset_index()


def refusal(data: Data) -> Picture:
    """Share refused under every intervention, harmful and harmless requests; dots are seeds."""
    table = shares(data)
    rows = table["model"].nunique()
    figure, axes = plt.subplots(rows, 2, figsize=(PAGE_WIDTH, 2.2 * rows), sharey=True, squeeze=False)
    for row, (model, part) in zip(axes, table.groupby("model", sort=False), strict=True):
        bars(row[0], part[part["class"] == "harmful"], ABLATIONS, f"{model}: to be refused; ablation, subtraction")
        bars(row[1], part[part["class"] == "harmless"], ADDITIONS, f"{model}: harmless; addition")
    return figure, table


def bars(ax: Axes, part: pd.DataFrame, names: dict[str, str], title: str) -> None:
    """Mean share refused under the named conditions, one dot a seed."""
    some = part[part["condition"].isin(list(names))]
    some = some.assign(condition=some["condition"].map(names))
    order = list(names.values())
    colours = [
        PALETTE[0] if key in ("before", "tuned") else PALETTE[1] if name[:2] in ("r ", "r,") else GREY
        for key, name in names.items()
    ]
    look = {"x": "condition", "y": "refused", "order": order, "ax": ax}
    sns.barplot(some, hue="condition", hue_order=order, palette=colours, errorbar=None, legend=False, **look)
    dots(some, color="black", size=2.5, **look)
    ax.set(xlabel="", ylabel="share refused", ylim=(0, 1.05), title=title)
    plt.setp(ax.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")


def doses(data: Data) -> Picture:
    """Refusal metric against the multiple of the direction."""
    table = joined(data.studies, "doses")
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.3), sharey=True)
    titles = {"harmless": "added to harmless requests", "harmful": "subtracted from harmful requests"}
    for ax, (kind, title) in zip(axes, titles.items(), strict=True):
        for colour, (vector, part) in zip(
            [PALETTE[1], GREY], table[table["class"] == kind].groupby("vector"), strict=True
        ):
            for number, line in part.groupby("seed"):
                ax.plot(
                    line["dose"],
                    line["metric"],
                    "o-",
                    color=colour,
                    markersize=3,
                    linewidth=1,
                    label=vector if number == 0 else None,
                )
        ax.axhline(0, color="0.8", linewidth=0.8)
        ax.set(xlabel="multiple of the vector", ylabel="refusal metric (nats)", title=title)
    axes[0].legend(title="", frameon=False)
    return figure, table


def projections(data: Data) -> Picture:
    """Projection of the last token on the direction: means by layer, and histograms before some layers."""
    table = joined(data.studies, "projections")
    table["layer"] = table["layer"].astype(int)
    lines = {
        ("tuned", "harmful"): "harmful",
        ("tuned", "harmless"): "harmless",
        ("tuned", "risky"): "risky words",
        ("tuned", "persuading suffix"): "harmful + persuasion",
        ("tuned", "random suffix"): "harmful + random words",
        ("before", "harmful"): "harmful, before tuning",
    }
    named = table.assign(name=[lines.get(pair, "") for pair in zip(table["model"], table["kind"], strict=True)])
    first = named[(named["name"] != "") & (named["seed"] == 0)]
    layer = int(data.studies[0].numbers["layer"])
    shown = spaced(int(table["layer"].max()), layer)
    figure, grid = plt.subplots(2, 3, figsize=(PAGE_WIDTH, 4.4))
    ax, *row = grid.flatten()
    sns.lineplot(
        first,
        x="layer",
        y="projection",
        hue="name",
        hue_order=list(lines.values()),
        errorbar="sd",
        ax=ax,
        palette=PALETTE[: len(lines)],
        linewidth=1.2,
        err_kws={"alpha": 0.12, "linewidth": 0},
    )
    ax.axvline(layer, color=GREY, linewidth=0.8, linestyle="--")
    ax.set_yscale("symlog", linthresh=10)
    ax.set(ylabel="projection on r, first seed")
    handles, labels = ax.get_legend_handles_labels()
    ax.get_legend().remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    kinds = ["harmful", "harmless", "risky words"]
    raw = first[first["layer"].isin(shown) & first["name"].isin(kinds)]
    for small in row[len(shown) :]:
        small.set_axis_off()
    for small, at in zip(row, shown, strict=False):
        look = {"hue": "name", "hue_order": kinds, "palette": PALETTE[:3], "element": "step", "alpha": 0.35}
        sns.histplot(raw[raw["layer"] == at], x="projection", bins=12, ax=small, legend=False, **look)
        small.set(xlabel="projection on r", ylabel="requests", title=f"layer {at}{', of r' if at == layer else ''}")
    keys = ["seed", "model", "kind", "layer"]
    means = table.groupby(keys)["projection"].agg(["mean", "std", "count"]).reset_index().assign(panel="means")
    return figure, pd.concat([means, raw[[*keys, "projection"]].assign(panel="histograms")], ignore_index=True)


def spaced(last: int, own: int, count: int = HISTOGRAMS) -> list[int]:
    """Layers from the first at which prompts differ (1) to the last, evenly, the nearest replaced by `own`."""
    layers = np.unique(np.linspace(min(1, last), last, count).round().astype(int))
    layers[np.abs(layers - own).argmin()] = own
    return sorted(set(layers.tolist()))


def surgical(data: Data) -> Picture:
    """Change of the loss, distance to the model before fine-tuning, and where the weights changed."""
    table = joined(data.studies, "surgical")
    mean = table.groupby(["seed", "quantity", "condition"], sort=False)["value"].mean().reset_index()
    base = mean[mean["condition"] == "tuned"].set_index(["seed", "quantity"])["value"]
    keys = pd.MultiIndex.from_frame(mean[["seed", "quantity"]])
    mean["change"] = mean["value"] - base.reindex(keys).to_numpy()
    figure, grid = plt.subplots(2, 2, figsize=(PAGE_WIDTH, 4.6))
    axes = grid.flatten()
    shown = {
        "before": "before tuning",
        "ablated": "r ablated",
        "subtracted": "r subtracted",
        "component ablated": "component",
        "permuted ablated": "permuted",
    }
    loss = mean[mean["quantity"].str.startswith("loss") & mean["condition"].isin(list(shown))]
    loss = loss.assign(condition=loss["condition"].map(shown), corpus=loss["quantity"].str.removeprefix("loss "))
    dots(
        loss,
        x="condition",
        y="change",
        hue="corpus",
        order=list(shown.values()),
        dodge=True,
        ax=axes[0],
        palette=PALETTE[:2],
        size=4,
    )
    axes[0].set_yscale("symlog", linthresh=0.02)
    axes[0].axhline(0, color="0.8", linewidth=0.8)
    axes[0].set(xlabel="", ylabel="change of loss (nats per token)", ylim=(None, 2 * loss["change"].max()))
    axes[0].legend(title="", frameon=False)
    names = {
        "tuned": "tuned",
        "ablated": "r ablated",
        "random ablated": "random",
        "permuted ablated": "permuted",
        "subtracted": "r subtracted",
    }
    way = mean[(mean["quantity"] == "kl to before") & mean["condition"].isin(list(names))]
    way = way.assign(condition=way["condition"].map(names))
    sns.barplot(way, x="condition", y="value", order=list(names.values()), color=PALETTE[0], errorbar=None, ax=axes[1])
    dots(way, x="condition", y="value", order=list(names.values()), color="black", size=3, ax=axes[1])
    axes[1].set(xlabel="", ylabel="KL to before tuning (nats)")
    weights = joined(data.studies, "weights")
    for column, colour, label in (("share_r", PALETTE[1], "r"), ("share_random", GREY, "random")):
        by_layer = weights.groupby("layer")[column].mean()
        axes[2].plot(by_layer.index, by_layer, color=colour, label=label)
    axes[2].set(xlabel="layer", ylabel="share of weight change along")
    axes[2].legend(title="", frameon=False)
    spectra = spectrum(weights)
    for number, line in spectra.groupby("seed"):
        (drawn,) = axes[3].plot(line["rank"], line["share"], "o-", markersize=2.5, linewidth=1)
        along = float(line["share_r"].iloc[0])
        axes[3].axhline(
            along, color=drawn.get_color(), linewidth=0.8, linestyle="--", label="along r" if number == 0 else None
        )
    axes[3].set_yscale("log")
    axes[3].set(xlabel="singular value", ylabel="share of squared change")
    axes[3].legend(title="", frameon=False)
    for ax in axes[:2]:
        ax.tick_params(axis="x", rotation=30)
    panels = {"surgical": mean, "weights": weights, "spectrum": spectra}
    return figure, pd.concat([table.assign(panel=name) for name, table in panels.items()])


def spectrum(weights: pd.DataFrame) -> pd.DataFrame:
    """Shares of the largest squared singular values and the share along r, one row per seed and singular value: means
    over matrices, each weighted by the square of its change."""
    ranks = [name for name in weights if str(name).startswith("squared_")]
    rows = []
    for seed, part in weights.groupby("seed"):
        size = part["norm"] ** 2
        along = float(np.average(part["share_r"], weights=size))
        for rank, name in enumerate(ranks, 1):
            share = float(np.average(part[name], weights=size))
            rows.append({"seed": seed, "rank": rank, "share": share, "share_r": along})
    return pd.DataFrame(rows)
