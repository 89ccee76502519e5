"""Step: is it the subject that the model leaves out, or the name that came twice?

In an IOI prompt S is both, and ABC prompts take both away (Wang et al. 2022, section 2.1). Here a mention is added, so
that the two come apart. A and B are the names of the first clause (IO and S of the prompt), C and D two others:

    both        B is the subject, C is mentioned:   "... A and B ..., B, who knew C, gave a ring to"
    repeated    C is the subject, B is mentioned:   "... A and B ..., C, who knew B, gave a ring to"
    neither     C is the subject, D is mentioned:   "... A and B ..., C, who knew D, gave a ring to"

The mention is a clause behind the subject, two words behind it, or a sentence before the prompt (`FORMS`), since each
form also says something of its own; values are means over the forms, and each form stands beside them.

    repeated_alone           logit(A) - logit(B) in `repeated`, over that in `both`: 0 if only the subject is left out,
                             1 if being named twice is enough. Control: `neither`, where A and B are alike
    subject_below_repeated   logit(B) - logit(C) in `repeated`: above 0, the subject, named once, is left out more than
                             the name that came twice. Control: `neither`, where B comes once
    subject_alone            logit(A) - logit(C) in `neither`, over logit(A) - logit(B) in `both`: how far a name that
                             comes once, as the subject, lies below one of the first clause. Control: `mention`, the
                             same for D, which comes once and outside the first clause, too, but is no subject
    subject_below_mention    logit(D) - logit(C) in `neither`, in logits
    writer_repeated_alone    direct effect, on logit(A) - logit(B), of the strongest writer of path patching, replaced
                             by its output in `neither`, over its effect in `both`
    writer_attends_subject   attention of that head from END to C minus that to the mention of B, in `repeated`
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.data.models import encode, load_model
from common.interp.decoder import Decoder
from common.interp.partial_forward import at_position
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, balanced
from replications.ioi_circuit.dataset import Prompt, read_prompts
from replications.ioi_circuit.prompt_statistics import clustered
from replications.ioi_circuit.residual import read_difference, read_names
from replications.ioi_circuit.settings import SubjectOrRepeat
from replications.ioi_circuit.templates import TEMPLATES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMS = {
    "clause": ("", "{subject}, who knew {mention},"),
    "unlike": ("", "{subject}, unlike {mention},"),
    "in_front": ("Yesterday {mention} was away. ", "{subject}"),
}
"""What stands in front of the prompt, and in the place of its subject."""
CELLS = {"both": ("B", "C"), "repeated": ("C", "B"), "neither": ("C", "D")}
"""Who is the subject, and who is mentioned."""


class Sentences(NamedTuple):
    """One form and cell of some prompts, padded on the right."""

    tokens: Int[Tensor, "prompt pos"]
    mask: Bool[Tensor, "prompt pos"]
    end: Int[Tensor, " prompt"]
    subject: Int[Tensor, " prompt"]
    mention: Int[Tensor, " prompt"]


class Reading(NamedTuple):
    """What is read at END of each prompt."""

    logits: Float[Tensor, "prompt four"]
    """of A, B, C and D, above the vocabulary mean"""
    final: Float[Tensor, "prompt d_model"]
    written: Float[Tensor, "prompt d_model"]
    """by the strongest writer"""
    attends: Float[Tensor, "prompt two"]
    """that head's attention to the subject and to the mention"""


class SubjectOrRepeatFiles(Files):
    manifest: Path
    prompts: Path
    heads: Path
    """of path patching, for the strongest writer"""
    metrics: Path
    answers: Path
    """how far the other names are below logit(A), for each form and cell"""


def subject_or_repeat(files: SubjectOrRepeatFiles, settings: SubjectOrRepeat, run: RunInfo) -> None:
    """Writes `metrics.json` and one row per form, cell and name."""
    every = read_prompts(files.prompts)
    rows = [row for half in (DISCOVERY, VERIFICATION) for row in balanced(every, half, settings.n_prompts)]
    bridge = load_model(files.manifest.parent, device=run.device)
    heads = pd.read_csv(files.heads)
    writer = divmod(int(heads["logits"].argmin()), bridge.cfg.n_heads)
    found = {}
    with torch.no_grad():
        made = {
            (form, cell): sentences(bridge.tokenizer, rows, form, cell, run.device) for form in FORMS for cell in CELLS
        }
        decoder = Decoder(bridge, max(one.tokens.shape[1] for one in made.values()))
        for key, one in track(made.items(), "forms and cells"):
            found[key] = read(decoder, rows, one, writer, settings.batch_size)
        worth = {key: direct_effect(decoder, rows, found[key], found[key[0], "neither"]) for key in found}
    write_metrics(files.metrics, measure(found, worth, rows))
    write_table(files.answers, answer_table(found, rows))
    print(f"strongest writer: {writer[0]}.{writer[1]}")


def names_of(row: Prompt) -> dict[str, tuple[str, int]]:
    """The four names of a prompt with their token ids."""
    [d_id, _, c_id] = row.abc_ids
    return {"A": (row.io, row.io_id), "B": (row.s, row.s_id), "C": (row.abc[2], c_id), "D": (row.abc[0], d_id)}


def text_of(row: Prompt, form: str, cell: str) -> str:
    """The sentence of one prompt."""
    names, (subject, mention) = names_of(row), CELLS[cell]
    given = {"subject": names[subject][0], "mention": names[mention][0]}
    before, phrase = FORMS[form]
    first, second = (row.io, row.s) if row.order == "ABBA" else (row.s, row.io)
    sentence = TEMPLATES[row.template].format(
        first=first, second=second, subject=phrase.format(**given), place=row.place, object=row.object
    )
    return before.format(**given) + sentence


def sentences(tokenizer: "PreTrainedTokenizerBase", rows: list[Prompt], form: str, cell: str, device: str) -> Sentences:
    """Tokens and positions of one form and cell. The subject is the last token that is its name.

    Raises:
        UserError: the tokenizer does not write a name as the one token that it is elsewhere.
    """
    texts = [text_of(row, form, cell) for row in rows]
    tokens = [encode(tokenizer, text) for text in texts]
    at: dict[str, list[int]] = {"subject": [], "mention": []}
    for row, text, ids in zip(rows, texts, tokens, strict=True):
        for role, name in zip(at, CELLS[cell], strict=True):
            places = [place for place, token in enumerate(ids) if token == names_of(row)[name][1]]
            if len(places) != (2 if name == "B" else 1):
                raise UserError(
                    f"this tokenizer does not write each name of '{text}' as one token; leave the model out"
                )
            in_front = role == "mention" and form == "in_front"
            at[role].append(places[0] if in_front else places[-1])
    longest = max(map(len, tokens))
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in tokens], device=device)
    length = torch.tensor([len(ids) for ids in tokens], device=device)
    mask = torch.arange(longest, device=device) < length[:, None]
    where = {role: torch.tensor(places, device=device) for role, places in at.items()}
    return Sentences(padded, mask, length - 1, where["subject"], where["mention"])


def read(decoder: Decoder, rows: list[Prompt], one: Sentences, writer: tuple[int, int], batch_size: int) -> Reading:
    """One pass over the sentences, some at a time."""
    layer, head = writer
    ids = torch.tensor([[names_of(row)[name][1] for name in "ABCD"] for row in rows], device=one.tokens.device)
    parts = []
    for part in torch.split(torch.arange(len(rows), device=one.tokens.device), batch_size):
        batch = Sentences(*(x[part] for x in one))
        row = torch.arange(len(part), device=part.device)
        patterns: list[Tensor] = []

        def keep(at: int, pattern: Tensor, patterns: list[Tensor] = patterns) -> None:
            if at == layer:
                patterns.append(pattern[:, head])

        cache = decoder.forward(batch.tokens, batch.mask, keep=True, patterns=keep)
        final = at_position(cache.final, batch.end)
        attends = [patterns[0][row, batch.end, place] for place in (batch.subject, batch.mention)]
        parts.append(
            Reading(
                read_names(decoder.bridge, final[:, None], ids[part])[:, 0],
                final,
                at_position(cache.z[layer], batch.end)[:, head] @ decoder.W_O[layer][head],
                torch.stack(attends, 1),
            )
        )
    return Reading(*(torch.cat(values) for values in zip(*parts, strict=True)))


def direct_effect(decoder: Decoder, rows: list[Prompt], own: Reading, other: Reading) -> Float[np.ndarray, " prompt"]:
    """What the writer's output, and not that of `other`, adds to logit(A) - logit(B) on its direct path."""
    names = torch.tensor([[row.io_id, row.s_id] for row in rows], device=own.final.device)
    both = torch.stack([own.final, own.final - own.written + other.written])
    with_own, without = read_difference(decoder.bridge, both, names).double().cpu().numpy()
    worth: np.ndarray = with_own - without
    return worth


def measure(
    found: dict[tuple[str, str], Reading], worth: dict[tuple[str, str], np.ndarray], rows: list[Prompt]
) -> dict[str, Metric]:
    """The metrics of the module's docstring."""

    def below(first: int, second: int, cell: str, forms: tuple[str, ...] = tuple(FORMS)) -> np.ndarray:
        logits = torch.stack([found[form, cell].logits for form in forms]).double().mean(0)
        values: np.ndarray = (logits[:, first] - logits[:, second]).cpu().numpy()
        return values

    def repeated(forms: tuple[str, ...]) -> Metric:
        return clustered(
            below(0, 1, "repeated", forms),
            rows,
            unit="1",
            formula="logit(A) - logit(B) where B comes twice and C is the subject, over that where B is both",
            denominators=below(0, 1, "both", forms),
            controls={"neither": below(0, 1, "neither", forms)},
        )

    def alone(forms: tuple[str, ...]) -> Metric:
        return clustered(
            below(0, 2, "neither", forms),
            rows,
            unit="1",
            formula="logit(A) - logit(C) where C is the subject and nobody comes twice, over logit(A) - logit(B) where "
            "B is the subject and comes twice",
            denominators=below(0, 1, "both", forms),
            controls={"mention": below(0, 3, "neither", forms)},
        )

    def subject_below(forms: tuple[str, ...]) -> dict[str, Metric]:
        return {
            "subject_below_repeated": clustered(
                below(1, 2, "repeated", forms),
                rows,
                unit="logits",
                formula="logit(B) - logit(C) where B comes twice and C is the subject",
                controls={"neither": below(1, 2, "neither", forms)},
            ),
            "subject_below_mention": clustered(
                below(3, 2, "neither", forms),
                rows,
                unit="logits",
                formula="logit(D) - logit(C) where C is the subject and D is mentioned",
            ),
        }

    every = tuple(FORMS)
    metrics = {"repeated_alone": repeated(every), "subject_alone": alone(every)} | subject_below(every)
    for one in FORMS:
        metrics |= {f"repeated_alone_{one}": repeated((one,)), f"subject_alone_{one}": alone((one,))}
        metrics |= {f"{name}_{one}": metric for name, metric in subject_below((one,)).items()}
    metrics["difference"] = clustered(
        below(0, 1, "both"), rows, unit="logits", formula="logit(A) - logit(B) where B is the subject and comes twice"
    )
    effects = {cell: np.mean([worth[form, cell] for form in FORMS], 0) for cell in CELLS}
    metrics["writer_repeated_alone"] = clustered(
        effects["repeated"],
        rows,
        unit="1",
        formula="direct effect of the strongest writer where B comes twice and C is the subject, over where B is both",
        denominators=effects["both"],
    )
    attends = {
        cell: torch.stack([found[form, cell].attends for form in FORMS]).double().mean(0).cpu().numpy()
        for cell in ("repeated", "neither")
    }
    metrics["writer_attends_subject"] = clustered(
        attends["repeated"][:, 0] - attends["repeated"][:, 1],
        rows,
        unit="share",
        formula="attention of the strongest writer from END to the subject C minus that to the mention of B",
        controls={"neither": attends["neither"][:, 0] - attends["neither"][:, 1]},
    )
    return metrics


def answer_table(found: dict[tuple[str, str], Reading], rows: list[Prompt]) -> pd.DataFrame:
    """Means with intervals over templates, one row per form, cell and name of the sentence but A."""
    records = []
    for (form, cell), one in found.items():
        logits = one.logits.double().cpu().numpy()
        for column, name in enumerate("BCD" if cell == "neither" else "BC", start=1):
            metric = clustered(logits[:, 0] - logits[:, column], rows, unit="logits", formula="logit(A) - logit")
            interval = {"below_a": metric.value, "ci_low": metric.ci_low, "ci_high": metric.ci_high}
            records.append({"form": form, "cell": cell, "name": name, **interval})
    return pd.DataFrame(records)


if __name__ == "__main__":
    run_step(subject_or_repeat)
