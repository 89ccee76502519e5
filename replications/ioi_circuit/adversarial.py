"""Adversarial prompts (Wang et al. 2022, appendix I and figure 8): a neutral sentence about one of the two names.

"Then, Mary and John walked to the store. *Mary had a good day.* John gave a drink to": now both names occur twice, so
heads that tell which name came twice are misled. The same sentence about S, which was there twice already, is the
control. The sentence stands between the two sentences of a prompt, so templates of one sentence have no such version.
Five forms in our own wording, dealt in turn.
"""

from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float

from common.core.errors import UserError
from common.core.metrics import Metric
from replications.ioi_circuit.clustering import clustered
from replications.ioi_circuit.dataset import Adversarial, Prompt, Vocabulary
from replications.ioi_circuit.wording import EXTRA_SENTENCES

EXTRAS: tuple[Literal["s", "io"], ...] = ("s", "io")


def draw_adversarial(words: Vocabulary, prompts: list[Prompt], count: int) -> list[Adversarial]:
    """Both versions of `count` prompts, dealt over seeds, templates and orders; fewer if there are not so many."""
    fitting = [(index, row) for index, row in enumerate(prompts) if f". {row.s} " in row.versions["original"].text]
    chosen = [fitting[turn * len(fitting) // count] for turn in range(count)] if count < len(fitting) else fitting
    made = []
    for turn, (index, row) in enumerate(chosen):
        first, second = row.versions["original"].text.split(f". {row.s} ")
        for extra in EXTRAS:
            name = row.s if extra == "s" else row.io
            sentence = EXTRA_SENTENCES[turn % len(EXTRA_SENTENCES)].format(name=name)
            text = f"{first}. {sentence} {row.s} {second}"
            tokens = words.encode(text)
            if (tokens.count(row.s_id), tokens.count(row.io_id)) != ((3, 1) if extra == "s" else (2, 2)):
                raise UserError(
                    f"this tokenizer does not write each name of '{text}' as one token; take that name out of "
                    "replications/ioi_circuit/wording.py"
                )
            made.append(Adversarial(index=index, extra=extra, text=text, tokens=tokens))
    return made


def measure_adversarial(
    made: list[Adversarial],
    rows: list[Prompt],
    logits: Float[np.ndarray, "made two"],
    probs: Float[np.ndarray, "made two"],
    own: Float[np.ndarray, "prompt two"],
    own_probs: Float[np.ndarray, "prompt two"],
) -> dict[str, Metric]:
    """Logit difference, P(IO) and share with S above IO, without and with each sentence; and the drop it causes.

    `logits` and `probs` hold IO and S of each adversarial prompt, `own` and `own_probs` those of all plain prompts.
    """
    metrics: dict[str, Metric] = {}
    drops = {}
    for extra in EXTRAS:
        which = [row for row, item in enumerate(made) if item.extra == extra]
        index = [made[row].index for row in which]
        prompts = [rows[number] for number in index]
        plain, difference = (x[:, 0] - x[:, 1] for x in (own[index], logits[which]))
        drops[extra] = (plain - difference, plain, prompts)
        versions = {f"extra_{extra}": (difference, probs[which, 0]), "plain": (plain, own_probs[index, 0])}
        for name, (values, probability) in versions.items():
            share = partial(clustered, prompts=prompts, unit="share")
            metrics |= {
                f"adversarial_{name}": clustered(
                    values, prompts, unit="logits", formula="mean of logit(IO) - logit(S) at END"
                ),
                f"adversarial_{name}_probability_io": share(probability, formula="mean P(IO) at END"),
                f"adversarial_{name}_s_above_io": share(
                    (values < 0).astype(np.float64), formula="share of prompts with logit(S) > logit(IO)"
                ),
            }
    text = "drop of the logit difference by a sentence about {} / logit difference without it"
    for extra, (drop, plain, prompts) in drops.items():
        metrics[f"adversarial_drop_{extra}"] = clustered(
            drop, prompts, unit="1", formula=text.format(extra.upper()), denominators=plain
        )
    misled = {extra: (logits[:, 0] < logits[:, 1])[[item.extra == extra for item in made]] for extra in EXTRAS}
    metrics["adversarial_s_above_io_difference"] = clustered(
        misled["io"].astype(np.float64) - misled["s"],
        drops["io"][2],
        unit="share",
        formula="share with S above IO: sentence about IO minus sentence about S",
    )
    (by_io, plain, prompts), by_s = drops["io"], drops["s"][0]
    metrics["adversarial_drop_io_minus_s"] = clustered(
        by_io - by_s, prompts, unit="1", formula="drop by IO minus drop by S", denominators=plain
    )
    return metrics
