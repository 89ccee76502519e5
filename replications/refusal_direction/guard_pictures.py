"""Figure of the guardrail."""

import matplotlib.pyplot as plt
import pandas as pd

from common.plotting import PAGE_WIDTH, PALETTE
from replications.refusal_direction.pictures import GREY, Data, Picture

BARS = {  # condition, as in the tables; {0} is the attack
    "guarded": ("guard on", PALETTE[0]),
    "{0}": ("attack", PALETTE[1]),
    "{0}: error": ("its part in the error", PALETTE[4]),
    "{0}: latents": ("its part in other latents", PALETTE[2]),
    "{0}: random": ("random, equal norm", GREY),
    "guarded, error dropped": ("guard on, error dropped", PALETTE[5]),
    "{0}, error dropped": ("attack, error dropped", PALETTE[3]),
}
ZERO = {
    "free": "tuned",
    "zero, error kept": "latent 0,\nerror kept",
    "zero, error dropped": "latent 0,\nerror dropped",
    "zero, error recomputed": "latent 0,\nrecomputed",
    "reconstruction": "not clamped,\nerror dropped",
}


def guardrail(data: Data) -> Picture:
    """Refusal against what the latent reads, what each attack's parts do, and the latent held at zero."""
    every = pd.concat([guard.table.assign(seed=number) for number, guard in enumerate(data.guards)], ignore_index=True)
    keys = ["model", "condition", "seed"]
    table = every.groupby(keys, sort=False)[["reads", "refused", "metric", "kl"]].mean().reset_index()
    before, attacks = table[table["model"] == "before"], data.guards[0].attacks
    figure, axes = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 3.0), width_ratios=[1, 1.35, 0.8])
    doses = before[before["condition"].str.startswith("clamp") | (before["condition"] == "free")]
    for number, line in doses.groupby("seed"):
        line = line.sort_values("reads")
        label = "clamped, no attack" if number == 0 else None
        axes[0].plot(line["reads"], line["metric"], "o-", color=PALETTE[0], markersize=3, linewidth=1, label=label)
    for name, marker, title in zip(attacks, "vs", ("part of r removed", "optimised shift"), strict=True):
        some = before[before["condition"] == name]
        axes[0].scatter(some["reads"], some["metric"], marker=marker, s=22, color=PALETTE[1], label=title, zorder=3)
        some = before[before["condition"] == f"{name}: random"]
        label = "random shifts" if name == attacks[0] else None
        axes[0].scatter(some["reads"], some["metric"], marker="x", s=18, color="0.4", label=label, zorder=3)
    axes[0].axhline(0, color="0.8", linewidth=0.8)
    axes[0].set(
        xlabel="latent reads (multiples of its mean)", ylabel="refusal metric (nats)", title="model before tuning"
    )
    names = [name.format(attack) for attack in attacks for name in BARS]
    places = [x + 0.8 * group for group in range(2) for x in range(group * len(BARS), (group + 1) * len(BARS))]
    for name, place, (label, colour) in zip(names, places, [*BARS.values()] * 2, strict=True):
        some = before[before["condition"] == name]
        axes[1].bar(place, some["refused"].mean(), color=colour, label=label if place < len(BARS) else None)
        axes[1].plot([place] * len(some), some["refused"], "o", color="black", markersize=2.5)
    middle = [(len(BARS) - 1) / 2, len(BARS) + 0.8 + (len(BARS) - 1) / 2]
    axes[1].set_xticks(middle, ["part of r removed", "optimised shift"])
    axes[1].set(ylabel="share refused", ylim=(0, 1.05), title="same requests, guard on")
    handles = [
        *zip(*axes[0].get_legend_handles_labels(), strict=True),
        *zip(*axes[1].get_legend_handles_labels(), strict=True),
    ]
    zero = table[table["model"] == "tuned"]
    for place, name in enumerate(ZERO):
        some = zero[zero["condition"] == name]
        axes[2].bar(place, some["refused"].mean(), color=PALETTE[0] if name == "free" else PALETTE[1])
        axes[2].plot([place] * len(some), some["refused"], "o", color="black", markersize=2.5)
    axes[2].set_xticks(range(len(ZERO)), list(ZERO.values()), rotation=90)
    axes[2].set(ylabel="share refused", ylim=(0, 1.05), title="refusing model")
    figure.legend(
        [handle for handle, _ in handles],
        [label for _, label in handles],
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    return figure, table
