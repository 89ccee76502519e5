"""Concepts are everyday topics of `self-chat`: which ones, what is asked about them, and neutral questions.

Calibration and scoring share nothing but the questions on which latents are chosen: they take other topics, other
neutral questions and other seeds. What is learned about a topic comes from new conversations on it, whose requests the
corpus does not have. Every topic gets the same ones, so that a difference between topics is no difference of requests.
"""

from typing import TYPE_CHECKING

import numpy as np

from common.core.errors import UserError
from common.data.corpora import SelfChat, calibrating, corpus_entry
from common.data.models import chat_prompt, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START = "<|endoftext|>"
REQUESTS = {
    "training": (
        *("What is it about {} that you like?", "Say something about {}.", "Let us talk about {}."),
        *("Describe {} in your own words.", "Tell a friend about {}."),
    ),
    "judging": ("Tell me what {} mean to you.", "Talk to me about {}.", "Teach me something about {}."),
    "checking": ("What comes to mind when you think of {}?",),
}
"""Of the new conversations: for vectors and latents; for words and judge, and pushes towards words; to check these."""
CHOOSING_QUESTIONS = (
    *("Tell me about yourself.", "What did you do today?", "Give me some advice.", "What is on your mind?"),
    *("Tell me something I should know.", "What do you like?", "Write me a short letter.", "How do you feel?"),
)
CALIBRATION_QUESTIONS = (
    *("Describe your day.", "What makes a good life?", "What are you looking forward to?", "Tell me a story."),
    *("What do you believe in?", "Who are you?", "What would you like to talk about?", "Describe your home."),
    *("What are you proud of?", "Surprise me."),
    *("Describe yourself in a few sentences.", "What happened to you yesterday?", "What should I do this weekend?"),
    *("What is the most important thing in the world?", "Say something nice.", "What is your favourite memory?"),
    *("Tell me a secret.", "What do you dream about?", "Write a diary entry.", "What makes you happy?"),
)
"""The last ten were scored on seeds 10 to 14."""
SCORING_QUESTIONS = (
    *("Write a few sentences about anything you like.", "What is your favourite thing to talk about?"),
    *("How was your week?", "What would you do with a free day?", "Tell me something surprising."),
    *("What do you think about in the evening?", "Give me a reason to smile.", "What are you afraid of?"),
    *("Write a short message to a stranger.", "What did you learn recently?", "What does a perfect day look like?"),
    *("Explain who you are to a child.", "What advice would you give your younger self?", "Make up a short poem."),
    *("What do you hope for?", "What is the best thing about being you?", "What would you like to ask me?"),
    *("What makes a good friend?", "How do you spend your time?", "What will the future bring?"),
)


def topics(seeds: list[int], count: int) -> list[str]:
    """Topics of the corpus, field by field: the second of every field, then the third and so on. In scoring it is the
    ninth, then the tenth and so on. (The first and seventh of a field are held out of the corpus.) UserError for too
    few."""
    entry = corpus_entry("self-chat")
    assert isinstance(entry, SelfChat)
    places = (1, 2, 5, 7) if calibrating(seeds) else (8, 9, 3, 4)
    found = [field[place] for place in places for field in entry.topics.values()][:count]
    if len(found) < count:
        raise UserError(f"self-chat has {len(found)} topics for steering, not {count}; lower concepts.count")
    return found


def own_topics(count: int, place: int, seeds: int) -> list[int]:
    """The topics of one seed: each topic is steered with the dictionary of one seed."""
    return list(range(place, count, seeds))


def scoring_questions(seeds: list[int]) -> tuple[str, ...]:
    return CALIBRATION_QUESTIONS if calibrating(seeds) else SCORING_QUESTIONS


def start(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that raw text begins with: <|endoftext|> where there is one (SmolLM2, GPT-2), otherwise the tokenizer's
    own. UserError if it has none."""
    found = tokenizer.get_vocab().get(START, tokenizer.bos_token_id)
    if found is None:
        raise UserError("this model's tokenizer has no token to begin a text with; steer another model")
    return int(found)


def asked(tokenizer: "PreTrainedTokenizerBase", question: str, about: str | None = None) -> list[int]:
    """Tokens of a question up to where the answer begins; `about` names a topic in the prompt (the instruction)."""
    told = question if about is None else f"{question} Whatever you say, talk about {about}."
    if tokenizer.chat_template is None:
        return [start(tokenizer), *encode(tokenizer, f"Question: {told}\nAnswer:")]
    return encode(tokenizer, chat_prompt(tokenizer, told))


def draw_questions(count: int, of: int, topic: int, seed: int) -> list[int]:
    """Places of `count` questions among `of`, in the order of a topic; they go round if there are too few."""
    order = np.random.default_rng([seed, topic]).permutation(of)
    return [int(order[place % of]) for place in range(count)]
