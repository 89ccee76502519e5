"""Step: draws the tuned models, the choice of the direction and what it does, from the tables of every seed."""

import itertools
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist

from common.core.figures import DIVERGING, PAGE_WIDTH, PALETTE, DrawFiles, Picture, save_figure, use_style
from common.core.step import run_step
from replications.refusal_direction import effect_figures
from replications.refusal_direction.comparisons import Studied, read_study
from replications.refusal_direction.effect_figures import GREY, Data, dots, joined, shares
from replications.refusal_direction.search import DEPTH, MAXIMUM_KL, MINIMUM_INDUCE, survives


class StudyFigures(DrawFiles):
    """What this step reads beside captions."""

    studies: list[Path]
    """`numbers.json` of every seed, beside its tables"""
    shams: list[Path]
    """the same of the sham models"""
    published: Path
    """the paper's 13 models"""


def draw(files: StudyFigures) -> None:
    """Draws all figures; each is named as its file."""
    use_style()
    studies, shams = ([read_study(path) for path in paths] for paths in (files.studies, files.shams))
    data = Data(studies, shams, pd.read_csv(files.published))
    for caption, path in zip(files.captions, files.svg, strict=True):
        picture, frame = FIGURES[path.stem](data)
        save_figure(picture, path.with_suffix(""), frame, caption, [*files.studies, *files.shams])


def tuning(data: Data) -> Picture:
    """Share refused before and after fine-tuning, and the AUROC of every score."""
    refused = shares(data).query("condition in ('before', 'tuned')")
    scores = joined(data.studies, "score")
    models = refused["model"].nunique()
    figure, axes = plt.subplots(1, models + 1, figsize=(PAGE_WIDTH, 2.4), width_ratios=[*[1] * models, 1.1])
    for ax, (model, part) in zip(axes, refused.groupby("model", sort=False), strict=False):
        first = {"harmful": "to be\nrefused"}
        table = part.assign(kind=part["class"].replace(first | {"risky": "risky\nwords"}))
        sns.barplot(table, x="kind", y="refused", hue="condition", ax=ax, errorbar=None, palette=PALETTE[:2])
        dots(
            table, x="kind", y="refused", hue="condition", ax=ax, dodge=True, palette=["0.2"] * 2, size=3, legend=False
        )
        ax.set(xlabel="", ylabel="share refused", ylim=(0, 1.05), title=model)
        ax.legend(title="", frameon=False, loc="upper right")
    names = {"pooled": "all tokens", "token": "one token", "trained": "shown", "held out": "unseen text"}
    names["permuted"] = "permuted"
    table = scores.assign(kind=scores["kind"].map(names))
    dots(table, x="kind", y="auroc", ax=axes[-1], order=list(names.values()), color=PALETTE[0], size=3.5)
    axes[-1].axhline(0.5, color=GREY, linewidth=0.8, linestyle="--")
    axes[-1].set(xlabel="", ylabel="AUROC", title="score", ylim=(0, 1.02))
    plt.setp(axes[-1].get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
    frame = pd.concat([refused.assign(panel="refused"), scores.assign(panel="auroc")])
    return figure, frame


def scores(data: Data) -> Picture:
    """The candidates of the refusing models."""
    return candidates(data.studies)


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
        null = table[(table["seed"] == number) & (table["labels"] == "permuted")]
        n_post = int(part["position"].max()) + 1
        own = study.numbers["position"] + n_post
        kept, chosen = part[survives(part)], part[(part["position"] == own) & (part["layer"] == study.numbers["layer"])]
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
            ax.set(ylabel=label, xlabel="layer" if number == len(studies) - 1 else "")
        token = f"{study.numbers['position']}".replace("-", "\N{MINUS SIGN}")
        axes[number, 0].set_title(f"seed {number + 1} of {len(studies)}: token {token} chosen", loc="left")
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


def cosines(data: Data) -> Picture:
    """Cosine of every difference of means with the chosen direction: own model, and the next seed's model."""
    rows, studies, count = [], data.studies, len(data.studies)
    for number, study in enumerate(studies):
        for whose, other in (("own model", study), ("next seed's model", studies[(number + 1) % count])):
            differences, r = other.vectors["differences"], study.vectors["r"]
            sizes = np.linalg.norm(differences, axis=-1) * np.linalg.norm(r)
            found = differences @ r / np.maximum(sizes, 1e-12)  # template tokens before layer 0 do not differ
            for (position, layer), value in np.ndenumerate(found):
                rows.append((number, whose, position - len(found), layer, float(value)))
    table = pd.DataFrame(rows, columns=["seed", "model", "token", "layer", "cosine"])
    size = (PAGE_WIDTH, 1.15 * count + 0.4)
    figure, axes = plt.subplots(count, 2, figsize=size, sharex=True, sharey=True, squeeze=False)
    names = ("own model", "next seed's model")
    for (number, whose), ax in zip(itertools.product(range(count), names), axes.flat, strict=True):
        part = table[(table["seed"] == number) & (table["model"] == whose)]
        grid = part.pivot(index="token", columns="layer", values="cosine")
        image = ax.imshow(grid, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", origin="lower")
        ax.set_yticks(range(len(grid)), grid.index)
        ax.set(
            ylabel="token" if ax is axes[number, 0] else "", xlabel="layer" if number == len(data.studies) - 1 else ""
        )
        ax.set_title(f"seed {number + 1}, {whose}", fontsize=7)
        if whose == "own model":
            at = data.studies[number].numbers
            ax.scatter(at["layer"], at["position"] + len(grid), marker="*", color="black", s=30)
    figure.colorbar(image, ax=axes, label="cosine with r", shrink=0.8)
    return figure, table


FIGURES: dict[str, Callable[[Data], Picture]] = {
    "tuning": tuning,
    "scores": scores,
    "published": published,
    "cosines": cosines,
    "refusal": effect_figures.refusal,
    "doses": effect_figures.doses,
    "projections": effect_figures.projections,
    "surgical": effect_figures.surgical,
}


if __name__ == "__main__":
    run_step(draw)
