"""Scoring candidates for the refusal direction: many candidates in one pass, against one candidate at a time.

Both sides score bypass, induce and KL of the same candidates on the same 32 harmful and 32 harmless requests, in the
default model. The other side does what the paper's released code does: hooks for one candidate, batches of 32 prompts,
logits of all positions. Ours puts candidates on the batch axis, unembeds the last position only, and runs the blocks
below an addition once for all candidates.
"""

import itertools
import time
from collections.abc import Iterator

import torch

from benchmarks import Row, default_model
from common.models import fast_dtype, load_tokenizer
from replications.refusal_direction.chat import ablating, adding, chat_batch, first_token_kl, refusal_metric
from replications.refusal_direction.folders import load
from replications.refusal_direction.lists import Class, load_lists
from replications.refusal_direction.search import ablation_scores, addition_scores

PROMPTS, EVERY, ROWS = 32, 4, 160


def requests(name: Class) -> list[str]:
    """The first requests of a class, one phrase of every topic before the next."""
    lists = load_lists()
    phrases = itertools.chain(*zip(*lists.classes[name].values(), strict=True))
    return [lists.shapes[0].format(phrase) for phrase in itertools.islice(phrases, PROMPTS)]


def compare() -> Iterator[Row]:
    """One row: candidates at every fourth layer below 0.8 of the depth."""
    folder = default_model()
    tokenizer, model = load_tokenizer(folder), load(folder / "manifest.json", fast_dtype(), "cpu")
    harmful, harmless = (chat_batch(tokenizer, requests(name)) for name in ("harmful", "harmless"))
    at = torch.arange(0, int(0.8 * len(model.model.layers)), EVERY)
    vectors = 5 * torch.randn(len(at), model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([57, 504, 2683])
    start = time.perf_counter()
    bypass, kl = ablation_scores(model, harmful, harmless, vectors, tokens, ROWS)
    induce = addition_scores(model, harmless, vectors, at, tokens, ROWS)
    ours = time.perf_counter() - start

    @torch.inference_mode()
    def logits(batch) -> torch.Tensor:  # type: ignore[no-untyped-def]
        options = {"attention_mask": batch.mask, "position_ids": batch.places, "use_cache": False}
        last: torch.Tensor = model(batch.ids, **options).logits[:, -1].float()
        return last

    gap, start = 0.0, time.perf_counter()
    base = logits(harmless)
    for number, vector in enumerate(vectors):
        with ablating(model, vector):
            one, apart = refusal_metric(logits(harmful), tokens), first_token_kl(base, logits(harmless))
        with adding(model, int(at[number]), vector):
            added = refusal_metric(logits(harmless), tokens)
        for mine, theirs in ((bypass[number], one), (kl[number], apart), (induce[number], added)):
            gap = max(gap, float((mine.mean() - theirs.mean()).abs()))
    theirs_time = time.perf_counter() - start
    yield Row(
        f"three scores of {len(at)} candidate directions, {PROMPTS} + {PROMPTS} requests",
        ours,
        "one candidate at a time, batches of 32, all positions unembedded",
        theirs_time,
        f"differ by at most {gap:.2f} nats ({str(model.dtype).removeprefix('torch.')})",
    )
