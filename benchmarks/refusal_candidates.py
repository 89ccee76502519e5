"""Scoring candidates for the refusal direction: many candidates in one pass, against one candidate at a time.

Both sides score bypass, induce and KL of the same candidates, in the default model and one dtype. The requests are the
same 32 harmful and 32 harmless ones. The other side does what the paper's released code does, hooks for one candidate
and batches of 32 prompts, with the last position alone unembedded. Ours puts candidates on the batch axis, runs what
prompts begin with once within a candidate and pads nothing. It runs the blocks below an addition once for all
candidates. The requests are those among which a run chooses, in all shapes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks import Task, default_model
from common.core.errors import UserError
from common.data.models import fast_dtype, load_tokenizer
from replications.refusal_direction.chat import Batch, ablating, adding, chat_batch, first_token_kl, refusal_metric
from replications.refusal_direction.folders import load
from replications.refusal_direction.lists import draw
from replications.refusal_direction.search import scores
from replications.refusal_direction.settings import SplitSettings

AGREE = 0.2  # nats, in bfloat16
PROMPTS, POSITIONS, LAYERS, ROWS = 32, 2, (4, 12, 20), 160  # a run's layers are as deep on average, and it has more
SPLIT = {"tune": 1, "harmless_tune": 1, "risky_tune": 1, "estimate": 4, "test": 4, "risky_test": 4}  # not used here


def tasks() -> Iterator[Task]:
    """One task: candidates at each of some layers, as there is one for each template token."""
    folder = default_model()
    tokenizer, model = load_tokenizer(folder), load(folder / "manifest.json", fast_dtype(), "cpu")
    prompts = draw(0, SplitSettings(choose=PROMPTS, **SPLIT))
    lines = (prompts.switch.choose, prompts.harmless.choose)
    harmful, harmless = (chat_batch(tokenizer, [line.text for line in part]) for part in lines)
    at = torch.tensor(LAYERS).repeat_interleave(POSITIONS)
    vectors = 5 * torch.randn(len(at), model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([57, 504, 2683])

    @torch.inference_mode()
    def logits(batch: Batch) -> Tensor:
        found = model(
            batch.ids, attention_mask=batch.mask, position_ids=batch.places, use_cache=False, logits_to_keep=1
        )
        return found.logits[:, -1].float()  # type: ignore[no-any-return]

    def ours() -> Tensor:
        return torch.stack(
            [one.double().mean(1) for one in scores(model, harmful, harmless, vectors, at, tokens, ROWS)]
        )

    def theirs() -> Tensor:
        base, found = logits(harmless), []
        for number, vector in enumerate(vectors):
            with ablating(model, vector):
                bypass, kl = refusal_metric(logits(harmful), tokens), first_token_kl(base, logits(harmless))
            with adding(model, int(at[number]), vector):
                induce = refusal_metric(logits(harmless), tokens)
            found.append(torch.stack([one.double().mean() for one in (bypass, kl, induce)]))
        return torch.stack(found, 1)

    def check(mine: Tensor, other: Tensor) -> str:
        gap = float((mine - other).abs().max())
        if not gap < AGREE:
            raise UserError(f"scores of candidates differ by {gap:.2f} nats, which rounding does not explain")
        return f"differ by at most {gap:.2f} nats"

    logits(harmful[:2])  # the first call is slower
    dtype = str(model.dtype).removeprefix("torch.")
    yield Task(
        f"three scores of {len(at)} candidate directions, {PROMPTS} + {PROMPTS} requests, {dtype}",
        ours,
        "one candidate at a time, batches of 32, last position unembedded",
        theirs,
        check,
    )
