"""Step: does the model do the task? Logit difference, share of prompts with IO above S, P(IO), and their controls.

logit_difference   mean over prompts of logit(IO) - logit(S) at END
share_io_above_s   share of prompts with logit(IO) > logit(S)
probability_io     mean P(IO) at END
retained           mean logit difference of a counterfactual / mean logit difference of the original prompts

The control is the ABC partner, whose three names have no roles. Scored on the *original* names (`abc`) it is near zero
by construction, as those do not occur in it. So it is also scored on its own slots. `abc_own` is the name in the slot
of IO minus that in the slot of S1: both occur once, in the same clause. `abc_own_s2` is the name in the slot of IO
minus that of the subject: how far naming somebody as the subject is enough to rule the name out.

Adversarial prompts (prompts.py) have a sentence about IO. Controls are the same prompts without it, and with the
sentence about S.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from safetensors import safe_open

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, run_step
from common.core.tables import write_table
from replications.ioi_circuit.dataset import VERSIONS, Adversarial, Prompt, read_file
from replications.ioi_circuit.prompt_statistics import PerPrompt, clustered, role_flips
from replications.ioi_circuit.prompts import EXTRAS
from replications.ioi_circuit.settings import Baseline

DIFFERENCE = "mean of logit(IO) - logit(S) at END"
OWN_SLOTS = {"abc_own": 1, "abc_own_s2": 2}
"""Slot of an ABC prompt whose name is set against that in the slot of IO."""
ADVERSARIAL = ("adversarial.logits", "adversarial.probs")
Slots = Float[np.ndarray, "prompt slot"]


class BaselineFiles(Files):
    prompts: Path
    activations: Path
    metrics: Path
    answers: Path
    """one row per prompt and version; IO and S are always those of the original prompt"""


def baseline(files: BaselineFiles, settings: Baseline) -> None:
    """Writes `metrics.json` and one row per prompt and version."""
    content = read_file(files.prompts)
    rows = content.prompts
    table = read_answers(files.activations, rows)
    with safe_open(files.activations, framework="np") as stored:
        slots, slot_probs, *answers = (
            stored.get_tensor(name).astype(np.float64)
            for name in ("slots.abc", "slot_probs.abc", *ADVERSARIAL, "logits.original", "probs.original")
        )
    metrics = measure(table, rows, slots, slot_probs, settings.shuffles)
    write_metrics(files.metrics, metrics | measure_adversarial(content.adversarial, rows, *answers))
    own_rows = [
        table[table["version"] == "abc"].assign(
            version=name,
            difference=slots[:, 0] - slots[:, slot],
            logit_io=slots[:, 0],
            logit_s=slots[:, slot],
            probability_io=slot_probs[:, 0],
        )
        for name, slot in OWN_SLOTS.items()
    ]
    write_table(files.answers, pd.concat([table, *own_rows]))


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


def measure(
    table: pd.DataFrame, rows: list[Prompt], slots: Slots, slot_probs: Slots, shuffles: int
) -> dict[str, Metric]:
    """All metrics but those of adversarial prompts. `slots` are logits of the three names of each ABC prompt."""

    def column(version: str, name: str) -> PerPrompt:
        values: PerPrompt = table.loc[table["version"] == version, name].to_numpy()
        return values

    original, abc = column("original", "difference"), column("abc", "difference")
    own = {name: slots[:, 0] - slots[:, slot] for name, slot in OWN_SLOTS.items()}
    above = (original > 0).astype(np.float64)
    shuffled = (role_flips(len(rows), shuffles) * original > 0).astype(np.float64)
    probabilities = {"abc": column("abc", "probability_io"), "abc_own": slot_probs[:, 0]}
    retained = "mean logit difference / mean logit difference of the original prompts"
    metrics = {
        "logit_difference": clustered(
            original, rows, unit="logits", formula=DIFFERENCE, cluster="frames", controls={"abc": abc, **own}
        ),
        "share_io_above_s": clustered(
            above,
            rows,
            unit="share",
            formula="share of prompts with logit(IO) > logit(S)",
            draws={"shuffled_roles": shuffled},
        ),
        "probability_io": clustered(
            column("original", "probability_io"),
            rows,
            unit="share",
            formula="mean P(IO) at END; of ABC prompts, of the original IO or of the name in its slot (abc_own)",
            controls=probabilities,
        ),
        "share_io_first": clustered(
            column("original", "io_is_first"),
            rows,
            unit="share",
            formula="share of prompts whose likeliest token is IO",
        ),
        "abc_own_s2_retained": clustered(
            own["abc_own_s2"],
            rows,
            unit="1",
            formula="ABC prompts: logit of the name in the slot of IO minus the subject's / mean logit difference",
            cluster="frames",
            denominators=original,
            controls={"abc_own": own["abc_own"]},
        ),
    }
    for version, sign in (("nouns_redrawn", 1), ("names_swapped", -1)):  # swapped: the answer is the other name now
        kept = sign * column(version, "difference")
        metrics[f"{version}_retained"] = clustered(
            kept, rows, unit="1", formula=retained, denominators=original, controls={"abc": abc, **own}
        )
    for order in ("ABBA", "BABA"):
        kept_rows = [index for index, row in enumerate(rows) if row.order == order]
        metrics[f"logit_difference_{order.lower()}"] = clustered(
            original[kept_rows], [rows[i] for i in kept_rows], unit="logits", formula=DIFFERENCE
        )
    return metrics


def measure_adversarial(
    made: list[Adversarial],
    rows: list[Prompt],
    logits: Float[np.ndarray, "made two"],
    probs: Float[np.ndarray, "made two"],
    plain_logits: Float[np.ndarray, "prompt two"],
    plain_probs: Float[np.ndarray, "prompt two"],
) -> dict[str, Metric]:
    """Logit difference, P(IO) and share with S above IO after a sentence about IO, and the drop that it causes.

    Args:
        made: adversarial prompts.
        rows: all plain prompts.
        logits: of IO and S on each adversarial prompt.
        probs: their probabilities.
        plain_logits: of IO and S on each plain prompt.
        plain_probs: their probabilities.
    """
    which = {extra: [row for row, item in enumerate(made) if item.extra == extra] for extra in EXTRAS}
    index = [made[row].index for row in which["io"]]
    prompts = [rows[number] for number in index]
    difference = {extra: logits[of, 0] - logits[of, 1] for extra, of in which.items()}
    plain = plain_logits[index, 0] - plain_logits[index, 1]
    quantities = {
        "logit_difference": ("logits", DIFFERENCE, difference | {"plain": plain}),
        "probability_io": (
            "share",
            "mean P(IO) at END",
            {extra: probs[of, 0] for extra, of in which.items()} | {"plain": plain_probs[index, 0]},
        ),
        "s_above_io": (
            "share",
            "share of prompts with logit(S) > logit(IO)",
            {name: (values < 0).astype(np.float64) for name, values in (difference | {"plain": plain}).items()},
        ),
    }
    metrics = {
        f"adversarial_{name}": clustered(
            values["io"],
            prompts,
            unit=unit,
            formula=f"{text}, after a sentence about IO",
            controls={"no_sentence": values["plain"], "sentence_about_s": values["s"]},
        )
        for name, (unit, text, values) in quantities.items()
    }
    metrics["adversarial_drop"] = clustered(
        plain - difference["io"],
        prompts,
        unit="1",
        formula="drop of the logit difference by a sentence about IO / logit difference without it",
        denominators=plain,
        controls={"sentence_about_s": plain - difference["s"]},
    )
    return metrics


if __name__ == "__main__":
    run_step(baseline)
