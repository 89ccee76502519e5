"""Step: are the heads with the largest direct parts of a logit, the last edges of any graph, those that other
replications named?

On the IOI prompt, heads that path patching into the logits gave a class (`ioi_circuit`). On the induction prompt, heads
that attend to the token behind an earlier copy (`induction_heads`). Both are read from result files. The score is the
size of what a head carries to the likeliest token's logit. Controls: the length of what the head writes there, what it
carries on the other prompt, and shuffled names.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from common.core.errors import UserError
from common.core.files import read_json
from common.core.metrics import Metric, Uncertainty, write_metrics
from common.core.statistics import against_null, auroc, from_draws, with_control
from common.core.step import Files, run_step

DRAWS = 2000
PROMPTS = {"ioi": "induction", "induction": "ioi"}
"""and the other prompt"""
NO_CLASS = ("unclassified", "unstable")
FORMULA = "area under the ROC curve of {} against heads named by {}, bootstrap over named and other heads"


class LanguageHeadsFiles(Files):
    carried: Path
    ioi: Path
    """heads.csv of path patching"""
    induction: Path
    """roles.json of the language model"""
    metrics: Path


def language_heads(files: LanguageHeadsFiles) -> None:
    """One metric a prompt, where some head is named."""
    table = pd.read_csv(files.carried).set_index(["layer", "head"]).sort_index()
    if missing := sorted(set(PROMPTS) - set(table["prompt"])):
        raise UserError(f"{files.carried} has no prompt '{missing[0]}'; language.prompts in config.yaml must have it")
    of = {prompt: table[table["prompt"] == prompt] for prompt in PROMPTS}
    patched = pd.read_csv(files.ioi).set_index(["layer", "head"])["logits_class"].reindex(of["ioi"].index)
    roles = {tuple(head) for head in read_json(files.induction)["induction"]}
    named = {
        "ioi": (patched.notna() & ~patched.isin(NO_CLASS)).to_numpy(),
        "induction": np.array([place in roles for place in of["induction"].index]),
    }
    metrics = {}
    for prompt, other in PROMPTS.items():
        if 0 < named[prompt].sum() < len(named[prompt]):
            scores = {"carried": of[prompt]["carried"], "write_norm": of[prompt]["wrote"]}
            scores["other_prompt"] = of[other]["carried"]
            sizes = {name: one.abs().to_numpy() for name, one in scores.items()}
            metrics[f"named_{prompt}"] = agreement(sizes.pop("carried"), sizes, named[prompt], prompt)
    write_metrics(files.metrics, metrics)


def agreement(
    score: Float[np.ndarray, " head"],
    controls: Mapping[str, Float[np.ndarray, " head"]],
    named: Bool[np.ndarray, " head"],
    source: str,
) -> Metric:
    """AUROC of a score against names, beside other scores and shuffled names; named and other heads resampled apart."""
    draw = np.random.default_rng(0)
    chosen = np.concatenate(
        [draw.choice(np.flatnonzero(part), (DRAWS, part.sum())) for part in (named, ~named)], axis=1
    )
    sorted_names = np.arange(len(named)) < named.sum()
    of = Uncertainty(unit="heads", count=len(named))

    def ranked(name: str, values: Float[np.ndarray, " head"]) -> tuple[Metric, Float[np.ndarray, " draw"]]:
        draws = auroc(values[chosen].T, sorted_names)
        formula = FORMULA.format(name, source)
        value = float(auroc(values, named))
        return from_draws(value, draws, n=len(named), unit="share", formula=formula, uncertainty=of), draws

    effect, draws = ranked("what is carried", score)
    found = effect
    for name, values in controls.items():
        control, others = ranked(name.replace("_", " "), values)
        gap = effect.value - control.value
        apart = from_draws(gap, draws - others, n=len(named), unit="share", formula="", uncertainty=of)
        found = with_control(found, name, control, apart)
    null = np.array([float(auroc(score, draw.permutation(named))) for _ in range(DRAWS)])
    return against_null(found, null, name="shuffled_names")


if __name__ == "__main__":
    run_step(language_heads)
