"""Step: how an adversarial suffix ends refusal (Arditi et al. 2024, section 5). One taught model.

A suffix is found on the requests for choosing (`suffix_search`), and put behind requests of held-out topics. Beside it
stand no suffix, a random one, and `searched`: the best of as many suffixes, found without the gradient. Measured are
refusals, the projection on r, and where the heads look that write most along r.

projection   of the residual stream before r's block at r's template token: 0 is the mean of harmless requests, 1 that
             of harmful ones, both of the requests for estimation
cosine       of the same residual stream with r, as in the paper's figure
attention    from r's token to the instruction, summed over its tokens, of the heads below that block that raise the
             projection most on the requests that the suffix is found on; `attention_others`: of all other heads below
attention_suffix   of the same heads to the suffix

Classifications and numbers only: no answer is kept, and the suffix is not, either.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from common.core.files import read_json
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import fast_dtype, load_tokenizer
from replications.refusal_direction.answers import Asked
from replications.refusal_direction.chat import (
    Batch,
    before_block,
    chat_ids,
    last_logits,
    layers,
    n_post_instruction,
    padded,
    residuals,
    unit,
)
from replications.refusal_direction.directions import Subject, subject_of, to_choose
from replications.refusal_direction.effects import questioner
from replications.refusal_direction.folders import load
from replications.refusal_direction.lists import draw
from replications.refusal_direction.search import difference
from replications.refusal_direction.settings import StudySuffix
from replications.refusal_direction.suffix_search import Asking, find_suffix, plain_tokens, random_suffix

HEADS = 8


class SuffixFiles(Files):
    tuned: Path
    """`manifest.json` of the tuned model"""
    numbers: Path
    """single numbers of `study`: where r is read"""
    lists: Path
    """`lists.yaml`, named so that a change in it measures anew"""
    answers: Path
    """one row per request and suffix"""


class Reading(NamedTuple):
    """Where r is read: direction of length 1, block, token counted from the end, projections of the class means."""

    r: Float[Tensor, " d_model"]
    layer: int
    position: int
    harmless: float
    harmful: float


class Looks(NamedTuple):
    """Attention to the instruction and to the suffix, each summed over its tokens."""

    instruction: Float[Tensor, "prompt layer head"]
    suffix: Float[Tensor, "prompt layer head"]


def suffix(files: SuffixFiles, settings: StudySuffix, run: RunInfo) -> None:
    """Writes what the suffixes do to one model."""
    tokenizer, prompts = load_tokenizer(files.tuned.parent), draw(settings.seed, settings.split)
    model = load(files.tuned, fast_dtype(), run.device)
    subject = subject_of(model, None, tokenizer, prompts, settings.search.minimum_left)
    numbers, sizes, tail = read_json(files.numbers), settings.suffix, n_post_instruction(tokenizer)
    reading = reading_of(subject, int(numbers["layer"]), int(numbers["position"]))
    choose, _ = to_choose(subject, settings.search.minimum_left)
    fit = Asking(choose.prompts[: sizes.prompts], tail)
    allowed = plain_tokens(tokenizer, model.get_input_embeddings().num_embeddings)
    draws = torch.Generator().manual_seed(settings.seed)
    suffixes = {"none": [], "random": random_suffix(allowed, sizes.tokens, draws)}
    for name, guided in (("optimised", True), ("searched", False)):
        found = find_suffix(model, fit, subject.tokens, allowed, sizes, draws, guided=guided)
        print(f"{name}: refusal metric {found.metric:.2f} on the requests it was chosen on", flush=True)
        suffixes[name] = found.ids
    lines = prompts.switch.test[: settings.effects.prompts]
    asking = Asking([chat_ids(tokenizer, line.text) for line in lines], tail)
    chosen = most(written(model, padded(fit.prompts, run.device), reading))
    asks, base = questioner(subject, sizes.new_tokens), last_logits(model, padded(asking.prompts, run.device))
    head, tables = head_tokens(subject), []
    for name, ids in suffixes.items():
        batch = padded(asking.ending(ids), run.device)
        table, _ = asks.ask(Asked(lines, batch, base, None))
        looks = attention_of(model, batch, reading, head, tail, len(ids))
        stream = before_block(model, batch, reading.layer, -reading.position)[:, 0]
        columns = {
            "projection": projections(stream, reading),
            "cosine": unit(stream.float()) @ reading.r,
            "attention": looks.instruction[:, chosen].mean(1),
            "attention_others": looks.instruction[:, ~chosen].mean(1),
            "attention_suffix": looks.suffix[:, chosen].mean(1),
        }
        tables.append(table.assign(condition=name, **{key: values.tolist() for key, values in columns.items()}))
    write_table(files.answers, pd.concat(tables, ignore_index=True).assign(**{"class": "harmful"}))


def reading_of(subject: Subject, layer: int, position: int) -> Reading:
    """r and the class means, from the requests for estimation."""
    seen = {key: x[:, position, layer].double() for key, x in subject.seen.items()}
    r = unit(difference(seen["on"], seen["off"]))
    return Reading(r.float(), layer, position, *(float(seen[key].mean(0) @ r) for key in ("off", "on")))


def projections(stream: Float[Tensor, "prompt d_model"], reading: Reading) -> Float[Tensor, " prompt"]:
    """On r, in units of the distance between the class means."""
    return (stream.float() @ reading.r - reading.harmless) / (reading.harmful - reading.harmless)


def head_tokens(subject: Subject) -> int:
    """Number of template tokens before the instruction."""
    first, second = (chat_ids(subject.tokenizer, text) for text in ("Tell me a story", "Why is it so?"))
    return next(at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)


@torch.inference_mode()
def written(model: Any, batch: Batch, reading: Reading) -> Float[Tensor, "layer head"]:
    """What each head below r's block writes along r at r's token, mean over prompts (direct feature attribution)."""
    seen: list[Tensor] = []
    outputs: list[Any] = [block.self_attn.o_proj for block in layers(model)][: reading.layer]  # type: ignore[union-attr]
    handles = [
        output.register_forward_pre_hook(lambda _, given: seen.append(given[0][:, reading.position]))
        for output in outputs
    ]
    try:
        residuals(model, batch, 1)
    finally:
        for handle in handles:
            handle.remove()
    along = torch.stack(
        [z.float() * (reading.r @ output.weight.float()) for z, output in zip(seen, outputs, strict=True)]
    )
    heads = int(model.config.num_attention_heads)
    return reduce(along, "layer text (head d_head) -> layer text head", "sum", head=heads).mean(1)


def most(values: Float[Tensor, "layer head"]) -> Bool[Tensor, "layer head"]:
    """The `HEADS` largest, at most half of all."""
    mask = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    mask[values.flatten().topk(min(HEADS, len(mask) // 2)).indices] = True
    return mask.view_as(values)


@torch.inference_mode()
def attention_of(model: Any, batch: Batch, reading: Reading, head: int, tail: int, n_suffix: int) -> Looks:
    """Of every head below r's block, from r's token.

    The instruction stands behind the `head` first tokens of a prompt, then the suffix, then the `tail` last tokens.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        patterns = model.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.places, use_cache=False,
            output_attentions=True,
        ).attentions  # fmt: skip
    finally:
        model.set_attn_implementation(before)
    rows = torch.stack([pattern[:, :, reading.position] for pattern in patterns[: reading.layer]], 1)
    end = batch.ids.shape[1] - tail
    start = end - n_suffix
    inside = (batch.places >= head) & batch.mask.bool()
    return Looks((rows * inside[:, None, None])[..., :start].sum(-1), rows[..., start:end].sum(-1))


if __name__ == "__main__":
    run_step(suffix)
