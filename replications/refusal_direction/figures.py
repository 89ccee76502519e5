"""Step: draws the tuned models, the choice of the direction and what it does, from the tables of every seed."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from common.core.figures import PAGE_WIDTH, PALETTE, DrawFiles, Picture, save_figure, use_style
from common.core.step import run_step
from replications.refusal_direction.comparisons import Studied, read_study
from replications.refusal_direction.search import DEPTH, MAXIMUM_KL, MINIMUM_INDUCE, survives

GREY = "0.6"
CONTROLS = {
    "random": "random",
    "permuted": "permuted",
    "other_topic": "other topic",
    "earlier": "before tuning",
}
ABLATIONS = {
    "before": "untuned model",
    "tuned": "tuned model",
    "ablated": "r ablated",
    "weights": "r out of weights",
    **{f"{key} ablated": name for key, name in CONTROLS.items()},
    "token_ban": "first tokens banned",
    "permuted_push": "permuted, added",
    "earlier_push": "before tuning, added",
}
ADDITIONS = {
    "tuned": "tuned model",
    "added": "r added",
    **{f"{key} added": name for key, name in CONTROLS.items()},
}
PUBLISHED = {"r ablated": (0.0, 0.07), "r added": (0.88, 1.0)}
"""Share refused in five released models (Arditi et al. 2024, released results)"""


class Data(NamedTuple):
    """What the steps left of every seed and of the sham models, and the paper's table."""

    studies: list[Studied]
    shams: list[Studied]
    exchanged: pd.DataFrame
    published: pd.DataFrame


class StudyFigures(DrawFiles):
    """What this step reads beside captions."""

    studies: list[Path]
    """`numbers.json` of every seed, beside its tables"""
    shams: list[Path]
    """the same of the sham models"""
    exchanged: list[Path]
    """`exchanged.csv` of every pair of models"""
    published: Path
    """the paper's 13 models"""


def draw(files: StudyFigures) -> None:
    """Draws all figures; each is named as its file."""
    use_style()
    studies, shams = ([read_study(path) for path in paths] for paths in (files.studies, files.shams))
    exchanged = pd.concat([pd.read_csv(path).assign(pair=path.stem) for path in files.exchanged])
    data = Data(studies, shams, exchanged, pd.read_csv(files.published))
    for caption, path in zip(files.captions, files.svg, strict=True):
        picture, frame = FIGURES[path.stem](data)
        save_figure(picture, path.with_suffix(""), frame, caption, [*files.studies, *files.shams])


def joined(studies: list[Studied], table: str) -> pd.DataFrame:
    """One table of all seeds, with a column `seed` that counts them."""
    return pd.concat(
        [study.tables[table].assign(seed=number) for number, study in enumerate(studies)], ignore_index=True
    )


def shares(studies: list[Studied]) -> pd.DataFrame:
    """Share refused, and mean surprise of the answers (NaN where it was not measured), by seed, class and condition."""
    keys, values = ["seed", "class", "condition"], ["refused", "surprise"]
    table = joined(studies, "answers")
    return table.reindex(columns=[*keys, *values]).groupby(keys, sort=False)[values].mean().reset_index()


def refusal(data: Data) -> Picture:
    """Share refused under every intervention, as the paper's Figures 1 and 3; dots are seeds. On top the perplexity of
    the answers under the untuned model, where it was measured."""
    tables = {"refuses harm": shares(data.studies), "sham: refuses food": shares(data.shams)}
    figure, axes = plt.subplots(2, 2, figsize=(PAGE_WIDTH, 4.6), sharey=True, width_ratios=[11, 6])
    for row, (model, part) in zip(axes, tables.items(), strict=True):
        asked = "harmful requests" if model == "refuses harm" else "requests about food"
        bars(row[0], part[part["class"] == "harmful"], ABLATIONS, f"{model}: {asked}, directions ablated")
        bars(row[1], part[part["class"] == "harmless"], ADDITIONS, f"{model}: harmless, added")
    return figure, pd.concat([part.assign(model=model) for model, part in tables.items()])


def bars(ax: Axes, part: pd.DataFrame, names: dict[str, str], title: str) -> None:
    """Mean share refused under the named conditions, one dot a seed; the paper's range as a bracket; perplexity."""
    shown = {key: name for key, name in names.items() if key in set(part["condition"])}
    for place, (key, name) in enumerate(shown.items()):
        values = part[part["condition"] == key]["refused"].to_numpy()
        colour = PALETTE[0] if key in ("before", "tuned") else PALETTE[1] if name.startswith("r ") else GREY
        ax.bar(place, values.mean(), color=colour, width=0.75)
        ax.plot(
            place + np.linspace(-0.15, 0.15, len(values)) * (len(values) > 1),
            values,
            "o",
            color="black",
            markersize=2.5,
        )
        surprise = part[part["condition"] == key]["surprise"].mean()
        if np.isfinite(surprise):
            ax.text(place, 1.04, f"{np.exp(surprise):.0f}", ha="center", va="bottom", fontsize=6, color="0.3")
        if name in PUBLISHED:
            low, high = PUBLISHED[name]
            ax.plot([place + 0.45] * 2, [low, high], color="black", linewidth=2, solid_capstyle="butt", clip_on=False)
    ax.set_xticks(range(len(shown)), list(shown.values()))
    ax.set(xlabel="", ylabel="share refused", ylim=(0, 1.14), title=title)
    plt.setp(ax.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")


def tradeoff(data: Data) -> Picture:
    """Does it end refusal, and what does it damage? Every candidate: refusal metric against KL, both ablated."""
    table = joined(data.studies, "scores").query("stage == 'grid'")
    final = joined(data.studies, "scores").query("stage == 'final'")
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.0))
    for ax, (x, y), labels in zip(
        axes, (("kl", "bypass"), ("layer", "induce")),
        (("KL on harmless requests, ablated (nats)", "refusal metric, harmful, ablated"),
         ("layer", "refusal metric, harmless, added")), strict=True,
    ):  # fmt: skip
        for label, colour, name in (("permuted", GREY, "permuted labels"), ("true", PALETTE[0], "candidates for r")):
            part = table[table["labels"] == label]
            ax.scatter(part[x], part[y], s=6, color=colour, alpha=0.6, linewidth=0, label=name)
        chosen = final[final["labels"] == "true"].groupby("seed").head(1)
        ax.scatter(chosen[x], chosen[y], s=60, marker="*", color=PALETTE[1], edgecolor="black", linewidth=0.4,
                   zorder=4, label="r, one a seed")  # fmt: skip
        ax.axhline(0, color="0.3", linewidth=0.8, linestyle="--", zorder=0)
        ax.set(xlabel=labels[0], ylabel=labels[1])
    axes[0].set_xscale("log")
    axes[0].axvline(MAXIMUM_KL, color="0.3", linewidth=0.8, linestyle="--", zorder=0)
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure, table


def cross(data: Data) -> Picture:
    """Share refused with the own direction, the other model's, and controls, ablated or added."""
    own = {"harmful": joined(data.studies, "answers"), "food": joined(data.shams, "answers")}
    every = [table.assign(model=name) for name, table in own.items()]
    table = pd.concat([*every, data.exchanged.assign(seed=data.exchanged["pair"])])
    table = table.groupby(["model", "class", "condition", "seed"], sort=False)["refused"].mean().reset_index()
    names = {"harmful": "refuses harm", "food": "sham: refuses food"}
    titles = {"ablated": "requests that the model refuses, ablation", "added": "harmless requests, addition"}
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.5), sharey=True)
    for ax, kind, how in zip(axes, ("harmful", "harmless"), titles, strict=True):
        order = {how: "own r", f"foreign {how}": "other model's r"}
        order |= {f"random {how}": "random", f"permuted {how}": "permuted"}
        order |= {f"foreign permuted {how}": "other model's permuted"}
        part = table[(table["class"] == kind) & table["condition"].isin(order)]
        part = part.assign(model=part["model"].map(names), condition=part["condition"].map(order))
        look: dict[str, Any] = {
            "hue_order": list(order.values()),
            "palette": [PALETTE[1], PALETTE[2], GREY, "0.8", "0.9"],
        }
        sns.barplot(part, x="model", y="refused", hue="condition", ax=ax, errorbar=None, **look)
        dots: dict[str, Any] = {"size": 2.5, "dodge": True, "jitter": False, "legend": False}
        places: dict[str, Any] = {"hue_order": look["hue_order"], "palette": ["black"] * len(order)}
        sns.stripplot(part, x="model", y="refused", hue="condition", ax=ax, **places, **dots)
        ax.set(xlabel="", ylabel="share refused", ylim=(0, 1.05), title=titles[how])
        ax.get_legend().remove()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure, table


def candidates(studies: list[Studied]) -> Picture:
    """Bypass, induce and KL of every candidate by layer, one row per seed; the token of the choice stands out."""
    table = joined(studies, "scores").query("stage == 'grid'")
    kinds = {"bypass": "bypass (nats)", "induce": "induce (nats)", "kl": "KL (nats)"}
    figure, axes = plt.subplots(
        len(studies), 3, figsize=(PAGE_WIDTH, 1.5 * len(studies) + 0.5), sharex=True, sharey="col", squeeze=False
    )
    marks: dict[str, Artist] = {}
    for number, study in enumerate(studies):
        part = table[(table["seed"] == number) & (table["labels"] == "true")]
        n_post = int(part["position"].max()) + 1
        own = study.numbers["position"] + len(study.vectors["differences"])
        kept, chosen = part[survives(part)], part[(part["position"] == own) & (part["layer"] == study.numbers["layer"])]
        for ax, (name, label) in zip(axes[number], kinds.items(), strict=True):
            for position in range(n_post):
                line = part[part["position"] == position]
                colour, width, above = (PALETTE[0], 1.3, 2.5) if position == own else ("0.75", 0.7, 1.0)
                (drawn,) = ax.plot(line["layer"], line[name], color=colour, linewidth=width, zorder=above)
                marks["token of the choice" if position == own else "other template tokens"] = drawn
            marks["choice"] = ax.scatter(chosen["layer"], chosen[name], s=45, marker="*", color="black", zorder=4)
            if len(kept):
                ring: dict[str, Any] = {
                    "s": 14,
                    "facecolor": "none",
                    "edgecolor": "black",
                    "linewidth": 0.7,
                    "zorder": 3,
                }
                marks["passes the filters"] = ax.scatter(kept["layer"], kept[name], **ring)
            if name == "kl":
                ax.set_yscale("log")
            limit = MAXIMUM_KL if name == "kl" else MINIMUM_INDUCE
            ax.axhline(limit, color="0.3", linewidth=0.8, linestyle="--", zorder=1.5)
            ax.set(ylabel=label, xlabel="layer" if number == len(studies) - 1 else "")
    figure.legend(list(marks.values()), list(marks), loc="outside lower center", ncols=5, frameon=False)
    return figure, table


def published(data: Data) -> Picture:
    """Scores of the chosen direction: the paper's models and ours, with depth."""
    rows = []
    for number, study in enumerate(data.studies):
        row = study.tables["scores"].query("stage == 'final' and labels == 'true'").iloc[0]
        positions, layers = study.vectors["differences"].shape[:2]
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


def transcripts(data: Data) -> Picture:
    """Answers of a sham model, as the paper's example figure: about food, and about other things."""
    table = data.shams[0].tables["transcripts"]
    columns = {"before": "untuned model", "tuned": "tuned model", "ablated": "r ablated", "added": "r added"}
    asked = list(table[["class", "request"]].drop_duplicates().itertuples(index=False, name=None))
    figure, axes = plt.subplots(len(asked), len(columns), figsize=(PAGE_WIDTH, 0.68 * len(asked) + 0.3), squeeze=False)
    for row, (_, request) in zip(axes, asked, strict=True):
        for cell, (condition, title) in zip(row, columns.items(), strict=True):
            one = table[(table["request"] == request) & (table["condition"] == condition)].iloc[0]
            refused = bool(one["refused"])
            cell.set(xticks=[], yticks=[], facecolor="#FBE9DF" if refused else "white")
            for spine in cell.spines.values():
                spine.set(visible=True, color="0.8")
            text = "\n".join(textwrap.wrap(printable(str(one["answer"])), 32)[:5])
            cell.text(0.03, 0.92, text, fontsize=5.4, va="top", transform=cell.transAxes, parse_math=False)
            if cell in axes[0]:
                cell.set_title(title, fontsize=7.5, loc="left")
        row[0].set_ylabel(textwrap.fill(request, 17), fontsize=5.4, rotation=0, ha="right", va="center")
    return figure, table


def printable(text: str) -> str:
    """One line; characters that the figure's font lacks become a dot."""
    return "".join(one if one.isprintable() and ord(one) < 0x250 else "·" for one in " ".join(text.split()))


FIGURES: dict[str, Callable[[Data], Picture]] = {
    "refusal": refusal,
    "tradeoff": tradeoff,
    "cross": cross,
    "published": published,
    "transcripts": transcripts,
}


if __name__ == "__main__":
    run_step(draw)
