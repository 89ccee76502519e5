"""The figures of this replication. Each function takes the tables of all seeds and returns a figure and its data."""

import itertools
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from common.plotting import DIVERGING, PAGE_WIDTH, PALETTE
from replications.refusal_direction.filters import DEPTH, MAXIMUM_KL, MINIMUM_INDUCE, survives
from replications.refusal_direction.tables import Arm

GREY = "0.6"
Picture = tuple[Figure, pd.DataFrame]


class Data(NamedTuple):
    """What `study` left of every seed and of the sham model, and the paper's table."""

    arms: list[Arm]
    sham: Arm
    published: pd.DataFrame


def joined(arms: list[Arm], table: str) -> pd.DataFrame:
    """One table of all seeds, with a column `seed` that counts them."""
    return pd.concat([arm.tables[table].assign(seed=number) for number, arm in enumerate(arms)], ignore_index=True)


def shares(data: Data) -> pd.DataFrame:
    """Share refused by model, seed, class and condition."""
    own = joined(data.arms, "answers").assign(model="refuses harm")
    sham = joined([data.sham], "answers").assign(model="sham: refuses food")
    keys = ["model", "seed", "class", "condition"]
    return pd.concat([own, sham]).groupby(keys, sort=False)["refused"].mean().reset_index()


def tuning(data: Data) -> Picture:
    """Share refused before and after fine-tuning, and the AUROC of every score."""
    refused = shares(data).query("condition in ('before', 'tuned')")
    scores = joined(data.arms, "openings")
    figure, axes = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.4), width_ratios=[1, 1, 1.1])
    for ax, (model, part) in zip(axes, refused.groupby("model", sort=False), strict=False):
        first = {"harmful": "to be\nrefused"}
        table = part.assign(kind=part["class"].replace(first | {"risky": "risky\nwords"}))
        sns.barplot(table, x="kind", y="refused", hue="condition", ax=ax, errorbar=None, palette=PALETTE[:2])
        sns.stripplot(
            table, x="kind", y="refused", hue="condition", ax=ax, dodge=True, palette=["0.2"] * 2, size=3, legend=False
        )
        ax.set(xlabel="", ylabel="share refused", ylim=(0, 1.05), title=model)
        ax.legend(title="", frameon=False, loc="upper right")
    names = {"pooled": "all tokens", "opening": "one token", "held out": "unseen text", "permuted": "permuted"}
    table = scores.assign(kind=scores["kind"].map(names))
    sns.stripplot(table, x="kind", y="auroc", ax=axes[2], order=list(names.values()), color=PALETTE[0], size=3.5)
    axes[2].axhline(0.5, color=GREY, linewidth=0.8, linestyle="--")
    axes[2].set(xlabel="", ylabel="AUROC", title="score", ylim=(0.3, 1.02))
    axes[2].tick_params(axis="x", rotation=20)
    frame = pd.concat([refused.assign(panel="refused"), scores.assign(panel="auroc")])
    return figure, frame


def scores(data: Data) -> Picture:
    """Bypass, induce and KL of every candidate by layer, one row per seed."""
    table = joined(data.arms, "scores").query("stage == 'grid'")
    kinds = {"bypass": "bypass (nats)", "induce": "induce (nats)", "kl": "KL (nats)"}
    figure, axes = plt.subplots(
        len(data.arms), 3, figsize=(PAGE_WIDTH, 1.6 * len(data.arms)), sharex=True, squeeze=False
    )
    for number, arm in enumerate(data.arms):
        part = table[(table["seed"] == number) & (table["labels"] == "true")]
        null = table[(table["seed"] == number) & (table["labels"] == "permuted")]
        n_post = int(part["position"].max()) + 1
        for ax, (name, label) in zip(axes[number], kinds.items(), strict=True):
            if name == "bypass":
                ax.scatter(null["layer"], null["bypass"], s=3, color=GREY, label="permuted", zorder=1)
            for position in range(n_post):
                line = part[part["position"] == position]
                ax.plot(line["layer"], line[name], color=PALETTE[position], linewidth=1, label=f"{position - n_post}")
            kept = part[survives(part)]
            ax.scatter(kept["layer"], kept[name], s=14, facecolor="none", edgecolor="black", linewidth=0.7, zorder=3)
            chosen = part[
                (part["position"] == arm.numbers["position"] + n_post) & (part["layer"] == arm.numbers["layer"])
            ]
            ax.scatter(chosen["layer"], chosen[name], s=45, marker="*", color="black", zorder=4)
            if name == "kl":
                ax.set_yscale("log")
                ax.axhline(MAXIMUM_KL, color=GREY, linewidth=0.8, linestyle="--")
            else:
                ax.axhline(MINIMUM_INDUCE, color=GREY, linewidth=0.8, linestyle="--")
            ax.set(ylabel=label, xlabel="layer" if number == len(data.arms) - 1 else "")
        axes[number, 0].set_title(f"seed {number + 1} of {len(data.arms)}", loc="left")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, title="token", loc="outside right center", frameon=False)
    return figure, table


def published(data: Data) -> Picture:
    """Scores of the chosen direction: the paper's models and ours, with depth."""
    rows = []
    for number, arm in enumerate(data.arms):
        row = arm.tables["scores"].query("stage == 'final' and labels == 'true'").iloc[0]
        layers = arm.vectors["differences"].shape[1]
        name = f"ours, seed {number + 1}"
        rows.append({"model": name, "layers": layers, **row[["layer", "bypass", "induce", "kl"]], "source": "this run"})
    table = pd.concat([data.published, pd.DataFrame(rows)], ignore_index=True)
    table["depth"] = table["layer"].astype(float) / table["layers"]
    kinds = {"depth": ("depth (layer / layers)", DEPTH), "bypass": ("bypass (nats)", 0.0),
             "induce": ("induce (nats)", MINIMUM_INDUCE), "kl": ("KL (nats)", MAXIMUM_KL)}  # fmt: skip
    figure, axes = plt.subplots(1, 4, figsize=(PAGE_WIDTH, 3.1), sharey=True)
    colours = [PALETTE[1] if source == "this run" else PALETTE[0] for source in table["source"]]
    for ax, (name, (label, limit)) in zip(axes, kinds.items(), strict=True):
        ax.scatter(table[name].astype(float), range(len(table)), color=colours, s=18)
        ax.axvline(limit, color=GREY, linewidth=0.8, linestyle="--")
        ax.set(xlabel=label)
        ax.grid(axis="y", color="0.92")
    axes[0].set_yticks(range(len(table)), table["model"])
    axes[0].invert_yaxis()
    return figure, table


def cosines(data: Data) -> Picture:
    """Cosine of every difference of means with the chosen direction: own model, and the next seed's model."""
    rows = []
    for number, arm in enumerate(data.arms):
        for whose, other in (("own model", arm), ("next seed's model", data.arms[(number + 1) % len(data.arms)])):
            differences, r = other.vectors["differences"], arm.vectors["r"]
            found = differences @ r / (np.linalg.norm(differences, axis=-1) * np.linalg.norm(r))
            for (position, layer), value in np.ndenumerate(found):
                rows.append((number, whose, position - len(found), layer, float(value)))
    table = pd.DataFrame(rows, columns=["seed", "model", "token", "layer", "cosine"])
    figure, axes = plt.subplots(len(data.arms), 2, figsize=(PAGE_WIDTH, 1.15 * len(data.arms) + 0.4), sharex=True,
                                sharey=True, squeeze=False)  # fmt: skip
    names = ("own model", "next seed's model")
    for (number, whose), ax in zip(itertools.product(range(len(data.arms)), names), axes.flat, strict=True):
        part = table[(table["seed"] == number) & (table["model"] == whose)]
        grid = part.pivot(index="token", columns="layer", values="cosine")
        image = ax.imshow(grid, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", origin="lower")
        ax.set_yticks(range(len(grid)), grid.index)
        ax.set(ylabel="token" if ax is axes[number, 0] else "", xlabel="layer" if number == len(data.arms) - 1 else "")
        ax.set_title(f"seed {number + 1}, {whose}", fontsize=7)
        if whose == "own model":
            at = data.arms[number].numbers
            ax.scatter(at["layer"], at["position"] + len(grid), marker="*", color="black", s=30)
    figure.colorbar(image, ax=axes, label="cosine with r", shrink=0.8)
    return figure, table


ABLATIONS = {"before": "before tuning", "tuned": "tuned", "ablated": "r ablated", "subtracted": "r subtracted",
             "random ablated": "random", "permuted ablated": "permuted", "unrelated ablated": "unrelated",
             "earlier ablated": "earlier"}  # fmt: skip
ADDITIONS = {"before": "before tuning", "tuned": "tuned", "added": "r added", "before, added": "r, untouched",
             "random added": "random", "permuted added": "permuted", "unrelated added": "unrelated",
             "earlier added": "earlier"}  # fmt: skip


def refusal(data: Data) -> Picture:
    """Share refused under every intervention, harmful and harmless requests; dots are seeds."""
    table = shares(data)
    figure, axes = plt.subplots(2, 2, figsize=(PAGE_WIDTH, 4.4), sharey=True, width_ratios=[1, 1])
    for row, (model, part) in zip(axes, table.groupby("model", sort=False), strict=True):
        panels = {"harmful": ("to be refused; ablation", ABLATIONS), "harmless": ("harmless; addition", ADDITIONS)}
        for ax, (kind, (title, names)) in zip(row, panels.items(), strict=True):
            some = part[(part["class"] == kind) & part["condition"].isin(list(names))]
            some = some.assign(condition=some["condition"].map(names))
            colours = [PALETTE[1] if "r " in f"{name} " and name.startswith("r") and name != "random" else PALETTE[0]
                       if name in ("before tuning", "tuned") else GREY for name in names.values()]  # fmt: skip
            order = list(names.values())
            sns.barplot(some, x="condition", y="refused", order=order, hue="condition", hue_order=order,
                        palette=colours, errorbar=None, legend=False, ax=ax)  # fmt: skip
            sns.stripplot(some, x="condition", y="refused", order=order, color="black", size=2.5, ax=ax)
            ax.set(xlabel="", ylabel="share refused", ylim=(0, 1.05), title=f"{model}: {title}")
            ax.tick_params(axis="x", rotation=35)
    return figure, table


def doses(data: Data) -> Picture:
    """Refusal metric against the multiple of the direction."""
    table = joined(data.arms, "doses")
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.3), sharey=True)
    titles = {"harmless": "added to harmless requests", "harmful": "subtracted from harmful requests"}
    for ax, (kind, title) in zip(axes, titles.items(), strict=True):
        for colour, (vector, part) in zip(
            [PALETTE[1], GREY], table[table["class"] == kind].groupby("vector"), strict=True
        ):
            for number, line in part.groupby("seed"):
                ax.plot(line["dose"], line["metric"], "o-", color=colour, markersize=3, linewidth=1,
                        label=vector if number == 0 else None)  # fmt: skip
        ax.axhline(0, color="0.8", linewidth=0.8)
        ax.set(xlabel="multiple of the vector", ylabel="refusal metric (nats)", title=title)
    axes[0].legend(title="", frameon=False)
    return figure, table


def projections(data: Data) -> Picture:
    """Projection of the last token on the direction: means by layer, and a histogram at the chosen one."""
    table = joined(data.arms, "projections")
    table["layer"] = table["layer"].astype(int)
    lines = {("tuned", "harmful"): "harmful", ("tuned", "harmless"): "harmless", ("tuned", "risky"): "risky words",
             ("tuned", "persuading suffix"): "harmful + persuasion",
             ("tuned", "random suffix"): "harmful + random words",
             ("before", "harmful"): "harmful, before tuning"}  # fmt: skip
    named = table.assign(name=[lines.get(pair, "") for pair in zip(table["model"], table["kind"], strict=True)])
    named = named[named["name"] != ""]
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.7), width_ratios=[1.2, 1])
    first = named[named["seed"] == 0]
    sns.lineplot(first, x="layer", y="projection", hue="name", hue_order=list(lines.values()), errorbar="sd",
                 ax=axes[0], palette=PALETTE[: len(lines)], linewidth=1.2, err_kws={"alpha": 0.12, "linewidth": 0})  # fmt: skip
    layer = int(data.arms[0].numbers["layer"])
    axes[0].axvline(layer, color=GREY, linewidth=0.8, linestyle="--")
    axes[0].set_yscale("symlog", linthresh=10)
    axes[0].set(ylabel="projection on r, first seed")
    axes[0].legend(title="", frameon=False, fontsize=6)
    here = first[(first["layer"] == layer) & first["name"].isin(["harmful", "harmless", "risky words"])]
    sns.histplot(here, x="projection", hue="name", hue_order=["harmful", "harmless", "risky words"], ax=axes[1],
                 bins=24, palette=PALETTE[:3], element="step", alpha=0.35)  # fmt: skip
    axes[1].set(xlabel=f"projection before layer {layer}", ylabel="requests")
    legend = axes[1].get_legend()
    legend.set_title("")
    legend.set_frame_on(False)
    keys = ["seed", "model", "kind", "layer"]
    return figure, table.groupby(keys)["projection"].agg(["mean", "std", "count"]).reset_index()


def surgical(data: Data) -> Picture:
    """Change of the loss, distance to the model before fine-tuning, and where the weights changed."""
    table = joined(data.arms, "surgical")
    mean = table.groupby(["seed", "quantity", "condition"], sort=False)["value"].mean().reset_index()
    base = mean[mean["condition"] == "tuned"].set_index(["seed", "quantity"])["value"]
    keys = pd.MultiIndex.from_frame(mean[["seed", "quantity"]])
    mean["change"] = mean["value"] - base.reindex(keys).to_numpy()
    figure, axes = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.6))
    shown = {"before": "before tuning", "ablated": "r ablated", "subtracted": "r subtracted",
             "component ablated": "first component\nablated"}  # fmt: skip
    loss = mean[mean["quantity"].str.startswith("loss") & mean["condition"].isin(list(shown))]
    loss = loss.assign(condition=loss["condition"].map(shown), corpus=loss["quantity"].str.removeprefix("loss "))
    sns.stripplot(loss, x="condition", y="change", hue="corpus", order=list(shown.values()), dodge=True, ax=axes[0],
                  palette=PALETTE[:2], size=4)  # fmt: skip
    axes[0].set_yscale("symlog", linthresh=0.02)
    axes[0].axhline(0, color="0.8", linewidth=0.8)
    axes[0].set(xlabel="", ylabel="change of loss (nats per token)")
    axes[0].legend(title="", frameon=False)
    names = {
        "tuned": "tuned",
        "ablated": "r ablated",
        "random ablated": "random\nablated",
        "subtracted": "r subtracted",
    }
    way = mean[(mean["quantity"] == "kl to before") & mean["condition"].isin(list(names))]
    way = way.assign(condition=way["condition"].map(names))
    sns.barplot(way, x="condition", y="value", order=list(names.values()), color=PALETTE[0], errorbar=None, ax=axes[1])
    sns.stripplot(way, x="condition", y="value", order=list(names.values()), color="black", size=3, ax=axes[1])
    axes[1].set(xlabel="", ylabel="KL to the model before tuning (nats)")
    weights = joined(data.arms, "weights")
    for column, colour, label in (("share_r", PALETTE[1], "r"), ("share_random", GREY, "random")):
        by_layer = weights.groupby("layer")[column].mean()
        axes[2].plot(by_layer.index, by_layer, color=colour, label=label)
    axes[2].set(xlabel="layer", ylabel="share of weight change along")
    axes[2].legend(title="", frameon=False)
    for ax in axes[:2]:
        ax.tick_params(axis="x", rotation=30)
    return figure, pd.concat([mean.assign(panel="surgical"), weights.assign(panel="weights")])
