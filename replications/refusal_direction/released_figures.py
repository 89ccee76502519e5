"""Step: draws the figures of one released model from the tables of every seed. Reads data, never a model."""

from pathlib import Path

import matplotlib.pyplot as plt

from common.core.figures import PAGE_WIDTH, DrawFiles, Picture, save_figure, use_style
from common.core.step import run_step
from replications.refusal_direction.comparisons import Studied, read_study
from replications.refusal_direction.figures import ABLATIONS, ADDITIONS, bars, candidates, shares


class ReleasedFigures(DrawFiles):
    """What this step reads beside captions."""

    studies: list[Path]
    """`numbers.json` of every seed, beside its tables"""


def draw_released(files: ReleasedFigures) -> None:
    """Draws both figures; each is named as its file."""
    use_style()
    studies = [read_study(path) for path in files.studies]
    for caption, path in zip(files.captions, files.svg, strict=True):
        picture, frame = {"released": effects, "candidates": candidates}[path.stem](studies)
        save_figure(picture, path.with_suffix(""), frame, caption, files.studies)


def effects(studies: list[Studied]) -> Picture:
    """Share refused under every intervention, harmful and harmless requests; dots are seeds."""
    table = shares(studies)
    figure, axes = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.5), sharey=True)
    for ax, (kind, names) in zip(axes, {"harmful": ABLATIONS, "harmless": ADDITIONS}.items(), strict=True):
        title = f"{kind} requests, {'ablation' if kind == 'harmful' else 'addition'}"
        bars(ax, table[table["class"] == kind], {**names, "tuned": "as released"}, title)
    return figure, table


if __name__ == "__main__":
    run_step(draw_released)
