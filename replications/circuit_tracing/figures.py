"""Figures of circuit tracing: a graph to read, predictions beside interventions, dictionaries compared, the planted
circuit, and the transcoders of a language model."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from common.core.figures import COLUMN_WIDTH, PAGE_WIDTH, PALETTE, Picture, Plan, run_plans
from common.core.metrics import Estimate, Metric

GREY = "0.6"
KIND_COLOURS = {
    "cross layer transcoder": "#dbe9f6",
    "mlp reconstruction error": "#e4e4e1",
    "embedding": "#e2f1e4",
    "logit": "#fbe6c8",
}
LEAST_SHARE = 0.05
PUBLISHED = 0.72  # Spearman of influence and ablation effect, Ameisen et al. 2025


def dots(axes: Axes, rows: dict[str, tuple[Estimate, str]]) -> pd.DataFrame:
    """Horizontal dots with intervals and seeds, first row on top."""
    for place, (found, colour) in enumerate(rows.values()):
        axes.plot([found.ci_low, found.ci_high], [place, place], color=colour, linewidth=1.5)
        axes.plot(found.per_seed or [], [place] * len(found.per_seed or []), ".", color=colour, alpha=0.4, markersize=4)
        axes.plot(found.value, place, "o", color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    return pd.DataFrame(
        [{"row": name, **found.model_dump(include={"value", "ci_low", "ci_high"})} for name, (found, _) in rows.items()]
    )


def with_controls(metric: Metric, name: str, **more: Metric) -> dict[str, tuple[Estimate, str]]:
    """The effect in blue, its controls in grey, further metrics in orange."""
    rows: dict[str, tuple[Estimate, str]] = {name: (metric, PALETTE[0])}
    rows |= {control.name.replace("_", " "): (control, GREY) for control in metric.controls}
    return rows | {key.replace("_", " "): (one, PALETTE[1]) for key, one in more.items()}


def two_hop(nodes: pd.DataFrame, links: pd.DataFrame) -> Picture:
    """The pruned graph of one prompt, features of one name together."""
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 3.6))
    top = int(nodes["layer"].max())
    place: dict[int, tuple[float, float]] = {}
    for _, own in nodes.groupby(["pos", "layer"]):
        for at, node in enumerate(own.index.tolist()):
            pos, layer = float(nodes["pos"][node]), float(nodes["layer"][node])
            place[node] = (pos * 2.6, layer + 0.3 * ((len(own) - 1) / 2 - at))
    for source, target, share in zip(links["source"], links["target"], links["share"], strict=True):
        if abs(share) < LEAST_SHARE:
            continue
        (x1, y1), (x2, y2) = place[source], place[target]
        axes.add_patch(FancyArrowPatch(
            (x1, y1 + 0.11), (x2, y2 - 0.11), arrowstyle="-|>", mutation_scale=7, shrinkA=0, shrinkB=0,
            linewidth=0.5 + 4 * abs(share), color=PALETTE[0] if share > 0 else PALETTE[1], alpha=0.5,
            linestyle="-" if share > 0 else "--", connectionstyle="arc3,rad=0.08",
        ))  # fmt: skip
    for node, (x, y) in place.items():
        text = str(nodes["label"][node]).replace('Emb: "', "").replace('Output "', "").replace(' "', "").strip('"')
        count = int(nodes["count"][node])
        box = {
            "boxstyle": "round,pad=0.25",
            "facecolor": KIND_COLOURS[nodes["kind"][node]],
            "edgecolor": "0.5",
            "lw": 0.5,
        }
        axes.text(x, y, text + (f" ×{count}" if count > 1 else ""), ha="center", va="center", fontsize=6.5, bbox=box)
    axes.set(
        xlim=(-1.2, 2.6 * nodes["pos"].max() + 1.4), ylim=(-1.5, top + 0.5), xticks=[],
        yticks=range(-1, top + 1), yticklabels=["embedding", *[f"MLP {at}" for at in range(top)], "output"],
    )  # fmt: skip
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    return figure, links


def interventions(effects: pd.DataFrame, metrics: dict[str, Metric]) -> Picture:
    """Influence against measured effect, and the agreement with its controls."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.7), width_ratios=[1, 1.1])
    shown = effects[(effects["kind"] == "trained") & (effects["influence"] > 0) & (effects["effect"] > 1e-4)]
    for layer, own in shown.groupby("layer"):
        left.loglog(own["influence"], own["effect"], ".", color=PALETTE[int(str(layer))], label=f"MLP {layer}",
                    markersize=4, alpha=0.7)  # fmt: skip
    left.set(xlabel="influence on the answer's logit, by the graph", ylabel="|change of the logit| when ablated")
    left.legend(frameon=False, handletextpad=0.1)
    agreement = metrics["agreement_frozen"]
    drawn = dots(right, with_controls(agreement, "transcoders", attention_free=metrics["agreement_free"]))
    right.axvline(PUBLISHED, color="0.3", linewidth=0.8, linestyle=":")
    right.text(PUBLISHED, -0.45, " paper 0.72", fontsize=6.5, va="bottom", ha="center")
    right.set(xlim=(0, 1), xlabel="Spearman: influence and change, attention frozen")
    return figure, pd.concat([shown.assign(panel="features"), drawn.assign(panel="agreement")])


def top_features(metrics: dict[str, Metric]) -> Picture:
    """Ablating the most influential features, and swapping them."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.3))
    others = {f"{kind}, most influential": metrics[f"fall_{kind}"] for kind in ("untrained", "neurons")}
    first = dots(left, with_controls(metrics["fall"], "most influential", **others))
    left.axvline(0, color="0.8", linewidth=0.8)
    left.set(xlabel="fall of the answer's logit", title="five features ablated")
    second = dots(right, with_controls(metrics["swapped"], "most influential"))
    right.set(xlim=(-0.02, 1), xlabel="other class's answer given", title="five features at the last name swapped")
    return figure, pd.concat([first.assign(panel="ablation"), second.assign(panel="swap")])


def dictionaries(metrics: dict[str, Metric]) -> Picture:
    """Sizes of graphs of equal completeness, and names of features."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 1.9))
    first = dots(left, with_controls(metrics["size_ratio"], "neurons"))
    left.axvline(1, color="0.8", linewidth=0.8)
    left.set(xlabel="nodes needed / transcoder features needed", title="completeness 0.8")
    second = dots(right, with_controls(metrics["names"], "transcoders"))
    right.set(xlim=(0.4, 1), xlabel="F1 of a feature's best name", title="ten most influential features")
    return figure, pd.concat([first.assign(panel="size"), second.assign(panel="names")])


def planted(metrics: dict[str, Metric]) -> Picture:
    """Planted edges recovered."""
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH + 0.6, 2.0))
    ceiling = metrics["recovered_hand_written"]
    drawn = dots(axes, with_controls(metrics["recovered"], "trained transcoders", hand_written=ceiling))
    axes.set(xlim=(0, 1.02), xlabel="planted edges among as many strongest")
    return figure, drawn


def layers(table: pd.DataFrame) -> Figure:
    """FVU, L0 and live share of the transcoders of a language model, by layer."""
    figure, panels = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.0))
    for axes, (column, label) in zip(
        panels, {"fvu": "FVU on held-out text", "l0": "L0", "live": "live share"}.items(), strict=True
    ):
        axes.plot(table["layer"], table[column], "o-", markersize=3)
        axes.set(xlabel="layer", ylabel=label, ylim=(0, max(1.0, 1.1 * table[column].max())))
    return figure


PLANS = {
    "graphs/two_hop": Plan(two_hop, ("nodes.csv", "links.csv")),
    "graphs/interventions": Plan(interventions, ("effects.csv", "metrics.json")),
    "graphs/top_features": Plan(top_features, ("metrics.json",)),
    "graphs/dictionaries": Plan(dictionaries, ("metrics.json",)),
    "planted/planted": Plan(planted, ("metrics.json",)),
    "language/layers": Plan(layers, ("layers.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
