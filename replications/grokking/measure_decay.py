"""Step: how the time to generalise depends on weight decay.

AdamW takes learning rate times weight decay of every weight away in each step. Where this shrinking sets the time, the
delay between knowing the trained pairs and answering new ones falls in inverse proportion to decay (Liu et al. 2022,
*Omnigrok*: t ~ 1 / decay) and to the rate (Khanh et al. 2026: for AdamW at least so fast, times the logarithm of a
ratio of norms). So for each seed log(delay) is fitted by a straight line in log(decay) over four decays; the slope
would be -1 at an equal ratio of norms.

    exponent              of the delay in weight decay. Controls: `memorising`, of the steps to the trained pairs, which
                          falls likewise if less decay merely slows training; `rate`, of the delay in the learning rate
                          at an equal product of rate and decay: -1 if the rate sets the time, 0 if the product
                          does; above 0 if decay does whatever the rate, which `exponent_rate` tells
    exponent_rate         of the delay in the learning rate at an equal weight decay; -1 if the product sets the time
    answered_without      share of new pairs answered after the last step without weight decay. Control: with an eighth
                          of the decay, after as many steps
    length_without        steps without weight decay, over those that the slowest network with an eighth of it needs
    answering             networks with weight decay that answer half of the new pairs

A network that has not answered half of the new pairs counts with its last step: `answering` says whether there is one.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds, without_interval
from common.core.step import Files, run_step
from common.core.tables import write_table
from replications.grokking.measure import first_learned
from replications.grokking.settings import MeasureDecay, Pace

HALF = 0.5
"""Share of new pairs from which a network generalises; as in *before* of measure.py."""
DECAYS = ("whole", "half", "quarter", "eighth")


class MeasureDecayFiles(Files):
    whole: Path
    half: Path
    quarter: Path
    eighth: Path
    none: Path
    slow: Path
    """networks of the arms"""
    metrics: Path
    times: Path


def measure_decay(files: MeasureDecayFiles, settings: MeasureDecay) -> None:
    """Writes `metrics.json` and the steps of every network."""
    arms = {arm: getattr(settings.decay_sweep.arms, arm) for arm in type(settings.decay_sweep.arms).model_fields}
    tables = [read(getattr(files, arm), pace, settings.reading.learned).assign(arm=arm) for arm, pace in arms.items()]
    table = pd.concat(tables)
    write_metrics(files.metrics, decay_metrics(table))
    write_table(files.times, table)


def read(models: Path, pace: Pace, learned: float) -> pd.DataFrame:
    """One row per seed: steps at which trained pairs are known and half of the new ones answered, and how many are in
    the end."""
    found = load_file(models)
    memorised = first_learned(found["accuracy_train"], found["steps"], learned).numpy()
    generalised = first_learned(found["accuracy_unseen"], found["steps"], HALF).numpy()
    answered = found["accuracy_unseen"][-1].numpy()
    return pd.DataFrame(
        {
            "seed": found["seeds"].numpy(),
            "weight_decay": pace.weight_decay,
            "learning_rate": pace.learning_rate,
            "memorised": memorised,
            "generalised": generalised,
            "delay": np.maximum(generalised - memorised, 1.0),
            "answered": answered,
            "steps": pace.steps,
        }
    )


def decay_metrics(table: pd.DataFrame) -> dict[str, Metric]:
    """The metrics of the module's docstring, over seeds."""
    seeds = sorted(table["seed"].unique())

    def of(arm: str, column: str) -> np.ndarray:
        values: np.ndarray = table[table["arm"] == arm].set_index("seed").loc[seeds, column].to_numpy(dtype=np.float64)
        return values

    def exponent(arms: tuple[str, ...], column: str, of_what: str = "weight_decay") -> list[float]:
        x = np.log([of(arm, of_what)[0] for arm in arms])
        y = np.log(np.stack([of(arm, column) for arm in arms]))
        slopes: list[float] = np.polyfit(x, y, 1)[0].tolist()
        return slopes

    text = "slope of log(steps between knowing trained pairs and answering half of the new ones) in log({})"
    controls = {
        "memorising": exponent(DECAYS, "memorised"),
        "rate": exponent(("half", "slow"), "delay", "learning_rate"),
    }
    without, eighth = of("none", "answered"), of("eighth", "answered")
    return {
        "exponent": over_seeds(
            exponent(DECAYS, "delay"), unit="1", formula=text.format("weight decay"), controls=controls
        ),
        "exponent_rate": over_seeds(
            exponent(("whole", "slow"), "delay", "learning_rate"), unit="1", formula=text.format("learning rate")
        ),
        "answered_without": over_seeds(
            without.tolist(), unit="share", formula="share of new pairs answered after the last step, no weight decay",
            controls={"eighth": eighth.tolist()},
        ),
        "length_without": without_interval(
            float(of("none", "steps")[0] / of("eighth", "generalised").max()), len(seeds), "1",
            "steps without weight decay / steps to half of the new pairs of the slowest network with an eighth of it",
        ),
        "answering": without_interval(
            float((table.loc[table["weight_decay"] > 0, "answered"] >= HALF).mean()),
            int((table["weight_decay"] > 0).sum()), "share", "networks that answer half of the new pairs at the end",
        ),
    }  # fmt: skip


if __name__ == "__main__":
    run_step(measure_decay)
