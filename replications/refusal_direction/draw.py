"""Step: draws the figures of this replication from the tables of every seed. Reads data, never a model."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from common.core.figures import save_figure, use_style
from common.core.step import run
from replications.refusal_direction import effect_pictures, guard_pictures, pictures
from replications.refusal_direction.guard_metrics import read_guard
from replications.refusal_direction.tables import read_arm

FIGURES: dict[str, Callable[[pictures.Data], pictures.Picture]] = {
    "tuning": pictures.tuning,
    "scores": pictures.scores,
    "published": pictures.published,
    "cosines": pictures.cosines,
    "refusal": effect_pictures.refusal,
    "doses": effect_pictures.doses,
    "projections": effect_pictures.projections,
    "surgical": effect_pictures.surgical,
    "guardrail": guard_pictures.guardrail,
}


def draw(
    *, arms: list[Path], sham: Path, guards: list[Path], published: Path, captions: list[Path], out: list[Path]
) -> None:
    """Writes all figures; each is named as its file.

    Args:
        arms: `numbers.json` of every seed.
        sham: `numbers.json` of the sham model.
        guards: `guard.json` of every seed.
        published: the paper's models.
        captions: one for each figure.
        out: the SVG of each figure, in the same order; PNG, PDF, data and caption are written beside it.
    """
    use_style()
    own, found = [read_arm(path) for path in arms], [read_guard(path) for path in guards]
    data = pictures.Data(own, read_arm(sham), pd.read_csv(published), found)
    for caption, path in zip(captions, out, strict=True):
        picture, frame = FIGURES[path.stem](data)
        save_figure(picture, path.with_suffix(""), frame, caption, [*arms, sham, *guards])


if __name__ == "__main__":
    run(draw)
