"""Steering a grid of directions, multipliers and prompts: one batch, against one generation at a time.

Instead: what a TransformerLens user writes, `TransformerBridge.generate` with a hook and a KV cache, once for every
direction, multiplier and prompt (here timed on a few and scaled to all). Both sides run in the same dtype and take the
most likely token; rounding depends on the batch in bfloat16, so the share of equal tokens is given.
"""

import time
from collections.abc import Iterator

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from benchmarks import Row, default_model
from common.data.models import fast_dtype, load_model, load_tokenizer
from common.interp.generation import Sampler, generate, load_writer
from common.saes.steering import Steering
from replications.feature_steering.concepts import CALIBRATION_QUESTIONS, asked

HOOK = "blocks.12.hook_resid_pre"
ROWS, NEW_TOKENS, ALONE = 240, 24, 4


def compare() -> Iterator[Row]:
    """One row: 240 texts of 24 tokens, each with its own direction, multiplier and prompt."""
    folder = default_model()
    tokenizer = load_tokenizer(folder)
    prompts = [asked(tokenizer, question) for question in CALIBRATION_QUESTIONS]
    rows = torch.arange(ROWS) % len(prompts)
    directions = torch.nn.functional.normalize(
        torch.randn(ROWS, 576, generator=torch.Generator().manual_seed(0)), dim=1
    )
    steering = Steering("add", torch.linspace(5.0, 40.0, ROWS), direction=directions)
    greedy = Sampler(0.0, rows, 0, [])
    writer = load_writer(folder)
    generate(writer, prompts, rows[:2], HOOK, steering.rows(torch.arange(2)), 2, Sampler(0.0, rows[:2], 0, []))
    start = time.perf_counter()
    found = generate(writer, prompts, rows, HOOK, steering, NEW_TOKENS, greedy)
    ours = time.perf_counter() - start
    bridge = load_model(folder, dtype=fast_dtype())
    chosen = torch.linspace(0, ROWS - 1, ALONE + 1).long()
    equal = []
    for number, row in enumerate(chosen.tolist()):
        if number == 1:  # the first one warms up
            start = time.perf_counter()
        tokens = alone(bridge, prompts[rows[row]], steering.rows(torch.tensor([row])))
        equal.append((tokens == found[row, : len(tokens)]).float().mean())
    theirs = (time.perf_counter() - start) / ALONE * ROWS
    yield Row(
        f"{ROWS} steered texts of {NEW_TOKENS} tokens",
        ours,
        "TransformerBridge.generate with a hook, one at a time",
        theirs,
        f"{float(torch.stack(equal).mean()):.0%} of tokens equal",
    )


def alone(bridge: TransformerBridge, prompt: list[int], steering: Steering) -> Tensor:
    """The new tokens of one text; the hook acts from the last prompt token on."""

    def edit(value: Tensor, hook: object) -> Tensor:
        return torch.cat([value[:, :-1], steering(value[:, -1:])], 1)

    with torch.no_grad(), bridge.hooks(fwd_hooks=[(HOOK, edit)]):
        output = bridge.generate(
            torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, stop_at_eos=False, verbose=False,
            return_type="tokens",
        )  # fmt: skip
    tokens: Tensor = output[0, len(prompt) :]
    return tokens
