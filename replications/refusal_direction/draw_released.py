"""Step: draws the figures of one released model from the tables of every seed. Reads data, never a model."""

from pathlib import Path

import matplotlib.pyplot as plt

from common.core.figures import PAGE_WIDTH, save_figure, use_style
from common.core.step import run
from replications.refusal_direction.effect_pictures import ABLATIONS, ADDITIONS, bars
from replications.refusal_direction.pictures import Picture, candidates, joined
from replications.refusal_direction.tables import Arm, read_arm


def draw_released(*, arms: list[Path], captions: list[Path], out: list[Path]) -> None:
    """Writes the figures; each is named as its file.

    Args:
        arms: `numbers.json` of every seed.
        captions: one for each figure.
        out: the SVG of each figure, in the same order; PNG, PDF, data and caption are written beside it.
    """
    use_style()
    every = [read_arm(path) for path in arms]
    for caption, path in zip(captions, out, strict=True):
        picture, frame = {"released": effects, "candidates": candidates}[path.stem](every)
        save_figure(picture, path.with_suffix(""), frame, caption, arms)


def effects(arms: list[Arm]) -> Picture:
    """Share refused under every intervention, harmful, harmless and risky-word requests; dots are seeds."""
    keys = ["seed", "class", "condition"]
    table = joined(arms, "answers").groupby(keys, sort=False)["refused"].mean().reset_index()
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
    run(draw_released)
