"""Step: draws the parts that stand alone: the guardrail, cones of directions, a dictionary one fine-tune away."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from common.core.figures import PAGE_WIDTH, PALETTE, Picture, Plan, run_plans
from replications.refusal_direction.guard_metrics import attacks_of

GREY = "0.6"
BARS = {  # condition, as in the tables; {0} is the attack
    "guarded": ("guard on", PALETTE[0]),
    "{0}": ("attack", PALETTE[1]),
    "{0}: error": ("its part in the error", PALETTE[4]),
    "{0}: latents": ("its part in other latents", PALETTE[2]),
    "{0}: random": ("random, equal norm", GREY),
    "guarded, error dropped": ("guard on, error dropped", PALETTE[5]),
    "{0}, error dropped": ("attack, error dropped", PALETTE[3]),
}
WAY_BACK = ("guarded", "{0}", "{0}: random")  # {0} is an attack
ZERO = {
    "free": "tuned",
    "zero, error kept": "latent 0,\nerror kept",
    "zero, error dropped": "latent 0,\nerror dropped",
    "zero, error recomputed": "latent 0,\nrecomputed",
    "reconstruction": "not clamped,\nerror dropped",
}
CONE_PANELS = {  # how directions of one cone are summed up, title
    "bypassed": ("mean", "harmful requests not refused,\nmean over directions"),
    "worst": ("min", "the same for the direction\nthat ends the fewest refusals"),
    "kl": ("mean", "KL of the first token on\nharmless requests (nats)"),
}
CONES = {"optimised": ("optimised cone", PALETTE[1], "o"), "start": ("at its start: r, random axes", "0.5", "s")}
MODELS = {  # as in the table: label, colour
    "before": ("untouched", "black"),
    "tuned": ("refusing", PALETTE[1]),
    "sham": ("sham\n(food)", PALETTE[2]),
    "shuffled": ("change\nshuffled", "0.6"),
}
TRANSFER_PANELS = {
    "moved": "shift of activations\n(share of their variance)",
    "fvu": "variance unexplained",
    "missed": "share of the shift that\nreconstructions miss",
    "delta_ce": "cross-entropy added\n(nats per token)",
}


def guardrail(conditions: pd.DataFrame, numbers: pd.DataFrame) -> Picture:
    """Refusal against what the latent reads, what each attack's parts do, how far it brings the model back, the latent
    held at zero, and the variance that the SAE does not explain."""
    keys = ["model", "condition", "seed"]
    columns = ["reads", "refused", "refused_by_phrase", "metric", "kl"]
    table = conditions.groupby(keys, sort=False)[columns].mean().reset_index()
    before, attacks = table[table["model"] == "before"], attacks_of(conditions)
    figure, grid = plt.subplots(2, 3, figsize=(PAGE_WIDTH, 5.2))
    axes = grid.flatten()
    _doses(axes[0], before, attacks)
    for ax, attack, title in zip(axes[1:3], attacks, ("part of r removed", "optimised shift"), strict=True):
        _parts(ax, before, attack, title)
    _back(axes[3], before, attacks)
    zero = table[table["model"] == "tuned"]
    for place, name in enumerate(ZERO):
        some = zero[zero["condition"] == name]
        axes[4].bar(place, some["refused"].mean(), color=PALETTE[0] if name == "free" else PALETTE[1])
        axes[4].plot([place] * len(some), some["refused"], "o", color="black", markersize=2.5)
    axes[4].set_xticks(range(len(ZERO)), list(ZERO.values()), rotation=90)
    axes[4].set(ylabel="share refused", ylim=(0, 1.05), title="refusing model")
    left = pd.concat(
        numbers[["seed"]].assign(model=model, condition="unexplained variance", fvu=numbers[key])
        for model, key in (("tuned", "fvu"), ("before", "fvu_before"))
    )
    for place, (_, some) in enumerate(left.groupby("model", sort=False)):
        axes[5].plot([place] * len(some), some["fvu"], "o", color=PALETTE[place], markersize=3.5)
    axes[5].set_xticks([0, 1], ["tuned", "before"], rotation=90)
    axes[5].set(ylabel="variance unexplained", ylim=(0, 1.15 * left["fvu"].max()), xlim=(-0.6, 1.6), title="the SAE")
    handles = [
        *zip(*axes[0].get_legend_handles_labels(), strict=True),
        *zip(*axes[1].get_legend_handles_labels(), strict=True),
    ]
    figure.legend(
        [handle for handle, _ in handles],
        [label for _, label in handles],
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    return figure, pd.concat([table, left], ignore_index=True)


def _doses(ax: Axes, before: pd.DataFrame, attacks: list[str]) -> None:
    """Refusal metric against what the latent reads."""
    doses = before[before["condition"].str.startswith("clamp") | (before["condition"] == "free")]
    for number, (_, line) in enumerate(doses.groupby("seed")):
        line = line.sort_values("reads")
        label = "clamped, no attack" if number == 0 else None
        ax.plot(line["reads"], line["metric"], "o-", color=PALETTE[0], markersize=3, linewidth=1, label=label)
    for name, marker, title in zip(attacks, "vs", ("part of r removed", "optimised shift"), strict=True):
        some = before[before["condition"] == name]
        ax.scatter(some["reads"], some["metric"], marker=marker, s=22, color=PALETTE[1], label=title, zorder=3)
        some = before[before["condition"] == f"{name}: random"]
        label = "random shifts" if name == attacks[0] else None
        ax.scatter(some["reads"], some["metric"], marker="x", s=18, color="0.4", label=label, zorder=3)
    ax.axhline(0, color="0.8", linewidth=0.8)
    ax.set(xlabel="latent reads (multiples of its mean)", ylabel="refusal metric (nats)", title="model before tuning")


def _parts(ax: Axes, before: pd.DataFrame, attack: str, title: str) -> None:
    """Share refused under one attack and its parts: bars and dots by the first token, diamonds by phrases."""
    look: dict[str, Any] = {"marker": "D", "markerfacecolor": "none", "markersize": 3.5, "markeredgewidth": 0.7}
    for place, (name, (label, colour)) in enumerate(BARS.items()):
        some = before[before["condition"] == name.format(attack)]
        ax.bar(place, some["refused"].mean(), color=colour, label=label)
        ax.plot([place - 0.12] * len(some), some["refused"], "o", color="black", markersize=2.5)
        if some["refused_by_phrase"].notna().any():
            label = "by phrases" if place == 0 else "_"
            ax.plot([place + 0.15] * len(some), some["refused_by_phrase"], color="black", ls="", label=label, **look)
    ax.set_xticks([])
    ax.set(ylabel="share refused", ylim=(0, 1.05), title=title)


def _back(ax: Axes, before: pd.DataFrame, attacks: list[str]) -> None:
    """KL to the model without the guard: guarded, attacked, and under random shifts."""
    names = list(dict.fromkeys(name.format(attack) for attack in attacks for name in WAY_BACK))
    labels = ["guard on", "removed", "random", "optimised", "random"]
    for place, name in enumerate(names):
        some = before[before["condition"] == name]
        colour = GREY if name.endswith("random") else PALETTE[0] if name == "guarded" else PALETTE[1]
        ax.bar(place, some["kl"].mean(), color=colour)
        ax.plot([place] * len(some), some["kl"], "o", color="black", markersize=2.5)
    ax.set_xticks(range(len(names)), labels, rotation=90)
    ax.set(ylabel="KL to no guard (nats)", title="way back")


def cone(rows: pd.DataFrame) -> Picture:
    """One mark per seed and a line through their means."""
    figure, axes = plt.subplots(1, len(CONE_PANELS), figsize=(PAGE_WIDTH, 2.4))
    for axis, (name, (how, title)) in zip(axes, CONE_PANELS.items(), strict=True):
        column = "bypassed" if name == "worst" else name
        for kind, (label, colour, marker) in CONES.items():
            own = rows[rows["kind"] == kind].groupby(["dimensions", "seed"])[column].agg(how)
            places, values = own.index.get_level_values("dimensions"), own.to_numpy()
            axis.plot(places, values, marker, color=colour, markersize=4, alpha=0.7, label=label)
            axis.plot(own.groupby("dimensions").mean(), "-", color=colour, linewidth=1.2)
        axis.set(title=title, xlabel="dimensions of the cone", xticks=sorted(set(rows["dimensions"])))
        axis.set_ylim(0, 1.05 if name != "kl" else None)
    axes[0].legend(loc="lower left")
    return figure, rows


def transfer(rows: pd.DataFrame) -> Picture:
    """One mark per seed and a line at their mean, model by model."""
    figure, axes = plt.subplots(1, len(TRANSFER_PANELS), figsize=(PAGE_WIDTH, 2.5))
    for axis, (name, title) in zip(axes, TRANSFER_PANELS.items(), strict=True):
        shown = [model for model in MODELS if model != "before" or name not in ("moved", "missed")]
        for at, model in enumerate(shown):
            values = rows[rows["model"] == model][name].to_numpy()
            axis.plot(np.full(len(values), at), values, "o", color=MODELS[model][1], markersize=4, alpha=0.8)
            axis.hlines(values.mean(), at - 0.25, at + 0.25, color=MODELS[model][1], linewidth=1.4)
        axis.set_xticks(range(len(shown)), [MODELS[model][0] for model in shown], rotation=90)
        axis.set(title=title, xlim=(-0.5, len(shown) - 0.5))
        largest = rows.loc[rows["model"].isin(shown), name].max()
        axis.set_ylim(0, 1.08 * largest if largest > 0 else None)  # a scale from the data alone would cut marks off
    return figure, rows


PLANS = {
    "guardrail/guardrail": Plan(guardrail, ("conditions.csv", "numbers.csv")),
    "cone/cone": Plan(cone, ("directions.csv",)),
    "transfer/transfer": Plan(transfer, ("models.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
