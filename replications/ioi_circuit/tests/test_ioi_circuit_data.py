"""The IOI prompts: roles, positions, counterfactuals, balance, and what happens with a tokenizer that does not fit."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from common.core.errors import UserError
from common.core.settings import load_replication, load_scale
from replications.ioi_circuit import dataset
from replications.ioi_circuit.dataset import (
    VERSIONS,
    Prompt,
    PromptFile,
    Vocabulary,
    draw_prompts,
    names_for,
    vocabulary,
)
from replications.ioi_circuit.figures import template_name
from replications.ioi_circuit.templates import NAMES, OBJECTS, PLACES, SCORED_NAMES, TEMPLATES
from tests.fixtures.ioi_circuit_tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return vocabulary(tiny_tokenizer(), minimum_names=40)


def real_tokens(prompt: Prompt, version: dataset.Version) -> list[int]:
    pairs = zip(prompt.versions[version].tokens, prompt.attention, strict=True)
    return [token for token, real in pairs if real]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_prompt_keeps_its_promises(seed: int) -> None:
    words = vocabulary(tiny_tokenizer(), minimum_names=40)
    for prompt in draw_prompts(words, [seed], per_cell=1):
        at = prompt.positions
        original, abc, flipped, nouns = (real_tokens(prompt, version) for version in VERSIONS)
        assert original[at.io] == prompt.io_id != prompt.s_id
        assert original[at.s1] == original[at.s2] == prompt.s_id
        assert at.s1_next == at.s1 + 1
        assert at.end == len(original) - 1
        assert prompt.versions["original"].text.endswith(" to")
        assert words.encode(" to") == [original[at.end]]
        assert (at.io < at.s1) == (prompt.order == "ABBA")
        assert max(at.io, at.s1) < at.s2 < at.end

        assert len({prompt.io, prompt.s, *prompt.abc}) == 5
        assert [abc[at.io], abc[at.s1], abc[at.s2]] == [words.names[name] for name in prompt.abc]
        assert not {prompt.io_id, prompt.s_id} & set(abc)

        names = [at.io, at.s1, at.s2]
        assert [nouns[i] for i in names] == [original[i] for i in names]
        changed = {token for token, other in zip(original, nouns, strict=True) if token != other}
        nouns_used = {words.places[prompt.place], words.objects[prompt.object]} & set(original)
        assert changed == nouns_used
        assert words.places[prompt.place] in changed

        assert flipped == [prompt.io_id if i == at.s2 else token for i, token in enumerate(original)]
        assert len({len(tokens) for tokens in (original, abc, nouns, flipped)}) == 1
        for version in VERSIONS:
            assert words.encode(prompt.versions[version].text) == real_tokens(prompt, version)


def test_padding_is_on_the_right_and_masked(words: Vocabulary) -> None:
    prompts = draw_prompts(words, [0], per_cell=1)
    lengths = {len(prompt.attention) for prompt in prompts}
    assert len(lengths) == 1
    assert len({sum(prompt.attention) for prompt in prompts}) > 1  # templates differ in length
    for prompt in prompts:
        assert prompt.attention == sorted(prompt.attention, reverse=True)
        assert sum(prompt.attention) == prompt.positions.end + 1
        assert all(len(prompt.versions[version].tokens) == lengths.copy().pop() for version in VERSIONS)


@pytest.mark.parametrize("per_cell", [1, 3])
def test_templates_and_orders_are_balanced(words: Vocabulary, per_cell: int) -> None:
    prompts = draw_prompts(words, [3, 4], per_cell)
    cells = Counter((prompt.seed, prompt.template, prompt.order) for prompt in prompts)
    assert len(cells) == 2 * len(TEMPLATES) * 2
    assert set(cells.values()) == {per_cell}
    assert len({prompt.versions["original"].text for prompt in prompts}) == len(prompts)


def test_halves_share_neither_template_nor_name(words: Vocabulary) -> None:
    prompts = draw_prompts(words, [0, 1], per_cell=4)
    templates: list[set[int]] = [set(), set()]
    names: list[set[str]] = [set(), set()]
    for prompt in prompts:
        templates[prompt.half].add(prompt.template)
        names[prompt.half] |= {prompt.io, prompt.s, *prompt.abc}
    assert not templates[0] & templates[1]
    assert not names[0] & names[1]
    assert min(map(len, names)) >= 20


def test_seed_decides_the_prompts(words: Vocabulary) -> None:
    once, again, other = (draw_prompts(words, [seed], 2) for seed in (7, 7, 8))
    assert once == again
    texts = [{prompt.versions["original"].text for prompt in prompts} for prompts in (once, other)]
    assert not texts[0] & texts[1]


def test_roles_are_random(words: Vocabulary) -> None:
    """Which of two names is IO is drawn at random: the null that flips roles rests on it."""
    prompts = draw_prompts(words, list(range(10)), per_cell=2)
    alphabetical = sum(prompt.io < prompt.s for prompt in prompts)
    assert 0.45 < alphabetical / len(prompts) < 0.55


def test_words() -> None:
    assert len(TEMPLATES) == len({template_name(one) for one in TEMPLATES}) == 44
    assert len(set(NAMES + SCORED_NAMES)) == len(NAMES) + len(SCORED_NAMES) == 208
    assert not {word.lower() for word in NAMES + SCORED_NAMES} & {*PLACES, *OBJECTS}
    for template in TEMPLATES:
        assert template.endswith(" to")
        assert not template.startswith("{")
        assert all(template.count(f"{{{slot}}}") == 1 for slot in ("first", "second", "subject", "place"))


@pytest.mark.parametrize("scale", ["smoke", "laptop", "full", "gpu"])
def test_no_scored_prompt_has_a_name_of_calibration(scale: str) -> None:
    seeds = load_scale(scale, "ioi_circuit")
    assert not {*names_for(seeds.seeds)} & {*names_for(seeds.calibration_seeds)}


def test_prompt_file_round_trip(words: Vocabulary) -> None:
    prompts = draw_prompts(words, [0], per_cell=1)
    content = PromptFile(
        names=list(words.names), places=["a"], objects=["b"], special_tokens_added=False, prompts=prompts,
        circuit_prompts=draw_prompts(words, [1000], per_cell=1),
    )  # fmt: skip
    assert PromptFile.model_validate_json(content.model_dump_json()) == content


def test_too_few_single_token_names_is_a_clear_error() -> None:
    few = tiny_tokenizer(NAMES[:12])
    with pytest.raises(UserError, match=r"writes \d+ of our 104 names as one token and needs 40"):
        vocabulary(few, minimum_names=40)
    assert {*vocabulary(few, minimum_names=10).names} >= {*NAMES[:12]}


def test_too_many_prompts_for_too_few_words_is_a_clear_error(words: Vocabulary) -> None:
    small = Vocabulary(
        encode=words.encode,
        pad_id=words.pad_id,
        names=dict(list(words.names.items())[:10]),
        places=dict(list(words.places.items())[:2]),
        objects=dict(list(words.objects.items())[:2]),
    )
    with pytest.raises(UserError, match="too few names"):
        draw_prompts(small, list(range(3)), per_cell=100)


def test_word_level_tokenizer_that_knows_no_name_is_refused() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    blind = Tokenizer(models.WordLevel({"<unk>": 0, "Then": 1, "to": 2}, unk_token="<unk>"))
    blind.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match="writes 0 of our"):
        vocabulary(PreTrainedTokenizerFast(tokenizer_object=blind, unk_token="<unk>"), minimum_names=10)


def test_merged_name_is_noticed(words: Vocabulary) -> None:
    """A tokenizer that writes a name differently in some sentence must not pass silently."""

    def merging(text: str) -> list[int]:
        tokens = words.encode(text)
        return [*tokens[:1], 0, *tokens[3:]]

    broken = Vocabulary(merging, words.pad_id, words.names, words.places, words.objects)
    with pytest.raises(UserError, match="does not write each name"):
        draw_prompts(broken, [0], per_cell=1)


def test_changed_length_is_noticed(words: Vocabulary) -> None:
    def longer(text: str) -> list[int]:
        extra = [0] if words.encode(text)[2] % 2 else []
        return extra + words.encode(text)

    broken = Vocabulary(longer, words.pad_id, words.names, words.places, words.objects)
    with pytest.raises(UserError, match="differently"):
        draw_prompts(broken, [0], per_cell=2)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "gpu"])
def test_settings(scale: str) -> None:
    found = load_replication("ioi_circuit", scale)
    assert found.model_dump()["direct_path"]["draws"] >= 100
    if scale == "laptop":
        assert 5 * 44 * found.model_dump()["prompts"]["circuit_per_cell"] >= 200  # discovery prompts
