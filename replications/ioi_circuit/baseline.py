"""Step: does the model do the task? Logit difference, share of prompts with IO above S, P(IO), and their controls.

logit_difference   mean over prompts of logit(IO) - logit(S) at END
share_io_above_s   share of prompts with logit(IO) > logit(S)
probability_io     mean P(IO) at END
retained           mean logit difference of a counterfactual / mean logit difference of the original prompts

The control is the ABC partner, whose three names have no roles. Scored on the *original* names (`abc`) it is near zero
by construction, as those do not occur in it. So it is also scored on its own slots. `abc_own` is the name in the slot
of IO minus that in the slot of S1: both occur once, in the same clause. `abc_own_s2` is the name in the slot of IO
minus that of the subject: how far naming somebody as the subject is enough to rule the name out.

Two baselines tell two things apart. ABC prompts remove who the subject is, and with it all roles; what is left between
their subject and the name in the slot of IO needs no repetition. Flipped prompts (S2 <- IO) keep both names and change
only which of them came twice; the answer must turn round.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from safetensors import safe_open

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, run_step
from common.core.tables import write_table
from replications.ioi_circuit.dataset import VERSIONS, Prompt, read_prompts
from replications.ioi_circuit.prompt_statistics import PerPrompt, clustered, role_flips
from replications.ioi_circuit.settings import Baseline

DIFFERENCE = "mean of logit(IO) - logit(S) at END"
OWN_SLOTS = {"abc_own": 1, "abc_own_s2": 2}
"""Slot of an ABC prompt whose name is set against that in the slot of IO."""
Slots = Float[np.ndarray, "prompt slot"]


class BaselineFiles(Files):
    prompts: Path
    activations: Path
    metrics: Path
    answers: Path
    """one row per prompt and version; IO and S are always those of the original prompt"""


def baseline(files: BaselineFiles, settings: Baseline) -> None:
    """Writes `metrics.json` and one row per prompt and version."""
    rows = read_prompts(files.prompts)
    table = read_answers(files.activations, rows)
    with safe_open(files.activations, framework="np") as stored:
        slots, slot_probs = (stored.get_tensor(f"{name}.abc").astype(np.float64) for name in ("slots", "slot_probs"))
    write_metrics(files.metrics, measure(table, rows, slots, slot_probs, settings.shuffles))
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
    """All metrics. `slots` are logits of the three names of each ABC prompt."""

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
        "logit_difference": clustered(original, rows, unit="logits", formula=DIFFERENCE, controls={"abc": abc, **own}),
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
            denominators=original,
            controls={"abc_own": own["abc_own"]},
        ),
    }
    for version, sign in (("nouns_redrawn", 1), ("roles_flipped", -1)):  # flipped: the answer is the other name now
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


if __name__ == "__main__":
    run_step(baseline)
