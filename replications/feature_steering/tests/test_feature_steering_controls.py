"""Controls: words that had no say in a choice, the rows of the words themselves, and damage without removal."""

import numpy as np
import pandas as pd
import pytest
import torch

from common.core.settings import load_replication
from common.saes.sae import About, Sae
from replications.feature_steering import concepts, measure, steer, vectors, words, writing
from replications.feature_steering.fluency import with_scores
from replications.feature_steering.removal import at_nats, doses_of, removal
from replications.feature_steering.settings import (
    CROSSED,
    INPUT,
    MEANS,
    OTHER_INPUT,
    OTHER_MEANS,
    OUTPUT,
    POOLS,
    RANDOM_LATENT,
    REMOVING,
    REMOVING_NULLS,
    SCORING,
    UNSTEERED,
    Fluency,
    Removal,
    Steer,
)
from replications.feature_steering.settings import WORDS as PUSH
from replications.feature_steering.writing import Arm, Row, Writer

D = 12
LIMITS = Fluency(perplexity=3.0, distinct=0.7, least_words=2)
WORDS = torch.tensor([[0, 2, 4], [1, 3, -1]])  # of two topics
OF_TOKEN = torch.tensor([0, 1, 2, 3, 4, -1, 0])  # tokens 0 and 6 begin the same word


def full():
    about = load_replication("feature_steering", "full")
    return Steer(seed=3, writing=about.writing, fluency=about.fluency, removal=about.removal)


def test_the_word_vector_raises_the_words_of_its_topic_over_those_of_others_more_than_any_direction():
    generator = torch.Generator().manual_seed(0)
    rows, gain = torch.randn(7, D, generator=generator), torch.rand(D, generator=generator) + 0.2
    found = vectors.word_vector(rows, gain, words.word_tokens(OF_TOKEN, WORDS))
    mean = torch.stack([rows[[0, 2, 4, 6]].mean(0), rows[[1, 3]].mean(0)]) * gain
    assert torch.allclose(found[0], vectors.unit(mean[0] - mean[1]), atol=1e-6)

    def lead(directions):
        logits = (directions * gain) @ rows.T
        return logits[:, [0, 2, 4, 6]].mean(1) - logits[:, [1, 3]].mean(1)

    others = vectors.unit(torch.randn(5000, D, generator=generator))
    assert lead(found[:1]) > lead(others).max()


def test_halves_of_the_words_share_none_and_leave_none_out():
    first, second = words.halves(WORDS)
    assert (first.tolist(), second.tolist()) == ([[0, 4], [1, -1]], [[2], [3]])


class Planted(Writer):
    """A writer whose model is replaced: three candidates, which make it say words of the first half, of the second, and
    of none. The third pool's candidates cost too much."""

    def __init__(self):
        self.seed, self.writing, self.asked = 3, full().writing, []
        self.halves, self.prepared = words.halves(WORDS), {"of_token": OF_TOKEN, "words": WORDS}
        self.prepared |= {"judge.weights": torch.eye(2).double(), "judge.offset": torch.zeros(2).double()}

    def write(self, rows, arms):
        return torch.zeros(len(rows), 4, dtype=torch.long)

    def expects(self, rows, texts, arm):
        if arm is None:
            return torch.zeros(len(rows), 6), torch.zeros(len(rows))
        by_half = torch.tensor([[0.2, 0.0], [0.0, 0.3], [0.0, 0.0]])[[row.candidate for row in rows]]
        share = torch.stack([by_half.sum(1), *by_half.T], 1).repeat_interleave(2, dim=1)
        return share, torch.full((len(rows),), 9.0 if rows[0].method == "random_direction" else 0.0)

    def _reread(self, questions, written):
        self.asked.append(torch.cat([questions[:, None], written], 1).tolist())
        return torch.ones(written.shape), torch.tensor([[1.0, 0.0]]).repeat(len(written), 1)


def test_each_half_of_the_words_chooses_by_itself():
    scores = steer.output_scores(Planted(), dict.fromkeys(POOLS, Arm()), 3, LIMITS)
    assert {method: score[:, 0].argmax() for method, score in scores.items() if score.any()} == {
        OUTPUT: 1,
        "sae_output_0": 0,
        "sae_output_1": 1,
        RANDOM_LATENT: 1,
        "random_latent_0": 0,
        "random_latent_1": 1,
    }
    assert scores[OUTPUT][:, 1] == pytest.approx([0.2, 0.3, 0])
    assert not scores["random_direction"].any()


def test_words_are_counted_by_half_and_equal_texts_are_read_once():
    writer = Planted()
    rows = [Row(3, SCORING, method, topic, 0, 0.2, 8, 8) for method, topic in ((OUTPUT, 0), (INPUT, 1), (MEANS, 0))]
    written = torch.tensor([[0, 6, 4, 3], [0, 6, 4, 3], [2, 2, 5, 0]])
    frame = writer.read(rows, written, range(8, 11))
    assert all(len(asked) == 2 for asked in writer.asked), "two distinct texts"
    assert frame["words_0"].tolist() == [2, 0, 1], "two tokens of one word count once"
    assert frame["words_1"].tolist() == [0, 1, 1]
    assert frame["words"].tolist() == [2, 1, 2]
    assert frame["others"].tolist() == [1, 2, 0]
    assert frame["others_0"].tolist() == [0, 2, 0]
    assert frame["named"].tolist() == [1, 0, 1]
    assert frame["distinct"].tolist() == [1, 1, 1]


def test_equal_rows_are_written_once_and_others_are_not_mixed_up(monkeypatch):
    sae = Sae(
        About("relu", hook="blocks.0.hook_resid_pre"),
        "relu",
        torch.eye(D),
        torch.zeros(D),
        torch.eye(D),
        torch.zeros(D),
    )
    prepared = {"norm": torch.tensor([10.0]), "of_token": OF_TOKEN, "words": WORDS}
    model = type("Model", (), {"device": "cpu"})()
    writer = Writer(model, sae, prepared, [[1, 2]] * 4, "", full().writing, [], 3)
    seen = []

    def generate(model, prompts, at, hook, edit, new_tokens, sampler, whole_prompt):
        own = [None] * len(at) if edit is None else (edit.latent if edit.latent is not None else edit.direction[:, 0])
        streams = [sampler.distinct[one] for one in sampler.stream.tolist()]
        seen.extend(streams)
        told = [
            [-1 if value is None else int(value), stream % 10_000] for value, stream in zip(own, streams, strict=True)
        ]
        return torch.tensor([one + [0] * (new_tokens - 2) for one in told])

    monkeypatch.setattr(writing, "generate", generate)
    latents = Arm(latent=torch.tensor([5, 7, 5]))
    arms = {
        OUTPUT: latents,
        "sae_output_0": latents,
        INPUT: Arm(latent=torch.tensor([7, 7])),
        MEANS: Arm(direction=3 * torch.eye(D)),
    }

    def row(method, candidate, topic=1, dose=0.2, sample=0):
        return Row(3, SCORING, method, topic, candidate, dose, 2, 2, sample)

    rows = [
        row(OUTPUT, 0),
        row("sae_output_0", 2),
        row(INPUT, 1),
        row(OUTPUT, 1),
        row(MEANS, 0),
        row(MEANS, 1),
        row(UNSTEERED, 1),
        row("instruction", 1),
        row(OUTPUT, 0, dose=0.3),
        row(OUTPUT, 0, sample=1),
    ]
    found = writer.write(rows, arms)[:, :2].tolist()
    assert [one for one, _ in found] == [5, 5, 7, 7, 3, 0, -1, -1, 5, 5]
    assert all(topic == 1 for _, topic in found)
    assert len(seen) == 7, "0 and 1, 2 and 3, 6 and 7 are the same answers: one prompt, one stream, one latent"
    with pytest.raises(KeyError):
        writer.write([row("forgotten", 0)], arms)


def test_more_answers_than_questions_have_other_random_numbers():
    given = full()
    given = given.model_copy(update={"writing": given.writing.model_copy(update={"scoring": 20})})
    chosen = {method: {1: 0} for method in (*POOLS, *(one for pair in CROSSED.values() for one in pair))}
    rows = [row for row in steer.scoring_rows(given, [1], chosen, 8, 10, 4) if row.part == SCORING]
    unsteered = [row for row in rows if row.method == UNSTEERED]
    assert len({row.stream for row in unsteered}) == len(unsteered) == 20
    assert len({row.prompt for row in unsteered}) == 10


def test_what_only_says_the_words_that_chose_it_gains_nothing_by_the_unseen_ones():
    def answer(method, topic, first, second):
        about = {"part": SCORING, "method": method, "topic": topic, "question": 0, "dose": 0.2, "nats": 1.0}
        about |= {"distinct": 1.0, "named": 1, "follows": 2.0, "others": 0, "others_0": 0, "others_1": 0}
        return about | {"words_0": first, "words_1": second, "words": first + second}

    def unseen(first, second):
        lines = [answer(UNSTEERED, topic, 0, 0) for topic in range(4)]
        for topic in range(4):
            lines += [answer("sae_output_0", topic, *first), answer("sae_output_1", topic, *second)]
            lines += [answer(one, topic, 0, 0) for one in CROSSED[RANDOM_LATENT]] + [answer(INPUT, topic, 1, 0)]
        return measure.by_unseen_words(measure.unseen(with_scores(pd.DataFrame(lines), LIMITS), 0.2))

    parrot = unseen((4, 0), (0, 4))
    assert (parrot["sae_output_unseen_gain"].value, parrot["sae_output_unseen_takeover"].value) == (0, 0)
    assert parrot["output_over_input_unseen_gain"].value == -1
    assert parrot["output_over_input_unseen_gain"].control(RANDOM_LATENT).value == -1
    apart = unseen((2, 3), (1, 2))
    assert apart["sae_output_unseen_gain"].value == 4, "3 of one half and 1 of the other"
    assert apart["output_over_input_unseen_gain"].value == 3
    assert apart["sae_output_unseen_takeover"].value == 1


def test_a_control_is_read_off_at_equal_perplexity():
    falls, paid = np.array([[1.0, 10.0], [3.0, 30.0]]), np.array([0.5, 1.0])
    for nats, own in ((0.25, 0.5), (0.5, 1.0), (0.75, 2.0), (1.0, 3.0), (2.0, 3.0), (-1.0, 0.0)):
        assert at_nats(falls, paid, nats) == pytest.approx([own, 10 * own])


def removing(method, dose, fall, added):
    return [
        {"method": method, "topic": topic, "dose": -dose, "words": 5 + topic - fall, "added": added}
        for topic in range(4)
    ]


def test_removal_that_is_damage_alone_has_no_excess():
    settings = Removal(doses=[0.2, 0.4], strongest=0.6, samples=1)

    def excess(of_topic):
        lines = removing(UNSTEERED, 0.0, 0.0, 0.0)
        for dose in settings.doses:  # the topic's own costs more at equal dose
            lines += removing(INPUT, dose, of_topic * 1.5 * dose, 1.5 * dose) + removing(MEANS, dose, 9.0, dose)
        for dose in (*settings.doses, settings.strongest):
            lines += removing(RANDOM_LATENT, dose, dose, dose) + removing(OTHER_INPUT, dose, 2 * dose, 2 * dose)
            lines += removing(OTHER_MEANS, dose, 3 * dose, dose)
        for dose in doses_of(settings)[PUSH]:
            lines += removing(PUSH, dose, 4 * dose, 2 * dose)
        return removal(pd.DataFrame(lines), settings)

    found = excess(1.0)
    assert found["remove_sae_input_20_fall"].value == pytest.approx(0.3)
    assert found["remove_sae_input_20_fall"].control(RANDOM_LATENT).value == pytest.approx(0.3)
    assert found["remove_sae_input_excess"].value == pytest.approx(0)
    assert found["remove_sae_input_excess"].control(OTHER_INPUT).value == pytest.approx(0)
    assert found["remove_diff_means_excess"].value == pytest.approx(9 - 0.3)
    assert found["remove_diff_means_excess"].control(OTHER_MEANS).value == pytest.approx(0.6)
    assert found["remove_diff_means_excess"].control(PUSH).value == pytest.approx(0.3), "4 words for 2 nats"
    assert found["remove_random_latent_60_nats"].value == pytest.approx(0.6)
    assert excess(2.0)["remove_sae_input_excess"].value == pytest.approx(0.45)


def test_removal_is_compared_with_another_topic_of_the_same_seed():
    given = Removal(doses=[0.2, 0.3], strongest=0.5, samples=2)
    rows = steer.removing_rows(3, given, [1, 3, 5], {RANDOM_LATENT: {1: 7, 3: 8, 5: 9}}, 50)
    assert len(set(rows)) == len(rows)
    for method, wanted in (
        (OTHER_INPUT, [3, 5, 1]),
        (OTHER_MEANS, [3, 5, 1]),
        (INPUT, [1, 3, 5]),
        (RANDOM_LATENT, [7, 8, 9]),
    ):
        own = {row.topic: row.candidate for row in rows if row.method == method}
        assert [own[topic] for topic in (1, 3, 5)] == wanted
    doses = {method: {row.dose for row in rows if row.method == method} for method in (INPUT, *REMOVING_NULLS)}
    assert doses.pop(INPUT) == {-0.2, -0.3}
    assert doses.pop(PUSH) == {-0.2, -0.3, -0.5, -1.0}, "a weak push needs a greater dose to cost as much"
    assert all(own == {-0.2, -0.3, -0.5} for own in doses.values())
    assert {row.part for row in rows} == {REMOVING}
    assert {row.prompt for row in rows if row.topic == 3} == {50 + 3 * len(concepts.REQUESTS["checking"])}
    streams = [row.stream for row in rows if row.method == UNSTEERED]
    assert len(set(streams)) == len(streams) == 6
