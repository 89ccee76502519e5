"""Figures of circuit tracing: a graph to read, predictions beside interventions, dictionaries compared, the planted
circuit, and the transcoders of a language model."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch

from common.core.figures import COLUMN_WIDTH, PAGE_WIDTH, PALETTE, Picture, Plan, dots, run_plans
from common.core.metrics import Estimate, Metric

GREY = "0.6"
KIND_COLOURS = {
    "cross layer transcoder": "#dbe9f6",
    "mlp reconstruction error": "#e4e4e1",
    "embedding": "#e2f1e4",
    "logit": "#fbe6c8",
}
KIND_NAMES = {
    "embedding": "token",
    "cross layer transcoder": "features of one name",
    "mlp reconstruction error": "what the transcoder misses",
    "logit": "output",
}
LEAST_SHARE = 0.05
PUBLISHED = 0.72  # Spearman of influence and ablation effect, Ameisen et al. 2025


def with_controls(metric: Metric, name: str, **more: Metric) -> dict[str, tuple[Estimate, str]]:
    """The effect in blue, its controls in grey, further metrics in orange."""
    rows: dict[str, tuple[Estimate, str]] = {name: (metric, PALETTE[0])}
    rows |= {control.name.replace("_", " "): (control, GREY) for control in metric.controls}
    return rows | {key.replace("_", " "): (one, PALETTE[1]) for key, one in more.items()}


def columns(nodes: pd.DataFrame, gap: float = 0.16) -> tuple[dict[int, float], dict[int, float]]:
    """Places boxes and middles of positions, in inches: boxes of one position and layer side by side, a column as wide
    as its widest row."""
    width = {at: 0.2 + 0.052 * max(map(len, told(node).split("\n"))) for at, node in nodes.iterrows()}
    place: dict[int, float] = {}
    middles: dict[int, float] = {}
    start = 0.0
    for pos, column in nodes.groupby("pos"):
        rows = [[int(str(at)) for at in own.index] for _, own in column.groupby("layer")]
        widths = [sum(width[at] for at in row) + gap * (len(row) - 1) for row in rows]
        middles[int(str(pos))] = middle = start + max(widths) / 2
        for row, whole in zip(rows, widths, strict=True):
            left = middle - whole / 2
            for at in row:
                place[at] = left + width[at] / 2
                left += width[at] + gap
        start += max(widths) + 2 * gap
    return place, middles


def told(node: "pd.Series[str]") -> str:
    """Words of a box: the name, how many features have it, and how good it is for the worst of them."""
    text = str(node["label"]).replace('Emb: "', "").replace('Output "', "").replace(' "', "").strip('"')
    if node["kind"] != "cross layer transcoder":
        return text.replace(" (p=", "\n(p = ")
    count, f1 = int(node["count"]), float(node["f1"])
    return text + (f" ×{count}" if count > 1 else "") + f"\nF1 {'≥ ' if count > 1 else ''}{f1:.2f}"


def two_hop(nodes: pd.DataFrame, links: pd.DataFrame) -> Picture:
    """The pruned graph of one prompt, features of one name together."""
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 3.7))
    top = int(nodes["layer"].max())
    drawn = links[links["share"].abs() >= LEAST_SHARE]
    linked = nodes.index.isin([*drawn["source"], *drawn["target"]])
    nodes = nodes[linked | nodes["kind"].isin(["embedding", "logit"])]
    x, middles = columns(nodes)
    for source, target, share in zip(drawn["source"], drawn["target"], drawn["share"], strict=True):
        (x1, y1), (x2, y2) = ((x[at], float(nodes["layer"][at])) for at in (source, target))
        bend = 0.0 if abs(x2 - x1) < 0.3 and y2 - y1 < 1.5 else 0.12
        axes.add_patch(FancyArrowPatch(
            (x1, y1 + 0.21), (x2, y2 - 0.21), arrowstyle="-|>", mutation_scale=7, shrinkA=0, shrinkB=0,
            linewidth=0.5 + 4 * abs(share), color=PALETTE[0] if share > 0 else PALETTE[1], alpha=0.5,
            linestyle="-" if share > 0 else "--", connectionstyle=f"arc3,rad={bend}", zorder=1,
        ))  # fmt: skip
    for at, node in nodes.iterrows():
        box = {"boxstyle": "round,pad=0.3", "facecolor": KIND_COLOURS[node["kind"]], "edgecolor": "0.5", "lw": 0.5}
        place = (x[int(str(at))], float(node["layer"]))
        axes.text(*place, told(node), ha="center", va="center", fontsize=6.5, bbox=box, linespacing=1.1, zorder=3)
    axes.set(
        xlim=(-0.25, max(x.values()) + 0.6), ylim=(-1.35, top + 0.35), xlabel="position in the prompt",
        yticks=range(-1, top + 1), yticklabels=["token", *[f"MLP {at}" for at in range(top)], "output"],
    )  # fmt: skip
    axes.set_xticks(list(middles.values()), [str(pos) for pos in middles])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    lines = [
        Line2D([], [], color=PALETTE[0], linewidth=2.5, alpha=0.5, label="raises its target"),
        Line2D([], [], color=PALETTE[1], linewidth=2.5, alpha=0.5, linestyle="--", label="lowers its target"),
    ]
    boxes = [Patch(facecolor=KIND_COLOURS[kind], edgecolor="0.5", lw=0.5, label=KIND_NAMES[kind])
             for kind in KIND_NAMES if kind in set(nodes["kind"])]  # fmt: skip
    axes.legend(handles=[*lines, *boxes], frameon=False, loc="upper left", bbox_to_anchor=(0, 1), borderaxespad=0)
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
    first = dots(left, with_controls(metrics["fall"], "most influential"))
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


def language_graphs(heads: pd.DataFrame, table: pd.DataFrame, metrics: dict[str, Metric]) -> Figure:
    """By prompt: the heads that carry the likeliest token, with the token that they read, and influence against the
    effect of ablation."""
    prompts = list(dict.fromkeys(table["prompt"]))
    figure, panels = plt.subplots(2, len(prompts), figsize=(PAGE_WIDTH, 4.2), layout="constrained", squeeze=False)
    for prompt, upper, lower in zip(prompts, *panels, strict=True):
        own = heads[heads["prompt"] == prompt]
        own = own[own["logit"] == own["logit"].iloc[0]]  # logits come in the order of their probabilities
        names = [f"{row.layer}.{row.head}  reads {str(row.token).strip() or '␣'}" for row in own.itertuples()]
        upper.barh(names, own["carried"], color=["C0" if value > 0 else "C1" for value in own["carried"]])
        upper.axvline(0, color="0.3", linewidth=0.8)
        upper.invert_yaxis()
        upper.set(title=f"{prompt}: {own['logit'].iloc[0].strip()}", xlabel="carried to the logit")
        part = table[table["prompt"] == prompt]
        for drawn, colour, label in ((True, "0.6", "drawn"), (False, "C0", "most influential")):
            some = part[part["drawn"] == drawn]
            lower.loglog(some["influence"].clip(lower=1e-7), some["change"].abs().clip(lower=1e-4), ".",
                         markersize=4, color=colour, label=label)  # fmt: skip
        rho = metrics[f"agreement_{prompt}"]
        title = f"Spearman {rho.value:.2f} [{rho.ci_low:.2f}, {rho.ci_high:.2f}]"
        lower.set(title=title, xlabel="influence, by the graph", ylabel="|change| when ablated")
    panels[1, 0].legend(frameon=False, loc="upper left", handletextpad=0.1)
    return figure


def traces(metrics: dict[str, Metric]) -> Picture:
    """Over prompts of the language model: predictions and ablations, over all sites and within; the most influential
    features; the replacement model."""
    figure, panels = plt.subplots(2, 2, figsize=(PAGE_WIDTH, 4.4), height_ratios=[3, 2])
    rows = {
        "agreement": ("influence", "over layers and positions", "Spearman: prediction and change"),
        "agreement_within_sites": ("influence", "within a layer and position", "Spearman: prediction and change"),
        "fall": ("most influential", "ten features ablated", "fall of the likeliest token's logit"),
        "replacement_same": ("transcoders", "MLPs replaced", "likeliest token stays the same"),
    }
    drawn = []
    for axes, (name, (effect, title, label)) in zip(panels.flat, rows.items(), strict=True):
        drawn.append(dots(axes, with_controls(metrics[name], effect)).assign(panel=name))
        axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.set(title=title, xlabel=label)
    return figure, pd.concat(drawn)


def named_heads(metrics: dict[str, Metric]) -> Picture:
    """How well what heads carry in a graph singles out the heads that other methods named."""
    figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 1.9))
    drawn = []
    for axes, (prompt, title) in zip(
        panels, {"ioi": "IOI prompt: heads of path patching", "induction": "induction prompt: induction heads"}.items(),
        strict=True,
    ):  # fmt: skip
        if f"named_{prompt}" in metrics:
            rows = with_controls(metrics[f"named_{prompt}"], "carried to the logit")
            drawn.append(dots(axes, rows).assign(panel=prompt))
        axes.axvline(0.5, color="0.8", linewidth=0.8)
        axes.set(xlim=(0, 1.02), xlabel="area under the ROC curve", title=title)
    return figure, pd.concat(drawn) if drawn else pd.DataFrame({"panel": []})


PLANS = {
    "graphs/two_hop": Plan(two_hop, ("nodes.csv", "links.csv")),
    "graphs/interventions": Plan(interventions, ("effects.csv", "metrics.json")),
    "graphs/top_features": Plan(top_features, ("metrics.json",)),
    "graphs/dictionaries": Plan(dictionaries, ("metrics.json",)),
    "planted/planted": Plan(planted, ("metrics.json",)),
    "traces/traces": Plan(traces, ("metrics.json",)),
    "named_heads/named_heads": Plan(named_heads, ("metrics.json",)),
    "language/layers": Plan(layers, ("layers.csv",)),
    "language/graphs": Plan(language_graphs, ("heads.csv", "ablations.csv", "metrics.json")),
}


if __name__ == "__main__":
    run_plans(PLANS)
