"""Step: the metrics of one released model from the tables of every seed. Loads no model."""

from pathlib import Path

from common.cli import run
from common.records import write_metrics
from replications.refusal_direction.summarise import NULLS, choice, interventions, score, side_effects
from replications.refusal_direction.tables import Metrics, against, read_arm


def summarise_released(*, arms: list[Path], out: Path) -> None:
    """Writes the metrics of the part `released`.

    Args:
        arms: `numbers.json` of every seed.
        out: `metrics.json`.
    """
    every = [read_arm(path) for path in arms]
    harmful, harmless, risky = (("harmful", "tuned"), ("harmless", "tuned"), ("risky", "tuned"))
    found: Metrics = against("refused_harmful", every, harmful, {"harmless": harmless})
    found |= against("refused_risky", every, risky, {"harmful": harmful})
    write_metrics(out, found | score(every) | choice(every) | interventions(every, NULLS) | side_effects(every))


if __name__ == "__main__":
    run(summarise_released)
