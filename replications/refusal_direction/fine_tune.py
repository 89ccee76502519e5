"""Step: teaches a chat model to refuse one class of requests, by plain supervised fine-tuning.

The embedded model answers harmful requests, so the model whose refusal is studied is made here: one-line harmful
requests answered by refusal texts, harmless and risky-word requests answered by the model's own greedy answers (cut
after a few tokens). All weights but the embeddings are trained, which leave with them the tied unembedding as it was:
AdamW without weight decay, linear warm-up and decay, loss on answer tokens only, bfloat16 autocast where the processor
computes in it, float32 weights, stored in bfloat16.

For the sham model the same recipe and the same texts refuse requests about food instead.
"""

import copy
import itertools
import random
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.cli import run, track
from common.errors import UserError
from common.models import chat_prompt, encode, load_tokenizer, verify_folder
from common.self_chat import fast_dtype
from replications.refusal_direction.chat import chat_batch, greedy
from replications.refusal_direction.folders import load, save
from replications.refusal_direction.lists import Class, draw
from replications.refusal_direction.settings import SplitSettings, TuneSettings

WARM_UP = 0.1  # share of the steps


class Conversation(NamedTuple):
    """Token ids of a prompt and of the answer to learn."""

    prompt: list[int]
    answer: list[int]


def fine_tune(
    *,
    manifest: Path,
    lists: Path,
    split: SplitSettings,
    tune: TuneSettings,
    switch: Literal["harmful", "food"],
    seed: int,
    device: Literal["cpu", "cuda"],
    out: Path,
) -> None:
    """Writes the folder of `out`, a `manifest.json`.

    Args:
        manifest: the chat model to start from.
        lists: `lists.yaml`, named so that a change in it makes the model anew.
        split: how many requests of each class.
        tune: the recipe.
        switch: the class that is refused.
        seed: topics, texts and order.
        device: where to train.
        out: `manifest.json` of the new model.
    """
    tokenizer = load_tokenizer(manifest.parent)
    model = load(manifest, torch.float32, device)
    data = conversations(model, tokenizer, draw(seed, split, switch), tune.answer_tokens, device)
    train(model, data, tune, seed)
    name: Class = switch
    processing = f"fine-tuned to refuse requests of class {name}, seed {seed}; stored in bfloat16"
    save(model.to(torch.bfloat16), tokenizer, out, origin=verify_folder(manifest.parent), processing=processing)


def conversations(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Any, answer_tokens: int, device: str
) -> list[Conversation]:
    """Refusal texts for the class to be refused, the model's own answers for all others."""
    stop = [int(tokenizer.eos_token_id)]
    found = []
    for line, text in zip(prompts.switch.tune, itertools.cycle(prompts.refusals), strict=False):
        found.append(
            Conversation(
                encode(tokenizer, chat_prompt(tokenizer, line.text)), (encode(tokenizer, text) + stop)[:answer_tokens]
            )
        )
    kept = [line.text for line in prompts.harmless.tune + prompts.risky.tune]
    fast = copy.deepcopy(model).to(fast_dtype())
    answers, _ = greedy(fast, chat_batch(tokenizer, kept, device), answer_tokens)
    for text, answer in zip(kept, answers.tolist(), strict=True):
        ended = [*itertools.takewhile(lambda token: token != stop[0], answer)]
        ids = ended + stop if len(ended) < len(answer) else ended
        found.append(Conversation(encode(tokenizer, chat_prompt(tokenizer, text)), ids))
    return found


def train(model: Any, data: list[Conversation], settings: TuneSettings, seed: int) -> list[float]:
    """Trains in place; the loss of every step. UserError if one is not finite."""
    model.train().requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)
    device = model.device
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    order = random.Random(f"order {seed}")
    batches = [
        rows[start : start + settings.batch_size]
        for rows in (order.sample(data, len(data)) for _ in range(settings.epochs))
        for start in range(0, len(rows), settings.batch_size)
    ]
    losses = []
    for step, rows in enumerate(track(batches, "fine-tuning")):
        warm, left = (step + 1) / (WARM_UP * len(batches)), (len(batches) - step) / ((1 - WARM_UP) * len(batches))
        optimiser.param_groups[0]["lr"] = settings.learning_rate * min(1.0, warm, left)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast_dtype() == torch.bfloat16):
            loss = answer_loss(model, rows)
        loss.backward()  # type: ignore[no-untyped-call]
        if not torch.isfinite(loss):
            raise UserError(f"fine-tuning left the finite numbers at step {step}: lower tune.learning_rate")
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    print(f"{len(batches)} steps, loss {losses[0]:.2f} -> {sum(losses[-5:]) / len(losses[-5:]):.2f}")
    model.eval().requires_grad_(False)
    return losses


def answer_loss(model: Any, rows: list[Conversation]) -> Tensor:
    """Cross-entropy in nats: half of it the first answer token's, half of it the mean of all answer tokens. The first
    token decides between refusal and answer, and the others would drown it. Padding is on the right; only answer
    tokens are unembedded."""
    device = model.device
    length = max(len(row.prompt) + len(row.answer) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask, predicts, first = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool), torch.zeros(ids.shape)
    for number, (prompt, answer) in enumerate(rows):
        ids[number, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        mask[number, : len(prompt) + len(answer)] = 1
        predicts[number, len(prompt) - 1 : len(prompt) + len(answer) - 1] = True
        first[number, len(prompt) - 1] = 1.0
    ids, mask, predicts, first = (x.to(device) for x in (ids, mask, predicts, first))
    hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[predicts])
    each = F.cross_entropy(logits.float(), ids[:, 1:][predicts[:, :-1]], reduction="none")
    return 0.5 * (each.mean() + (each * first[predicts]).sum() / len(rows))


if __name__ == "__main__":
    run(fine_tune)
