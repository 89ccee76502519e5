"""Does every score behind the class names single out the heads it is meant for, where these are known?

A score is judged by the area under the ROC curve over all heads of a planted model, against the heads whose job it
describes: attention contrasts and copying on the prompts, attention on repeated random tokens (head_scores.py). Both
kinds of heads that write a name with a minus have to come out with the lowest copying scores, which are turned round.
"""

import numpy as np
from jaxtyping import Float

from common.core.statistics import auroc
from replications.ioi_circuit.classes import Signs
from replications.ioi_circuit.planted import N_HEADS, N_LAYERS, TRUTH

JOBS: dict[str, tuple[float, tuple[str, ...]]] = {
    "to_io": (1.0, ("name_mover", "negative")),
    "to_s2": (1.0, ("s_inhibition", "s_suppressing")),
    "duplicate": (1.0, ("duplicate",)),
    "induction": (1.0, ("induction",)),
    "previous": (1.0, ("previous",)),
    "copy_io": (1.0, ("name_mover",)),
    "copy_io_turned": (-1.0, ("negative", "s_suppressing")),
    "copy_s_turned": (-1.0, ("negative", "s_suppressing")),
    "random_duplicate": (1.0, ("duplicate",)),
    "random_induction": (1.0, ("induction",)),
    "random_previous": (1.0, ("previous",)),
}
"""Score -> its direction, and the classes that it should put first."""


def score_recovery(
    looks: dict[str, Signs], copies: dict[str, Signs], repeated: dict[str, Float[np.ndarray, " head"]]
) -> dict[str, float]:
    """`auroc_score_<name>` of each score of `JOBS`, and the least and the mean of them."""
    values = {name: found.mean for name, found in (looks | copies).items()}
    values |= {f"random_{name}": found for name, found in repeated.items()}
    areas = {}
    for name, (direction, classes) in JOBS.items():
        truth = np.zeros(N_LAYERS * N_HEADS, dtype=bool)
        truth[[layer * N_HEADS + head for (layer, head, _), kind in TRUTH.items() if kind in classes]] = True
        areas[f"auroc_score_{name}"] = float(auroc(direction * values[name.removesuffix("_turned")], truth))
    found = list(areas.values())
    return areas | {"auroc_scores_smallest": min(found), "auroc_scores_mean": float(np.mean(found))}
