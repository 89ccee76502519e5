"""The reference dictionary: rounds of conversations, and what a dictionary is worth on planted topics."""

import numpy as np
import pandas as pd
import pytest
import torch

from common.data.corpora import corpus_entry
from common.data.models import load_tokenizer
from common.interp.generation import load_writer
from common.saes.sae import About, Sae
from replications.sparse_autoencoders import reference

TOPICS, D = 12, 20


def planted(number):
    """Answers whose tokens are shifted along one axis a topic; the last axes hold noise alone."""
    x = 0.1 * torch.randn(TOPICS, 6, D, generator=torch.Generator().manual_seed(number))
    x[torch.arange(TOPICS), :, torch.arange(TOPICS)] += 2
    return reference.Written(torch.zeros(TOPICS, 6, dtype=torch.long), x)


def axes(rows):
    about = About("jumprelu", "m", "h")
    return Sae(about, "jumprelu", rows.T.contiguous(), torch.zeros(len(rows)), rows, torch.zeros(D),
               torch.full((len(rows),), 0.5))  # fmt: skip


def test_latents_of_topics_are_found_and_told_apart(tmp_path):
    rounds, left_out = [planted(0), planted(1)], planted(2)
    found = reference.by_topic(axes(torch.eye(D)), rounds, left_out, tmp_path / "topics.csv")
    table = pd.read_csv(tmp_path / "topics.csv")
    assert table["latent"].tolist() == table["nearest"].tolist() == list(range(TOPICS))
    assert found["topic_auc"].value == 1
    assert found["topic_auc"].control("next_topic").value < 0.6
    assert found["topic_cosine"].value > 0.9
    assert found["topic_cosine"].control("random_dictionary").value < 0.7
    blind = reference.by_topic(axes(torch.eye(D)[TOPICS:]), rounds, left_out, tmp_path / "topics.csv")
    assert blind["topic_auc"].value == pytest.approx(0.5)
    assert blind["topic_cosine"].value < 0.3


def test_fvu_is_one_for_the_mean_and_a_ratio_beside_another_dictionary():
    left_out, nothing, whole = planted(2), axes(torch.eye(D)[:1]), axes(torch.eye(D))
    mean = left_out.x.mean((0, 1))
    constant = Sae(About("relu"), "relu", torch.zeros(D, 1), torch.zeros(1), torch.zeros(1, D), mean)
    assert reference.unexplained(constant, left_out).value == pytest.approx(1, abs=1e-5)
    assert reference.unexplained(whole, left_out).value < 0.1
    assert reference.unexplained(nothing, left_out, nothing).value == pytest.approx(1)
    assert reference.unexplained(whole, left_out, nothing).value < 0.1


def test_rounds_of_other_settings_are_not_taken_up(tmp_path, monkeypatch):
    calls = []

    def write_round(model, tokenizer, corpus, number, hook, new_tokens, topics):
        calls.append((number, hook))
        shape = (len(topics), new_tokens)
        return reference.Written(torch.zeros(shape, dtype=torch.long), torch.full((*shape, D), float(len(calls))))

    monkeypatch.setattr(reference, "write_round", write_round)
    folder, manifest = tmp_path / "written", tmp_path / "manifest.json"
    manifest.write_text("one model")

    def written(hook="blocks.2.hook_resid_pre", new_tokens=5, topics=3, rounds=2):
        before = len(calls)
        found = reference.written_rounds(folder, manifest, None, None, rounds, hook, new_tokens, topics)
        assert {one.x.shape for one in found} == {(topics, new_tokens, D)}
        return len(calls) - before

    assert written() == 2
    assert written() == 0
    assert written(rounds=3) == 1, "more rounds leave the others as they are"
    assert written(hook="blocks.1.hook_resid_pre", rounds=1) == 1
    assert written() == 2, "the second round was of another hook, too"
    assert written(new_tokens=4) == 2
    assert written(new_tokens=4, topics=2) == 2
    manifest.write_text("another model")
    assert written(new_tokens=4, topics=2) == 2
    (folder / "rounds.json").unlink()
    assert written(new_tokens=4, topics=2) == 2, "nothing says what they are of"
    corpus = corpus_entry("self-chat")
    other = corpus.model_copy(update={"requests": corpus.requests[::-1]})
    monkeypatch.setattr(reference, "corpus_entry", lambda name: other)
    assert written(new_tokens=4, topics=2) == 2


@pytest.mark.model
def test_activations_are_those_of_the_written_tokens(model_folder, tmp_path):
    model, tokenizer = load_writer(model_folder, dtype=torch.float32), load_tokenizer(model_folder)
    corpus, hook = corpus_entry("self-chat"), "blocks.2.hook_resid_pre"
    topics = corpus.all_topics[:3]
    one = reference.write_round(model, tokenizer, corpus, 1, hook, 5, topics)
    assert one.tokens.shape == (3, 5)
    assert not np.isin(one.tokens, tokenizer.all_special_ids).any()
    from common.data.models import chat_prompt, encode

    request = corpus.requests[(1 + 2) % len(corpus.requests)].format(topics[2])
    tokens = [*encode(tokenizer, chat_prompt(tokenizer, request)), *one.tokens[2, :-1].tolist()]
    with torch.inference_mode():
        states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[2][0]
    expected = states[-5:].bfloat16().float()  # the pass that writes token t reads the one before it
    assert torch.allclose(one.x[2].float(), expected, atol=0.02 * float(expected.abs().max()), rtol=0.02)
    folder = tmp_path / "written"
    manifest = model_folder / "manifest.json"
    first = reference.written_rounds(folder, manifest, model, tokenizer, 1, hook, 5, 3)
    again = reference.written_rounds(folder, manifest, None, tokenizer, 1, hook, 5, 3)
    assert torch.equal(first[0].x, again[0].x), "what is written is not written again"
