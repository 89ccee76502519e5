"""Step: the metrics of one released model from the tables of every seed. Loads no model.

There is one model, and seeds differ in their requests alone. Intervals of shares and means resample the categories of
the data sets, over the requests of all seeds. What has one value a seed (AUROC, choice) gets a t interval, which says
how much it depends on the requests.
"""

from pathlib import Path

from common.core.metrics import write_metrics
from common.core.step import Files, run_step
from replications.refusal_direction.comparisons import Metrics, read_study, requests
from replications.refusal_direction.summarise import HARMFUL, HARMLESS, choice, costs, interventions, separation

CONTROLS = ("random", "permuted")  # there is no model before fine-tuning
ALTERNATIVES = ("token_ban", "permuted_push")


class SummariseFiles(Files):
    studies: list[Path]
    """`numbers.json` of every seed, beside its tables"""
    metrics: Path


def summarise_released(files: SummariseFiles) -> None:
    """Writes the metrics of the part `released`."""
    studies = [read_study(path, topics="all") for path in files.studies]
    found: Metrics = {
        "refused_harmful": requests(studies, HARMFUL, {"harmless": HARMLESS}),
    }
    found |= (
        {"auroc": separation(studies)}
        | choice(studies)
        | interventions(studies, CONTROLS, ALTERNATIVES)
        | costs(studies)
    )
    write_metrics(files.metrics, found)


if __name__ == "__main__":
    run_step(summarise_released)
