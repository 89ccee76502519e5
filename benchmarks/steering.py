"""Steering a grid of directions, multipliers and prompts: `common.interp.generation` against Hugging Face's `generate`.

Instead: one batch of `generate` with one hook that steers every row with its own vector, prompts padded on the left, KV
cache on. Both sides run in the same dtype and take the most likely token. In bfloat16 rounding depends on the batch, so
the share of equal tokens is given.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks import Task, default_model
from common.data.models import load_tokenizer
from common.interp.generation import Sampler, edited, generate, load_writer
from common.saes.steering import Steering
from replications.feature_steering.concepts import CALIBRATION_QUESTIONS, asked

HOOK = "blocks.12.hook_resid_pre"
ROWS, NEW_TOKENS = 48, 24


def tasks() -> Iterator[Task]:
    """One task: `ROWS` texts, each with its own direction, multiplier and prompt."""
    folder = default_model()
    tokenizer, writer = load_tokenizer(folder), load_writer(folder)
    prompts = [asked(tokenizer, question) for question in CALIBRATION_QUESTIONS]
    rows = torch.arange(ROWS) % len(prompts)
    directions = torch.nn.functional.normalize(
        torch.randn(ROWS, writer.config.hidden_size, generator=torch.Generator().manual_seed(0)), dim=1
    )
    steering = Steering("add", torch.linspace(5.0, 40.0, ROWS), direction=directions)

    def ours(new_tokens: int = NEW_TOKENS) -> Tensor:
        return generate(writer, prompts, rows, HOOK, steering, new_tokens, Sampler(0.0, rows, 0, []))

    wide = max(map(len, prompts))
    pad = tokenizer.pad_token_id or 0
    tokens = torch.tensor([[pad] * (wide - len(prompts[row])) + prompts[row] for row in rows.tolist()])
    mask = torch.tensor([[0] * (wide - len(prompts[row])) + [1] * len(prompts[row]) for row in rows.tolist()])

    def last(x: Tensor) -> Tensor:
        return torch.cat([x[:, :-1], steering(x[:, -1:])], 1)

    def theirs(new_tokens: int = NEW_TOKENS) -> Tensor:
        with torch.inference_mode(), edited(writer, HOOK, last):
            found = writer.generate(
                tokens, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, eos_token_id=None,
                pad_token_id=pad, use_cache=True,
            )  # fmt: skip
        return found[:, wide:]  # type: ignore[no-any-return]

    ours(2)  # the first calls are slower
    theirs(2)
    dtype = str(writer.dtype).removeprefix("torch.")
    yield Task(
        f"{ROWS} steered texts of {NEW_TOKENS} tokens, {dtype}",
        ours,
        "one batch of Hugging Face `generate` with one hook",
        theirs,
        lambda mine, other: f"{float((mine == other).float().mean()):.0%} of tokens equal",
    )
