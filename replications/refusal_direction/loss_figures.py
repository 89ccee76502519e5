"""Step: draws what ablation costs on text, beside the other ways to end refusal. Reads tables, never a model.

Left: cross-entropy per token of each corpus. Right: its rise over the untouched model on the same texts, where ablation
faces its controls (Arditi et al. 2024, section 4). These are subtraction, the weights, and permuted candidates, the
most damaging and the cheapest that ends refusal. Intervals resample texts; seeds read different ones.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from common.core.figures import PAGE_WIDTH, PALETTE, DrawFiles, Picture, save_figure, use_style
from common.core.metrics import Metric
from common.core.step import run_step
from replications.refusal_direction.comparisons import Studied, clustered, read_study, rises

UNTOUCHED = "tuned"
CONDITIONS = {
    UNTOUCHED: "untouched",
    "ablated": "r ablated",
    "weights": "r out of weights",
    "subtracted": "r subtracted",
    "least subtracted": "r subtracted, shortest",
    "damage ablated": "permuted, ablated",
    "cheapest ablated": "cheapest permuted, ablated",
}
GREY = "0.6"
COLOURS = [PALETTE[0], PALETTE[1], PALETTE[1], *[GREY] * 4]
BOUND = 1 / 8  # of the rise under subtraction: the landmark `ablation_is_cheap`


class LossFigures(DrawFiles):
    """What this step reads beside captions."""

    studies: list[Path]
    """`numbers.json` of every seed, beside its tables"""


def draw_losses(files: LossFigures) -> None:
    """Draws the figure `losses`."""
    use_style()
    [caption], [svg] = files.captions, files.svg
    figure, table = losses([read_study(path) for path in files.studies])
    save_figure(figure, svg.with_suffix(""), table, caption, files.studies)


def losses(studies: list[Studied]) -> Picture:
    """Cross-entropy and its rise under every condition, one row a corpus; dots are seeds."""
    table = pd.concat([corpus_rows(studies, str(corpus)) for corpus in studies[0].tables["losses"]["corpus"].unique()])
    corpora = list(table["corpus"].unique())
    figure, axes = plt.subplots(len(corpora), 2, figsize=(PAGE_WIDTH, 0.5 + 2.3 * len(corpora)), squeeze=False)
    for row, corpus in zip(axes, corpora, strict=True):
        whole, rise = (table[(table["corpus"] == corpus) & (table["quantity"] == one)] for one in ("loss", "rise"))
        dots(row[0], whole)
        dots(row[1], rise[rise["condition"] != UNTOUCHED])
        row[0].set(xlabel="cross-entropy (nats per token)", title=f"{corpus}: loss")
        row[1].set(xlabel="rise over untouched (nats per token)", title=f"{corpus}: rise on the same texts")
        row[1].axvline(0, color="0.8", linewidth=0.8, zorder=0)
        bound = BOUND * float(rise[rise["condition"] == "subtracted"]["value"].iloc[0])
        row[1].axvline(
            bound, color="0.3", linewidth=0.8, linestyle="--", zorder=0, label="1/8 of the rise by subtraction"
        )
    figure.legend(*axes[0][1].get_legend_handles_labels(), loc="outside lower right", frameon=False)
    return figure, table


def corpus_rows(studies: list[Studied], corpus: str) -> pd.DataFrame:
    """The mean loss of one corpus and its rise, by condition: value, interval and seeds."""
    every = [study.tables["losses"] for study in studies]
    rows = []
    for condition in CONDITIONS:
        tables = [table[(table["corpus"] == corpus) & (table["condition"] == condition)] for table in every]
        values = [table["value"].to_numpy() for table in tables]
        texts = [[f"text {item} of {seed}" for item in table["item"]] for seed, table in enumerate(tables)]
        own = clustered(values, texts, unit="nats", formula="mean cross-entropy per token", cluster="texts")
        rows += long(corpus, condition, "loss", own, [float(one.mean()) for one in values])
        if condition != UNTOUCHED:
            rise = rises(studies, corpus, condition, {}, None)
            rows += long(corpus, condition, "rise", rise, rise.per_seed or [rise.value])
    return pd.DataFrame(rows)


def long(corpus: str, condition: str, quantity: str, metric: Metric, seeds: list[float]) -> list[dict[str, object]]:
    """One row for each seed of a metric, with the value over all of them and its interval."""
    same = {"corpus": corpus, "condition": condition, "quantity": quantity}
    interval = {"value": metric.value, "low": metric.ci_low, "high": metric.ci_high}
    return [{**same, "seed": number, "seed_value": one, **interval} for number, one in enumerate(seeds)]


def dots(ax: Axes, part: pd.DataFrame) -> None:
    """A dot with its 95 % interval for every condition, the first on top, and a small dot for every seed."""
    shown = [key for key in CONDITIONS if key in set(part["condition"])]
    names = part.assign(condition=part["condition"].map(CONDITIONS))
    sns.stripplot(
        names, x="seed_value", y="condition", order=[CONDITIONS[key] for key in shown], color="black", size=2.5,
        jitter=False, alpha=0.5, ax=ax, zorder=4,
    )  # fmt: skip
    for place, key in enumerate(shown):
        one, colour = part[part["condition"] == key].iloc[0], COLOURS[list(CONDITIONS).index(key)]
        ax.plot([one["low"], one["high"]], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        ax.plot(one["value"], place, "o", color=colour, markersize=6)
    ax.set_ylabel("")


if __name__ == "__main__":
    run_step(draw_losses)
