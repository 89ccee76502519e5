"""Step: draws the figures of one released model from the tables of every seed. Reads data, never a model."""

from pathlib import Path

import matplotlib.pyplot as plt

from common.core.figures import PAGE_WIDTH, DrawFiles, Picture, save_figure, use_style
from common.core.step import run_step
from replications.refusal_direction.comparisons import Studied, read_study
from replications.refusal_direction.effect_figures import ABLATIONS, ADDITIONS, bars, joined
from replications.refusal_direction.figures import candidates


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
    """Share refused under every intervention, harmful, harmless and risky-word requests; dots are seeds."""
    keys = ["seed", "class", "condition"]
    table = joined(studies, "answers").groupby(keys, sort=False)["refused"].mean().reset_index()
    here = {"tuned": "as released"}
    figure, axes = plt.subplots(1, 3, figsize=(PAGE_WIDTH, 2.5), sharey=True, width_ratios=[1.6, 1, 0.5])
    names = {kind: {**own, **here} for kind, own in (("harmful", ABLATIONS), ("harmless", ADDITIONS))}
    names["risky"] = {**here, "ablated": "r ablated"}
    titles = {"harmful": "harmful; ablation, subtraction", "harmless": "harmless; addition", "risky": "risky words"}
    for ax, (kind, title) in zip(axes, titles.items(), strict=True):
        part = table[table["class"] == kind]
        measured = set(part["condition"])
        bars(ax, part, {key: name for key, name in names[kind].items() if key in measured}, title)
    return figure, table


if __name__ == "__main__":
    run_step(draw_released)
