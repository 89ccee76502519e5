"""Figures of the tuned models and of the choice of the direction. Each function returns a figure and its data."""

import itertools
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from common.core.figures import DIVERGING, PAGE_WIDTH, PALETTE
from replications.refusal_direction.filters import DEPTH, MAXIMUM_KL, MINIMUM_INDUCE, survives
from replications.refusal_direction.guard_metrics import Guarded
from replications.refusal_direction.tables import Arm

GREY = "0.6"
Picture = tuple[Figure, pd.DataFrame]


class Data(NamedTuple):
    """What `study` left of every seed and of the sham model, the paper's table, and what `guardrail` left."""

    arms: list[Arm]
    sham: Arm
    published: pd.DataFrame
    guards: list[Guarded]


def joined(arms: list[Arm], table: str) -> pd.DataFrame:
    """One table of all seeds, with a column `seed` that counts them."""
    return pd.concat([arm.tables[table].assign(seed=number) for number, arm in enumerate(arms)], ignore_index=True)


def dots(table: pd.DataFrame, **look: Any) -> None:
    """A strip plot. Its jitter comes from numpy's global state, which is set here: same data, same bytes."""
    np.random.seed(0)  # noqa: NPY002
    sns.stripplot(table, **look)


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
        dots(
            table, x="kind", y="refused", hue="condition", ax=ax, dodge=True, palette=["0.2"] * 2, size=3, legend=False
        )
        ax.set(xlabel="", ylabel="share refused", ylim=(0, 1.05), title=model)
        ax.legend(title="", frameon=False, loc="upper right")
    names = {"pooled": "all tokens", "opening": "one token", "trained": "shown", "held out": "unseen text"}
    names["permuted"] = "permuted"
    table = scores.assign(kind=scores["kind"].map(names))
    dots(table, x="kind", y="auroc", ax=axes[2], order=list(names.values()), color=PALETTE[0], size=3.5)
    axes[2].axhline(0.5, color=GREY, linewidth=0.8, linestyle="--")
    axes[2].set(xlabel="", ylabel="AUROC", title="score", ylim=(0, 1.02))
    plt.setp(axes[2].get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
    frame = pd.concat([refused.assign(panel="refused"), scores.assign(panel="auroc")])
    return figure, frame


def scores(data: Data) -> Picture:
    """The candidates of the refusing models."""
    return candidates(data.arms)


def candidates(arms: list[Arm]) -> Picture:
    """Bypass, induce and KL of every candidate by layer, one row per seed; the token of the choice stands out."""
    table = joined(arms, "scores").query("stage == 'grid'")
    kinds = {"bypass": "bypass (nats)", "induce": "induce (nats)", "kl": "KL (nats)"}
    figure, axes = plt.subplots(
        len(arms), 3, figsize=(PAGE_WIDTH, 1.5 * len(arms) + 0.5), sharex=True, sharey="col", squeeze=False
    )
    marks: dict[str, Artist] = {}
    for number, arm in enumerate(arms):
        part = table[(table["seed"] == number) & (table["labels"] == "true")]
        null = table[(table["seed"] == number) & (table["labels"] == "permuted")]
        n_post = int(part["position"].max()) + 1
        own = arm.numbers["position"] + n_post
        kept, chosen = part[survives(part)], part[(part["position"] == own) & (part["layer"] == arm.numbers["layer"])]
        for ax, (name, label) in zip(axes[number], kinds.items(), strict=True):
            for position in range(n_post):
                line = part[part["position"] == position]
                colour, width, above = (PALETTE[0], 1.3, 2.5) if position == own else ("0.75", 0.7, 1.0)
                (drawn,) = ax.plot(line["layer"], line[name], color=colour, linewidth=width, zorder=above)
                marks["token of the choice" if position == own else "other template tokens"] = drawn
            marks["choice"] = ax.scatter(chosen["layer"], chosen[name], s=45, marker="*", color="black", zorder=4)
            if len(kept):
                ring = {"s": 14, "facecolor": "none", "edgecolor": "black", "linewidth": 0.7, "zorder": 3}
                marks["passes the filters"] = ax.scatter(kept["layer"], kept[name], **ring)
            if name == "bypass":
                look = {"s": 4, "color": PALETTE[1], "alpha": 0.6, "linewidth": 0, "zorder": 2}
                marks["permuted labels, any token"] = ax.scatter(null["layer"], null["bypass"], **look)
            elif name == "kl":
                ax.set_yscale("log")
            limit = MAXIMUM_KL if name == "kl" else MINIMUM_INDUCE
            ax.axhline(limit, color="0.3", linewidth=0.8, linestyle="--", zorder=1.5)
            ax.set(ylabel=label, xlabel="layer" if number == len(arms) - 1 else "")
        token = f"{arm.numbers['position']}".replace("-", "\N{MINUS SIGN}")
        axes[number, 0].set_title(f"seed {number + 1} of {len(arms)}: token {token} chosen", loc="left")
    figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=5, frameon=False)
    return figure, table


def published(data: Data) -> Picture:
    """Scores of the chosen direction: the paper's models and ours, with depth."""
    rows = []
    for number, arm in enumerate(data.arms):
        row = arm.tables["scores"].query("stage == 'final' and labels == 'true'").iloc[0]
        positions, layers = arm.vectors["differences"].shape[:2]
        place = {"model": f"ours, seed {number + 1}", "position": int(row["position"]) - positions, "layers": layers}
        rows.append({**place, **row[["layer", "bypass", "induce", "kl"]], "source": "this run"})
    table = pd.concat([data.published, pd.DataFrame(rows)], ignore_index=True)
    table["depth"] = table["layer"].astype(float) / table["layers"]
    kinds = {
        "depth": ("depth (layer / layers)", DEPTH),
        "bypass": ("bypass (nats)", 0.0),
        "induce": ("induce (nats)", MINIMUM_INDUCE),
        "kl": ("KL (nats)", MAXIMUM_KL),
    }
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
            sizes = np.linalg.norm(differences, axis=-1) * np.linalg.norm(r)
            found = differences @ r / np.maximum(sizes, 1e-12)  # template tokens before layer 0 do not differ
            for (position, layer), value in np.ndenumerate(found):
                rows.append((number, whose, position - len(found), layer, float(value)))
    table = pd.DataFrame(rows, columns=["seed", "model", "token", "layer", "cosine"])
    figure, axes = plt.subplots(
        len(data.arms), 2, figsize=(PAGE_WIDTH, 1.15 * len(data.arms) + 0.4), sharex=True, sharey=True, squeeze=False
    )
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
