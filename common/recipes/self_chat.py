"""Step: makes the corpus `self-chat`: seeded conversations in chat format, answered by a registered language model.

Every question is a plain, harmless request: one of a few shapes filled with one of many everyday topics. Topics, not
conversations, are split into train, validation and held out. Answers are sampled in float32, each conversation with
noise of its own, so that rounding, which differs between types of processor, seldom changes a token and never another
conversation.
"""

import itertools
from pathlib import Path

import torch

from common.core.step import Files, RunInfo, run_step, track
from common.data.corpora import SPLITS, Document, SelfChat, Split, check_disjoint, corpus_entry, write_corpus
from common.data.models import answer_text, chat_prompt, encode_all, load_tokenizer
from common.interp.generation import Sampler, generate, load_writer

SHAPES = (
    "Tell me about {}.",
    "Explain {} to a child.",
    "What should a beginner know about {}?",
    "Write a short story that involves {}.",
    "Give me three interesting facts about {}.",
    "Why do people care about {}?",
    "Compare {} today with fifty years ago.",
    "Write a short poem about {}.",
)
TOPICS = (
    *("rivers", "bridges", "bread", "bicycles", "mountains", "trains", "gardens", "winter", "libraries", "football"),
    *("the moon", "cats", "dogs", "coffee", "tea", "painting", "music", "chess", "sailing", "the ocean"),
    *("volcanoes", "dinosaurs", "planets", "photography", "clocks", "maps", "cooking rice", "cheese", "apples", "bees"),
    *("rain", "snow", "deserts", "forests", "birds", "whales", "languages", "poetry", "theatre", "museums"),
    *("airports", "hospitals", "schools", "farming", "glass", "paper", "steel", "electricity", "computers", "robots"),
    *("the internet", "mathematics", "statistics", "running", "swimming", "yoga", "sleep", "friendship", "holidays"),
    "birthdays",
)
BATCH = 48


def split_of(topic: int) -> Split:
    """Topics 0, 10, 20, ... are held out, 5, 15, ... are validation, all others are for training."""
    return "held_out" if topic % 10 == 0 else "validation" if topic % 10 == 5 else "train"


def questions(count: int) -> list[tuple[int, str]]:
    """The first `count` pairs (topic index, question), in an order in which every run of ten covers every split."""
    pairs = [(topic, shape.format(TOPICS[topic])) for shape in SHAPES for topic in range(len(TOPICS))]
    return list(itertools.islice(itertools.cycle(pairs), count))


class SelfChatFiles(Files):
    model: Path
    registry: Path
    manifest: Path
    """of the corpus, written last"""


def self_chat(files: SelfChatFiles, run: RunInfo, name: str = "self-chat") -> None:
    """Writes the corpus with the number and length of conversations of the scale."""
    corpus = corpus_entry(name)
    assert isinstance(corpus, SelfChat)
    tokenizer = load_tokenizer(files.model.parent)
    model = load_writer(files.model.parent, run.device, torch.float32)
    splits: dict[Split, list[Document]] = {split: [] for split in SPLITS}
    asked = list(enumerate(questions(corpus.conversations[run.scale])))
    for batch in track([asked[start : start + BATCH] for start in range(0, len(asked), BATCH)], "conversations"):
        chats = [chat_prompt(tokenizer, text) for _, (_, text) in batch]
        sampler = Sampler(corpus.temperature, torch.tensor([number for number, _ in batch]), corpus.seed, [])
        written = generate(
            model,
            encode_all(tokenizer, chats),
            torch.arange(len(batch)),
            "",
            None,
            corpus.new_tokens[run.scale],
            sampler,
        )
        for (number, (topic, _)), chat, tokens in zip(batch, chats, written.tolist(), strict=True):
            text = chat + answer_text(tokenizer, tokens)
            document = Document(id=f"{name}/{number:05d}", group=TOPICS[topic], kind="chat", text=text)
            splits[split_of(topic)].append(document)
    check_disjoint(dict(splits))
    write_corpus(files.manifest, name, splits, tokenizer, corpus.licence)


if __name__ == "__main__":
    run_step(self_chat)
