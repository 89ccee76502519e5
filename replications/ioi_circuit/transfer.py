"""Figure step: the circuits of all models that were run, side by side: depth, class sizes and effects. A model that was
fine-tuned as well gets a second block: the same nodes, measured in the fine-tuned models (means over these). Last comes
what Wang et al. published of GPT-2 small, which needs no model."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from common.core.figures import PAGE_WIDTH, save_figure, use_style
from common.core.metrics import read_metrics
from common.core.step import Files, run_step
from replications.ioi_circuit import published
from replications.ioi_circuit.circuit_figures import COLOURS
from replications.ioi_circuit.fine_tuned import BEFORE

PUBLISHED = "GPT-2 small, as published"
SIZE = 5.0  # percent: of the marks of published heads, whose effects are not compared
SHOWN = tuple(kind for kind in COLOURS if kind not in ("unclassified", "uncounted"))


class TransferFiles(Files):
    circuits: list[Path]
    """`circuit.csv` of each model, in a folder named after the model"""
    metrics: list[Path]
    """of the verification of each model, in the same order"""
    heads: list[Path]
    """`heads.csv` of path patching of each model"""
    tuned: list[Path]
    """`nodes.csv` of the part `fine_tuned` of the models that have it"""
    caption: Path
    svg: Path
    others: list[Path]


def transfer(files: TransferFiles) -> None:
    """Draws the figure and writes its table, one row per model and class."""
    after = {path.parent.parent.name: path for path in files.tuned}
    parts = []
    for paths in zip(files.circuits, files.metrics, files.heads, strict=True):
        model, of_model = paths[0].parent.parent.name, _of_model(*paths)
        parts.append((model, *of_model))
        if model in after:
            label = f"{model}, fine-tuned to refuse"
            parts.append((label, *_tuned(label, after[model], *of_model)))
    parts.append((PUBLISHED, *_published()))
    use_style()
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 0.9 + 0.34 * len(SHOWN) * len(parts)))
    labels = []
    for number, (model, table, summary) in enumerate(parts):
        for row, kind in enumerate(SHOWN):
            y = number * (len(SHOWN) + 1) + row
            one = table[table["class"] == kind]
            axes.scatter(
                one["depth"], [y] * len(one), s=8 + 4 * one["effect"].abs().fillna(SIZE), color=COLOURS[kind], alpha=0.8
            )
            drop = summary.loc[summary["class"] == kind, "drop"].iloc[0]
            worth = "" if pd.isna(drop) else f"; without it {-100 * drop:+.0f} %".replace("-", "\N{MINUS SIGN}")
            axes.text(1.06, y, f"nodes: {len(one)}{worth}", va="center", fontsize=6.5)
            labels.append((y, kind.replace("_", " ")))
        kept = f"{model}: keeps {100 * summary['faithfulness'].iloc[0]:.0f} % with {summary['heads'].iloc[0]:.0f} heads"
        axes.text(0, number * (len(SHOWN) + 1) - 0.9, kept, fontsize=7.5, fontweight="bold")
    axes.set_yticks([y for y, _ in labels], [name for _, name in labels])
    axes.set_xlim(-0.03, 1.45)
    axes.set_ylim(len(parts) * (len(SHOWN) + 1) - 1.4, -1.6)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xlabel("depth of the head (0: first layer, 1: last)")
    together = pd.concat([summary for _, _, summary in parts])
    sources = [*files.circuits, *files.metrics, *files.heads, *files.tuned]
    save_figure(figure, files.svg.with_suffix(""), together, files.caption, sources)


def _of_model(circuit: Path, metrics: Path, heads: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Nodes with their depth, and one row per class."""
    model = circuit.parent.parent.name
    table, measured = pd.read_csv(circuit), read_metrics(metrics)
    last = max(1, int(pd.read_csv(heads)["layer"].max()))
    table["depth"] = table["layer"] / last
    records = []
    for kind in SHOWN:
        part = table[table["class"] == kind]
        drop = measured.get(f"drop_without_{kind}")
        records.append(
            {
                "model": model,
                "class": kind,
                "nodes": len(part),
                "mean_depth": part["depth"].mean(),
                "summed_effect_percent": part["effect"].sum(),
                "drop": drop.value if drop else float("nan"),
                "faithfulness": measured["circuit_faithfulness"].value,
                "heads": measured["circuit_heads_share"].value * measured["circuit_heads_share"].n,
                "small_circuit": measured["small_circuit"].value,
            }
        )
    return table, pd.DataFrame(records)


def _published() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The heads of the paper in the same form, without effects."""
    n_layers = 12
    nodes = published.published_classes(n_layers)
    rows = [(kind, node.layer / (n_layers - 1)) for kind, part in nodes.items() for node in sorted(part)]
    table = pd.DataFrame(rows, columns=["class", "depth"]).assign(effect=float("nan"))
    depths = table.groupby("class")["depth"].mean()
    left = pd.Series(published.LEFT) / published.WHOLE
    summary = pd.DataFrame({"class": SHOWN}).assign(
        model=PUBLISHED,
        nodes=[len(nodes.get(kind, ())) for kind in SHOWN],
        mean_depth=[depths.get(kind, float("nan")) for kind in SHOWN],
        summed_effect_percent=float("nan"),
        drop=[1 - left.get(kind, float("nan")) for kind in SHOWN],
        faithfulness=published.FAITHFULNESS,
        heads=len(table),
    )
    return table, summary


def _tuned(label: str, nodes: Path, table: pd.DataFrame, summary: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same nodes with their effects in the fine-tuned models, and the same rows with what was measured there."""
    measured, shares = pd.read_csv(nodes), pd.read_csv(nodes.with_name("shares.csv"))
    models = [name for name in shares["model"].unique() if name != BEFORE]
    left = shares[shares["model"] != BEFORE].groupby("what")["share"].mean()
    table = table.assign(effect=measured[models].mean(axis=1).to_numpy())
    changed = summary.assign(
        model=label,
        summed_effect_percent=[table.loc[table["class"] == kind, "effect"].sum() for kind in summary["class"]],
        drop=[1 - left.get(f"without {kind}", float("nan")) for kind in summary["class"]],
        faithfulness=read_metrics(nodes.with_name("metrics.json"))["circuit_faithfulness"].value,
    )
    return table, changed.drop(columns="small_circuit")


if __name__ == "__main__":
    run_step(transfer)
