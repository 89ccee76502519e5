"""Step: the metrics of one released model from the tables of every seed. Loads no model.

There is one model, and seeds differ in their requests alone. Intervals of shares and means resample the categories of
the data sets, over the requests of all seeds. What has one value a seed (AUROC, choice) gets a t interval, which says
how much it depends on the requests.
"""

from pathlib import Path

from common.core.metrics import write_metrics
from common.core.step import run
from replications.refusal_direction.choice_metrics import choice
from replications.refusal_direction.summarise import interventions, score, side_effects
from replications.refusal_direction.tables import Metrics, against, read_arm

NULLS = ("random", "permuted")  # what `unrelated` takes off comes from another list of requests


def summarise_released(*, arms: list[Path], out: Path) -> None:
    """Writes the metrics of the part `released`.

    Args:
        arms: `numbers.json` of every seed.
        out: `metrics.json`.
    """
    every = [read_arm(path, topics="all") for path in arms]
    harmful, harmless, risky = (("harmful", "tuned"), ("harmless", "tuned"), ("risky", "tuned"))
    found: Metrics = against("refused_harmful", every, harmful, {"harmless": harmless})
    found |= against("refused_risky", every, risky, {"harmful": harmful})
    write_metrics(out, found | score(every) | choice(every) | interventions(every, NULLS) | side_effects(every))


if __name__ == "__main__":
    run(summarise_released)
