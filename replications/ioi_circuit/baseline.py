"""Step: does the model do the task? Logit difference, share of prompts with IO above S, P(IO), and their controls.

logit_difference   mean over prompts of logit(IO) - logit(S) at END
share_io_above_s   share of prompts with logit(IO) > logit(S)
probability_io     mean P(IO) at END
retained           mean logit difference of a counterfactual / mean logit difference of the original prompts

The control is the ABC partner, whose three names have no roles. Scored on the *original* names it is near zero by
construction, as those do not occur in it; so it is also scored on its own slots: `abc_own` is the name in the slot of
IO minus that in the slot of S1 (both occur once, in the same clause), `abc_own_s2` the name in the slot of IO minus
that of the subject, which measures how far naming somebody as the subject is enough to rule the name out.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from safetensors import safe_open

from common.core.metrics import Metric, write_metrics
from common.core.statistics import null_distribution
from common.core.step import run
from common.core.tables import write_table
from replications.ioi_circuit.adversarial import measure_adversarial
from replications.ioi_circuit.clustering import clustered, role_flips
from replications.ioi_circuit.dataset import VERSIONS, Prompt, read_file


def baseline(*, prompts: Path, activations: Path, shuffles: int, out: Path, answers: Path) -> None:
    """Writes `metrics.json` and one row per prompt and version.

    Args:
        prompts: `prompts.json`.
        activations: `activations.safetensors`.
        shuffles: draws of shuffled IO and S labels.
        out: `metrics.json`.
        answers: `answers.csv` with columns seed, template, order, version, logit_io, logit_s, difference,
            probability_io, io_is_first. IO and S are always those of the original prompt.
    """
    content = read_file(prompts)
    rows = content.prompts
    table = read_answers(activations, rows)
    with safe_open(activations, framework="np") as stored:
        slots, slot_probs, logits, probs, own, own_probs = (
            stored.get_tensor(name).astype(np.float64)
            for name in (
                "slots.abc",
                "slot_probs.abc",
                "adversarial.logits",
                "adversarial.probs",
                "logits.original",
                "probs.original",
            )
        )
    metrics = measure(table, rows, shuffles) | own_slots(table, rows, slots, slot_probs)
    write_metrics(out, metrics | measure_adversarial(content.adversarial, rows, logits, probs, own, own_probs))
    names = [("abc_own", 1), ("abc_own_s2", 2)]
    own_rows = [
        table[table["version"] == "abc"].assign(
            version=name,
            difference=slots[:, 0] - slots[:, column],
            logit_io=slots[:, 0],
            logit_s=slots[:, column],
            probability_io=slot_probs[:, 0],
        )
        for name, column in names
    ]
    write_table(answers, pd.concat([table, *own_rows]))


def read_answers(activations: Path, rows: list[Prompt]) -> pd.DataFrame:
    """One row per version and prompt, prompts in the order of `rows`."""
    tables = []
    with safe_open(activations, framework="np") as stored:
        for version in VERSIONS:
            logits, probs = stored.get_tensor(f"logits.{version}"), stored.get_tensor(f"probs.{version}")
            first = stored.get_tensor(f"first.{version}")
            part = pd.DataFrame(
                {
                    "seed": [row.seed for row in rows],
                    "template": [row.template for row in rows],
                    "order": [row.order for row in rows],
                    "version": version,
                    "logit_io": logits[:, 0].astype(np.float64),
                    "logit_s": logits[:, 1].astype(np.float64),
                    "probability_io": probs[:, 0].astype(np.float64),
                    "io_is_first": (first == np.array([row.io_id for row in rows])).astype(np.float64),
                }
            )
            part.insert(6, "difference", part["logit_io"] - part["logit_s"])
            tables.append(part)
    return pd.concat(tables, ignore_index=True)


def measure(table: pd.DataFrame, rows: list[Prompt], shuffles: int) -> dict[str, Metric]:
    """All metrics of this part."""

    def column(version: str, name: str) -> Float[np.ndarray, " prompt"]:
        found: np.ndarray = table.loc[table["version"] == version, name].to_numpy()
        return found

    differences = {version: column(version, "difference") for version in VERSIONS}
    original, abc = differences["original"], differences["abc"]
    p_io, p_abc = column("original", "probability_io"), column("abc", "probability_io")
    flips = role_flips(len(rows), shuffles)
    shuffled = (flips * original > 0).astype(np.float64)
    above = (original > 0).astype(np.float64)

    logits = partial(clustered, unit="logits", formula="mean of logit(IO) - logit(S) at END")
    share = partial(clustered, prompts=rows, unit="share", formula="share of prompts with logit(IO) > logit(S)")
    probability = partial(clustered, prompts=rows, unit="share", formula="mean P(IO) at END")
    retained = partial(
        clustered,
        prompts=rows,
        unit="1",
        formula="mean logit difference / mean logit difference of the original prompts",
        denominators=original,
    )
    metrics = {
        "logit_difference": logits(original, rows),
        "logit_difference_abc": logits(abc, rows),
        "logit_difference_minus_abc": logits(original - abc, rows),
        "share_io_above_s": share(above),
        "share_io_above_s_shuffled": null_distribution(
            shuffled.mean(1), unit="share", formula="share of prompts with logit(IO) > logit(S), shuffled labels"
        ),
        "share_io_above_s_minus_shuffled": share(above - shuffled.mean(0)),
        "probability_io": probability(p_io),
        "probability_io_abc": probability(p_abc),
        "probability_io_minus_abc": probability(p_io - p_abc),
        "share_io_first": clustered(
            column("original", "io_is_first"),
            rows,
            unit="share",
            formula="share of prompts whose likeliest token is IO",
        ),
    }
    scored = {
        "abc": abc,
        "nouns_redrawn": differences["nouns_redrawn"],
        "names_swapped": -differences["names_swapped"],  # the answer is the other name now
    }
    for name, values in scored.items():
        metrics[f"{name}_retained"] = retained(values)
    for name in ("nouns_redrawn", "names_swapped"):
        metrics[f"{name}_minus_abc"] = retained(scored[name] - abc)
    for order in ("ABBA", "BABA"):
        kept = [index for index, row in enumerate(rows) if row.order == order]
        metrics[f"logit_difference_{order.lower()}"] = logits(original[kept], [rows[i] for i in kept])
    return metrics


def own_slots(
    table: pd.DataFrame,
    rows: list[Prompt],
    slots: Float[np.ndarray, "prompt slot"],
    probs: Float[np.ndarray, "prompt slot"],
) -> dict[str, Metric]:
    """ABC prompts scored on the names that stand in them, and what the original prompts have beyond that."""
    original = table.loc[table["version"] == "original"]
    difference, p_io = (original[name].to_numpy() for name in ("difference", "probability_io"))
    metrics: dict[str, Metric] = {}
    for name, column, text in (("abc_own", 1, "S1"), ("abc_own_s2", 2, "S2")):
        own = slots[:, 0] - slots[:, column]
        formula = f"ABC prompts: logit of the name in the slot of IO minus that in the slot of {text}"
        metrics[f"logit_difference_{name}"] = clustered(own, rows, unit="logits", formula=formula)
        metrics[f"logit_difference_minus_{name}"] = clustered(
            difference - own, rows, unit="logits", formula=f"logit(IO) - logit(S), minus: {formula}"
        )
        ratio = partial(clustered, prompts=rows, unit="1", denominators=difference)
        metrics[f"{name}_retained"] = ratio(own, formula=f"{formula} / mean logit difference")
        for version, sign in (("nouns_redrawn", 1), ("names_swapped", -1)):
            kept = sign * table.loc[table["version"] == version, "difference"].to_numpy()
            metrics[f"{version}_minus_{name}"] = ratio(
                kept - own, formula=f"retained, minus: {formula} / mean logit difference"
            )
    metrics["abc_own_s2_minus_abc_own"] = clustered(
        slots[:, 1] - slots[:, 2],
        rows,
        unit="1",
        formula="ABC prompts: logit of the name in the slot of S1 minus the subject's / mean logit difference",
        denominators=difference,
    )
    metrics["probability_io_abc_own"] = clustered(
        probs[:, 0], rows, unit="share", formula="ABC prompts: mean P(name in the slot of IO)"
    )
    metrics["probability_io_minus_abc_own"] = clustered(
        p_io - probs[:, 0], rows, unit="share", formula="mean P(IO) minus the same on ABC prompts"
    )
    return metrics


if __name__ == "__main__":
    run(baseline)
