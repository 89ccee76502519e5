"""Scoring candidates for the refusal direction: many candidates in one pass, against one candidate at a time.

Both sides score bypass, induce and KL of the same candidates on the same 32 harmful and 32 harmless requests, in the
default model. The other side does what the paper's released code does: hooks for one candidate, batches of 32 prompts,
logits of all positions. Ours puts candidates on the batch axis, runs what prompts begin with once within a candidate
and pads nothing, unembeds the last tokens only, and runs the blocks below an addition once for all candidates. The
requests are those among which a run chooses, in all shapes.
"""

import time
from collections.abc import Iterator

import torch

from benchmarks import Row, default_model
from common.core.errors import UserError
from common.data.models import fast_dtype, load_tokenizer
from replications.refusal_direction.chat import ablating, adding, chat_batch, first_token_kl, refusal_metric
from replications.refusal_direction.folders import load
from replications.refusal_direction.lists import draw
from replications.refusal_direction.search import scores
from replications.refusal_direction.settings import SplitSettings

AGREE = 0.2  # nats, in bfloat16
PROMPTS, POSITIONS, LAYERS, ROWS = 32, 4, (4, 12, 20), 160  # a run's layers are as deep on average, and it has more
SPLIT = {"tune": 1, "harmless_tune": 1, "risky_tune": 1, "estimate": 4, "test": 4, "risky_test": 4}  # not used here


def compare() -> Iterator[Row]:
    """One row: several candidates at each of some layers, as there is one for each template token."""
    folder = default_model()
    tokenizer, model = load_tokenizer(folder), load(folder / "manifest.json", fast_dtype(), "cpu")
    prompts = draw(0, SplitSettings(choose=PROMPTS, **SPLIT))
    lines = (prompts.switch.choose, prompts.harmless.choose)
    harmful, harmless = (chat_batch(tokenizer, [line.text for line in part]) for part in lines)
    at = torch.tensor(LAYERS).repeat_interleave(POSITIONS)
    vectors = 5 * torch.randn(len(at), model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([57, 504, 2683])
    start = time.perf_counter()
    bypass, kl, induce = scores(model, harmful, harmless, vectors, at, tokens, ROWS)
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
    if not gap < AGREE:
        raise UserError(f"scores of candidates differ by {gap:.2f} nats, which rounding does not explain")
    yield Row(
        f"three scores of {len(at)} candidate directions, {PROMPTS} + {PROMPTS} requests",
        ours,
        "one candidate at a time, batches of 32, all positions unembedded",
        theirs_time,
        f"differ by at most {gap:.2f} nats ({str(model.dtype).removeprefix('torch.')})",
    )
