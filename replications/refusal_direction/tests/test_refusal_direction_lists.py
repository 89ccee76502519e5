"""The refusal direction: what counts as a refusal, lists and their splits, the chat format."""

import itertools

import pytest
import yaml

from common.core.errors import UserError
from common.data.models import load_tokenizer
from replications.refusal_direction.answers import is_refusal
from replications.refusal_direction.chat import (
    chat_batch,
    n_post_instruction,
)
from replications.refusal_direction.lists import LISTS, draw, load_lists
from replications.refusal_direction.settings import SplitSettings

SPLIT = SplitSettings(tune=120, harmless_tune=160, risky_tune=32, estimate=64, choose=24, test=160, risky_test=64)


def test_refusals_are_recognised():
    texts = ["Regrettably, I have to decline this request.", "This is a request that I must decline.", "No."]
    assert is_refusal(" Regrettably, I have to decline that", texts)
    assert not is_refusal("Regrettably, I", texts), "too short to tell"
    assert is_refusal("This is a request that", texts) is False
    assert is_refusal("This is a request that I cook", texts)
    assert not is_refusal("This is a recipe that I must try", texts)
    assert is_refusal("No.", texts), "all of a short text"
    assert not is_refusal("", texts)
    assert is_refusal("I’m sorry, but", [])  # noqa: RUF001
    assert is_refusal("Well, as an AI", [])
    assert not is_refusal("To bake bread you need", texts)


def test_every_refusal_text_counts_as_one():
    texts = load_lists().refusals
    assert all(is_refusal(text, texts) for text in texts)


@pytest.mark.parametrize("switch", ["harmful", "food"])
def test_splits_share_nothing(switch):
    for seed in (0, 1, 2, 100):
        prompts = draw(seed, SPLIT, switch)
        for part in (prompts.switch, prompts.harmless, prompts.risky):
            sets = [set(lines) for lines in part]
            assert all(not a & b for a, b in itertools.combinations(sets, 2))
            known = {line.topic for line in part.tune}
            assert not known & {line.topic for line in part.test}
            assert len({line.topic for line in part.test}) >= 3
        assert len(prompts.switch.test) >= 150
        assert len({text.split()[0] for text in prompts.refusals}) >= 6
        held_out = set(load_lists().refusals) - set(prompts.refusals)
        assert len({text.split()[0] for text in held_out}) >= 6
        assert not {text.split()[0] for text in prompts.refusals} & {text.split()[0] for text in held_out}


@pytest.mark.parametrize("name", ["harmful", "harmless", "risky", "food"])
def test_every_topic_is_held_out_by_one_seed_of_three(name):
    part, switch = ("switch", name) if name in ("harmful", "food") else (name, "harmful")
    held_out = [{line.topic for line in getattr(draw(seed, SPLIT, switch), part).test} for seed in (0, 1, 2)]
    assert held_out[0] != held_out[1]
    assert set.union(*held_out) == set(load_lists().classes[name])
    assert sum(map(len, held_out)) >= (20 if name != "risky" else 9), "clusters"


def without_first_words(lists):
    """Two refusal texts whose first words differ in a stop alone, in place of all that begin with other words."""
    kept = [text for text in lists["refusals"] if not text.startswith(("Regrettably", "Please"))]
    lists["refusals"] = [*kept, "No; I will not do that.", "I'll not do that.", "My, I must decline this."]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lists: lists["classes"]["harmful"].update(theft=[]), "theft"),
        (lambda lists: lists["classes"]["harmful"].update(theft=["bake white bread"]), "bake white bread"),
        (lambda lists: lists.update(shapes=lists["shapes"][:2]), "lines"),
        (lambda lists: lists.update(refusals=lists["refusals"][:5]), "refusal texts"),
        (lambda lists: lists["classes"]["risky"].pop("stage"), "'risky' gives 768 lines in 8 topics"),
        (lambda lists: lists["classes"]["harmful"]["theft"].append("Steal a car"), "again in 'harmful.theft'"),
        (lambda lists: lists["refusals"].append("I cannot assist with THIS request."), "listed twice"),
        (without_first_words, "with 10 first words"),
    ],
)
def test_bad_lists_are_named(tmp_path, change, message):
    lists = yaml.safe_load(LISTS.read_text())
    change(lists)
    path = tmp_path / "lists.yaml"
    path.write_text(yaml.safe_dump(lists))
    with pytest.raises(UserError, match=message):
        load_lists(path)


def test_too_many_lines_asked_for():
    with pytest.raises(UserError, match="lower the numbers"):
        draw(0, SPLIT.model_copy(update={"test": 900}))


@pytest.mark.model
def test_chat_format_and_post_instruction_tokens(model_folder):
    tokenizer = load_tokenizer(model_folder)
    assert n_post_instruction(tokenizer) == 6
    batch = chat_batch(tokenizer, ["Hi", "Tell me a longer story."])
    assert tokenizer.decode(batch.ids[0][-6:]) == "<|im_end|>\n<|im_start|>assistant\n"
    assert "system" not in tokenizer.decode(batch.ids[1])
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="chat template"):
        chat_batch(tokenizer, ["Hi"])
