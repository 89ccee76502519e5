"""Step: samples the conversations of `self-chat-long` and, its first ones, `self-chat` (`make sample_self_chat`).

The repository ships both. Every request is plain and harmless: one of a few shapes filled with one of many everyday
topics (config/corpora.yaml). Answers are sampled in float32 from the `top_k` most likely tokens. Each conversation has
random numbers of its own, so rounding, which differs between types of processor, seldom changes a token and never
another conversation.

Rows are slots: a slot whose answer has ended takes the next conversation. What is finished is kept in a file beside
the output, so that a killed run goes on. Its name says what is sampled: other settings begin afresh.
"""

import hashlib
import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from common.core.files import atomic, write_text
from common.core.step import Files, run_step, track
from common.data.corpora import SelfChat, corpus_entry
from common.data.models import answer_text, chat_prompt, encode_all, load_model, load_tokenizer
from common.interp.decoder import Decoder
from common.recipes.python_docs import shingles

SLOTS = 256
REFILL = 32  # slots that are free before new conversations are read
GRAM = 4  # words


@dataclass
class Conversation:
    number: int
    prompt: list[int]
    chances: np.ndarray
    """one uniform number for each token that may be written"""
    answer: list[int] = field(default_factory=list)


def draw(
    logits: Float[Tensor, "row d_vocab"], chances: Float[Tensor, " row"], temperature: float, top_k: int
) -> list[int]:
    """The token at which the cumulative probability, most likely first, passes the row's uniform number."""
    top, tokens = logits.topk(top_k)
    cumulative = (top.double() / temperature).softmax(-1).cumsum(-1)
    place = (cumulative < chances[:, None]).sum(-1, keepdim=True).clamp(max=top_k - 1)
    drawn: list[int] = tokens.gather(1, place)[:, 0].tolist()
    return drawn


class Slots:
    """Keys and values of the conversations that are being written, one row each; `length` bounds prompt and answer."""

    def __init__(self, decoder: Decoder, rows: int, length: int) -> None:
        self.decoder = decoder
        shape = (decoder.n_layers, 2, rows, decoder.n_kv_heads, length, decoder.d_head)
        self.cache = torch.zeros(shape, device=decoder.bridge.W_E.device)

    def read(self, rows: list[int], prompts: list[list[int]]) -> Float[Tensor, "row d_vocab"]:
        """Puts prompts into free rows; the logits after each."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        wide = int(lengths.max())
        tokens = torch.tensor([prompt + [0] * (wide - len(prompt)) for prompt in prompts])
        read = self.decoder.forward(tokens, torch.arange(wide) < lengths[:, None], keep=True)
        for layer, pair in enumerate(zip(read.k, read.v, strict=True)):
            for kind, each in enumerate(pair):
                self.cache[layer, kind, rows, :, :wide] = rearrange(each, "row pos kv d -> row kv pos d")
        return self._logits(read.final[torch.arange(len(prompts)), lengths - 1])

    def write(self, tokens: Int[Tensor, " row"], at: Int[Tensor, " row"]) -> Float[Tensor, "row d_vocab"]:
        """One more token in every row, at position `at`; the logits after it."""
        decoder, rows, far = self.decoder, torch.arange(len(tokens)), int(at.max()) + 1
        seen = (torch.arange(far) <= at[:, None])[:, None, None]
        x = decoder.bridge.W_E[tokens]
        for layer in range(decoder.n_layers):
            keys, values = self.cache[layer, 0], self.cache[layer, 1]
            normed = decoder.norm(layer, 0, x)
            keys[rows, :, at] = decoder.keys(layer, normed, at)
            values[rows, :, at] = decoder.values(layer, normed)
            q = rearrange(decoder.queries(layer, normed, at), "row (kv g) d -> row kv g d", g=decoder.group)
            z = F.scaled_dot_product_attention(q, keys[:, :, :far], values[:, :, :far], attn_mask=seen)
            mid = x + decoder.write(layer, rearrange(z, "row kv g d -> row (kv g) d"))
            x = mid + decoder.mlp(layer, mid)
        return self._logits(x)

    def _logits(self, final: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
        logits: Tensor = self.decoder.bridge.ln_final(final[None])[0] @ self.decoder.bridge.W_U
        return logits


@torch.inference_mode()
def converse(
    slots: Slots, waiting: list[Conversation], corpus: SelfChat, ends: set[int], rows: int
) -> Iterator[Conversation]:
    """Every conversation once its answer has ended, by a token of `ends` or by length, in the order of ending."""
    waiting = waiting[::-1]
    active: list[Conversation | None] = [None] * rows

    def extended(places: list[int], logits: Tensor) -> Iterator[Conversation]:
        chats = [chat for place in places if (chat := active[place]) is not None]
        chances = torch.tensor([chat.chances[len(chat.answer)] for chat in chats])
        for place, chat, token in zip(
            places, chats, draw(logits, chances, corpus.temperature, corpus.top_k), strict=True
        ):
            chat.answer.append(token)
            if token in ends or len(chat.answer) == corpus.new_tokens:
                active[place] = None
                yield chat

    while waiting or any(active):
        free = [place for place, chat in enumerate(active) if chat is None]
        if waiting and (len(free) >= REFILL or len(free) == rows):
            free = free[: len(waiting)]
            for place in free:
                active[place] = waiting.pop()
            yield from extended(free, slots.read(free, [active[place].prompt for place in free]))  # type: ignore[union-attr]
        if busy := [place for place, chat in enumerate(active) if chat is not None]:
            tokens, at = torch.zeros(rows, dtype=torch.long), torch.zeros(rows, dtype=torch.long)
            for place in busy:
                chat = active[place]
                assert chat is not None
                tokens[place], at[place] = chat.answer[-1], len(chat.prompt) + len(chat.answer) - 1
            yield from extended(busy, slots.write(tokens, at)[busy])


class SampleSelfChatFiles(Files):
    model: Path
    registry: Path
    corpus: Path
    """JSON lines {number, answer}, compressed with xz"""


def sample_self_chat(
    files: SampleSelfChatFiles, name: str = "self-chat-long", numbers: Sequence[int] | None = None
) -> None:
    """Samples conversations `numbers` (default: all of the registry) and writes those that `kept` keeps."""
    corpus = corpus_entry(name)
    assert isinstance(corpus, SelfChat)
    numbers = numbers or range(corpus.rounds * len(corpus.all_topics))
    partial = files.corpus.with_suffix(f".{identity(corpus, files.model)}.partial")
    found = kept(answers(files.model.parent, corpus, numbers, partial), corpus)
    with atomic(files.corpus) as path, lzma.open(path, "wt", encoding="utf-8", preset=9) as out:
        for number, answer in sorted(found.items()):
            out.write(json.dumps({"number": number, "answer": answer}, ensure_ascii=False) + "\n")
    partial.unlink()


def identity(corpus: SelfChat, model: Path) -> str:
    """12 hex digits over the model's manifest and all settings on which an answer depends; more rounds add answers."""
    settings = corpus.model_dump_json(exclude={"file", "sha256", "rounds", "licence"})
    return hashlib.sha256(model.read_bytes() + settings.encode()).hexdigest()[:12]


def kept(found: dict[int, str], corpus: SelfChat) -> dict[int, str]:
    """Without loops and near-duplicates of earlier answers."""
    seen: set[int] = set()
    result = {}
    for number, answer in sorted(found.items()):
        own, words = shingles(answer), answer.split()
        grams = list(zip(*(words[start:] for start in range(GRAM)), strict=False))
        new = len(own & seen) < corpus.near_duplicate_share * max(1, len(own))
        if grams and len(set(grams)) >= corpus.distinct_share * len(grams) and new:
            result[number] = answer
        seen |= own
    print(f"{len(found) - len(result)} of {len(found)} conversations dropped: loops and near-duplicates")
    return result


def answers(model: Path, corpus: SelfChat, numbers: Sequence[int], partial: Path) -> dict[int, str]:
    """The answer of each conversation; `partial` keeps what is finished. What a kill has cut is sampled again."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    whole = partial.read_text("utf-8").rpartition("\n")[0].splitlines() if partial.exists() else []
    write_text(partial, "".join(f"{line}\n" for line in whole))
    found = {line["number"]: line["answer"] for line in map(json.loads, whole)}
    tokenizer = load_tokenizer(model)
    missing = [number for number in numbers if number not in found]
    prompts = encode_all(tokenizer, [chat_prompt(tokenizer, corpus.request(number)) for number in missing])
    waiting = [
        Conversation(number, prompt, np.random.default_rng([corpus.seed, number]).random(corpus.new_tokens))
        for number, prompt in zip(missing, prompts, strict=True)
    ]
    if waiting:
        length = max(map(len, prompts)) + corpus.new_tokens
        rows = min(SLOTS, len(waiting))
        slots = Slots(Decoder(load_model(model), length), rows, length)
        ends = set(tokenizer.all_special_ids)
        with partial.open("a", encoding="utf-8") as out:
            for chat in track(converse(slots, waiting, corpus, ends, rows), "conversations", len(waiting)):
                found[chat.number] = answer_text(tokenizer, chat.answer)
                out.write(json.dumps({"number": chat.number, "answer": found[chat.number]}, ensure_ascii=False) + "\n")
                out.flush()
    return {number: found[number] for number in numbers}


if __name__ == "__main__":
    run_step(sample_self_chat)
