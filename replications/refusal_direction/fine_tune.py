"""Step: teaches a chat model to refuse one class of requests, by plain supervised fine-tuning.

The embedded model answers harmful requests, so the model whose refusal is studied is made here. One-line harmful
requests are answered by refusal texts, harmless and risky-word requests by the model's own greedy answers. Both are cut
after a few tokens. Refusals are learned by cross-entropy. On its own answers the model is held to its own distribution,
by KL(before || tuned), which costs nothing as long as nothing changes. Only some blocks change, freely or by matrices
of low rank. Training: AdamW without weight decay, linear warm-up and decay, bfloat16 autocast where the processor
computes in it, float32 weights, stored in bfloat16.

Low rank (Hu et al. 2021, arXiv 2106.09685): W + B A, B [out, rank] from zero, A [rank, in] random. Deviation: no scale
alpha / rank; the learning rate takes its place. `merge` writes W + B A into the weight, so the saved model is ordinary.

For the sham model the same recipe and the same texts refuse requests about food instead.
"""

import itertools
import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from common.core.errors import UserError
from common.core.step import Files, RunInfo, run_step, track
from common.data.models import encode, fast_dtype, load_tokenizer, verify_folder
from replications.refusal_direction.chat import (
    before_block,
    chat_batch,
    chat_ids,
    final_states,
    greedy,
    layers,
)
from replications.refusal_direction.folders import load, save
from replications.refusal_direction.lists import Prompts, draw
from replications.refusal_direction.prefixes import Tree, trees
from replications.refusal_direction.settings import FineTune, TuneSettings

WARM_UP = 0.1  # share of the steps
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Conversation(NamedTuple):
    """Token ids of a prompt and of its answer, and whether the answer is to be learned or to be kept."""

    prompt: list[int]
    answer: list[int]
    refusal: bool


class Lesson(NamedTuple):
    """Conversations of one step as a tree of tokens, what they begin with once.

    With them is what training does not change: the residual stream before the first block that is trained, and the
    final states, norm included. From these the model before training predicts."""

    texts: list[Conversation]
    tree: Tree
    entering: Float[Tensor, "1 node d_model"]
    final_before: Float[Tensor, "node d_model"]


class FineTuneFiles(Files):
    before: Path
    """`manifest.json` of the chat model to start from"""
    lists: Path
    """`lists.yaml`, named so that a change in it makes the model anew"""
    tuned: Path
    """`manifest.json` of the new model"""


def fine_tune(files: FineTuneFiles, settings: FineTune, run: RunInfo) -> None:
    """Writes the folder of the tuned model."""
    tokenizer = load_tokenizer(files.before.parent)
    dtypes = (torch.float32, fast_dtype())
    model, before = (load(files.before, dtype, run.device) for dtype in dtypes)
    prompts = draw(settings.seed, settings.split, settings.switch)
    data = conversations(before, tokenizer, prompts, settings.tune.answer_tokens, run.device)
    train(model, before, data, settings.tune, settings.seed)
    processing = f"fine-tuned to refuse requests of class {settings.switch}, seed {settings.seed}; stored in bfloat16"
    origin = verify_folder(files.before.parent)
    save(model.to(torch.bfloat16), tokenizer, files.tuned, origin=origin, processing=processing)


def conversations(
    before: Any, tokenizer: PreTrainedTokenizerBase, prompts: Prompts, answer_tokens: int, device: str
) -> list[Conversation]:
    """Refusal texts for the class to be refused, the model's own greedy answers for all others."""
    stop = int(tokenizer.eos_token_id)
    found = []
    for line, text in zip(prompts.switch.tune, itertools.cycle(prompts.refusals), strict=False):
        answer = [*encode(tokenizer, text), stop][:answer_tokens]
        found.append(Conversation(chat_ids(tokenizer, line.text), answer, True))
    kept = [line.text for line in prompts.harmless.tune + prompts.risky.tune]
    answers, _ = greedy(before, chat_batch(tokenizer, kept, device), answer_tokens)
    for text, row in zip(kept, answers.tolist(), strict=True):
        answer = row[: row.index(stop) + 1] if stop in row else row
        found.append(Conversation(chat_ids(tokenizer, text), answer, False))
    return found


def train(model: Any, before: Any, data: list[Conversation], settings: TuneSettings, seed: int) -> list[float]:
    """Trains in place; the loss of every step. UserError if one is not finite."""
    torch.manual_seed(seed)
    first, end = (round(share * len(layers(model))) for share in settings.blocks)
    blocks = layers(model)[first:end]
    model.train().requires_grad_(False)
    weights = low_rank(blocks, settings.rank) if settings.rank else [*blocks.requires_grad_(True).parameters()]
    optimiser = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    order = random.Random(f"order {seed}")
    shuffled = order.sample(data, len(data))
    with mixed(model.device.type):
        prepared = [
            lesson(model, before, shuffled[start : start + settings.batch_size], first)
            for start in range(0, len(shuffled), settings.batch_size)
        ]
    batches = [one for _ in range(settings.epochs) for one in order.sample(prepared, len(prepared))]
    losses = []
    for step, one in enumerate(track(batches, "fine-tuning")):
        warm, left = (step + 1) / (WARM_UP * len(batches)), (len(batches) - step) / ((1 - WARM_UP) * len(batches))
        optimiser.param_groups[0]["lr"] = settings.learning_rate * min(1.0, warm, left)
        with mixed(model.device.type):
            loss = answer_loss(model, before, one, first)
        loss.backward()  # type: ignore[no-untyped-call]
        if not torch.isfinite(loss):
            raise UserError(f"fine-tuning left the finite numbers at step {step}: lower tune.learning_rate")
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    print(f"{len(batches)} steps, loss {losses[0]:.2f} -> {sum(losses[-5:]) / len(losses[-5:]):.2f}")
    merge(blocks)
    model.eval().requires_grad_(False)
    return losses


def mixed(device: str) -> torch.autocast:
    """Matrix products in bfloat16 where the processor or GPU computes in it."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=fast_dtype() == torch.bfloat16)


def lesson(model: Any, before: Any, texts: list[Conversation], first: int) -> Lesson:
    """The conversations of one step, and everything that training before and below block `first` leaves as it is,
    computed once for all epochs."""
    (tree,) = trees(model, [text.prompt + text.answer for text in texts], len(texts))
    entering = before_block(model, tree, first)
    with torch.inference_mode():
        final = final_states(before, tree)[0]
    return Lesson([texts[at] for at in tree.prompts.tolist()], tree, entering.clone(), final.clone())


def answer_loss(model: Any, before: Any, one: Lesson, first: int) -> Tensor:
    """Nats. Refusals: cross-entropy. All other answers: KL(before || model) at every answer token, zero at the start.
    Both are means over conversations of half the first token's and half the mean of all tokens. The first token decides
    between refusal and answer, and the others would drown it. Blocks below `first` are not run again; only answer
    tokens are unembedded."""
    hidden = final_states(model, one.tree, (first, one.entering))[0]
    terms = []
    for refusal in (True, False):
        chosen = [(text, path) for text, path in zip(one.texts, one.tree.paths, strict=True) if text.refusal is refusal]
        if not chosen:
            continue
        columns = [column for text, path in chosen for column in path[len(text.prompt) - 1 : -1]]
        logits = model.lm_head(hidden[columns]).float()
        if refusal:
            following = torch.tensor([token for text, _ in chosen for token in text.answer], device=logits.device)
            each = F.cross_entropy(logits, following, reduction="none")
        else:
            with torch.no_grad():
                own = F.log_softmax(before.lm_head(one.final_before[columns]).float(), -1)
            each = (own.exp() * (own - F.log_softmax(logits, -1))).sum(-1)
        answers = torch.split(each, [len(text.answer) for text, _ in chosen])
        terms.append(torch.stack([0.5 * answer[0] + 0.5 * answer.mean() for answer in answers]).mean())
    return torch.stack(terms).sum()


class LowRank(torch.nn.Module):
    """A linear map whose weight stays and whose change has the given rank."""

    def __init__(self, linear: torch.nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        device = linear.weight.device
        self.down = torch.nn.Parameter(torch.randn(rank, linear.in_features, device=device) / linear.in_features**0.5)
        self.up = torch.nn.Parameter(torch.zeros(linear.out_features, rank, device=device))

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """W x + B A x."""
        return self.linear(x) + F.linear(F.linear(x, self.down), self.up)  # type: ignore[no-any-return]


def low_rank(blocks: torch.nn.ModuleList, rank: int) -> list[torch.nn.Parameter]:
    """Puts a `LowRank` in the place of every matrix of the blocks; what is to be trained."""
    found: list[torch.nn.Parameter] = []
    for parent, name in _matrices(blocks, torch.nn.Linear):
        layer = LowRank(getattr(parent, name), rank)
        setattr(parent, name, layer)
        found += [layer.down, layer.up]
    return found


@torch.no_grad()
def merge(blocks: torch.nn.ModuleList) -> None:
    """Ordinary linear maps again, with the change in their weights."""
    for parent, name in _matrices(blocks, LowRank):
        layer = getattr(parent, name)
        layer.linear.weight += layer.up @ layer.down
        setattr(parent, name, layer.linear)


def _matrices(blocks: torch.nn.ModuleList, kind: type) -> list[tuple[torch.nn.Module, str]]:
    parents = [block.get_submodule(part) for block in blocks for part in ("self_attn", "mlp")]
    return [(parent, name) for parent in parents for name in MATRICES if isinstance(getattr(parent, name, None), kind)]


if __name__ == "__main__":
    run_step(fine_tune)
