"""Step: draws the cosine of every seed, for real and for shuffled labels. Reads data, never a model."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from common.core.figures import COLUMN_WIDTH, save_figure, use_style
from common.core.metrics import read_metrics
from common.core.step import run


def draw(*, metrics: Path, caption: Path, out: Path) -> None:
    """One mark per seed. `out` is the SVG; PNG, PDF, data and caption are written beside it."""
    read = read_metrics(metrics)
    kinds = {"true labels": "cosine", "shuffled labels": "cosine_shuffled"}
    frame = pd.DataFrame(
        [{"labels": kind, "cosine": value} for kind, name in kinds.items() for value in read[name].per_seed or []]
    )
    use_style()
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.2))
    axes.axhline(0.0, color="0.8", linewidth=0.8)
    sns.stripplot(frame, x="labels", y="cosine", hue="labels", ax=axes, size=5, jitter=0.12, legend=False)
    axes.set(xlabel="", ylabel="cosine of probe and direction", ylim=(-1.05, 1.05))
    save_figure(figure, out.with_suffix(""), frame, caption, [metrics])


if __name__ == "__main__":
    run(draw)
