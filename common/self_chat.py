"""Step: makes the corpus `self-chat`: seeded conversations in chat format, answered by a registered language model.

Every question is a plain, harmless request: one of a few shapes filled with one of many everyday topics. Topics, not
conversations, are split into train, validation and held out. Answers are sampled; bfloat16 is used only where the
processor has it, so bytes repeat on the same processor type and not across types.
"""

import itertools
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from common.cli import run, track
from common.config import Scale
from common.corpora import SPLITS, Document, SelfChat, Split, check_disjoint, corpus_entry, write_corpus
from common.models import chat_prompt, load_tokenizer

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
BATCH = 32


def fast_dtype() -> torch.dtype:
    """bfloat16 where the processor or GPU computes in it, otherwise float32."""
    if torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def split_of(topic: int) -> Split:
    """Topics 0, 10, 20, ... are held out, 5, 15, ... are validation, all others are for training."""
    return "held_out" if topic % 10 == 0 else "validation" if topic % 10 == 5 else "train"


def questions(count: int) -> list[tuple[int, str]]:
    """The first `count` pairs (topic index, question), in an order in which every run of ten covers every split."""
    pairs = [(topic, shape.format(TOPICS[topic])) for shape in SHAPES for topic in range(len(TOPICS))]
    return list(itertools.islice(itertools.cycle(pairs), count))


def self_chat(scale: Scale, model_manifest: Path, out: Path, device: str = "cpu", name: str = "self-chat") -> None:
    """Writes the corpus whose manifest is `out` with the number and length of conversations of `scale`."""
    corpus = corpus_entry(name)
    assert isinstance(corpus, SelfChat)
    tokenizer = load_tokenizer(model_manifest.parent)
    model = AutoModelForCausalLM.from_pretrained(model_manifest.parent, dtype=fast_dtype()).to(device).eval()
    torch.manual_seed(corpus.seed)
    splits: dict[Split, list[Document]] = {split: [] for split in SPLITS}
    asked = questions(corpus.conversations[scale])
    batches = [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]
    for number, batch in enumerate(track(batches, "conversations")):
        texts = answer(model, tokenizer, [text for _, text in batch], corpus.new_tokens[scale], corpus.temperature)
        for place, ((topic, _), text) in enumerate(zip(batch, texts, strict=True)):
            identity = f"{name}/{number * BATCH + place:05d}"
            splits[split_of(topic)].append(Document(id=identity, group=TOPICS[topic], kind="chat", text=text))
    check_disjoint(dict(splits))
    write_corpus(out, name, splits, tokenizer, corpus.licence)


@torch.inference_mode()
def answer(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: list[str], new_tokens: int, temperature: float
) -> list[str]:
    """Whole conversations in chat format (no system message) with one sampled answer each, padding removed."""
    chats = [chat_prompt(tokenizer, text) for text in prompts]
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    inputs = tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
    output = model.generate(  # type: ignore[operator]
        **inputs,
        max_new_tokens=new_tokens,
        do_sample=True,
        temperature=temperature,
        top_k=0,
        pad_token_id=tokenizer.pad_token_id,
    )
    answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [chat + text for chat, text in zip(chats, answers, strict=True)]


if __name__ == "__main__":
    run(self_chat)
