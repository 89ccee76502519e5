"""The replication: topics, words, vectors, rows, fluency and metrics on planted data."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from common.core.errors import UserError
from common.core.files import read_json, write_json
from common.core.settings import load_replication
from common.core.step import RunInfo
from common.saes.sae import About, Sae
from common.saes.saelens import save_saelens
from replications.feature_steering import concepts, evidence, measure, show, steer, vectors, words
from replications.feature_steering.fluency import is_fluent, with_scores
from replications.feature_steering.prepare import own_saes
from replications.feature_steering.removal import doses_of
from replications.feature_steering.settings import (
    CROSSED,
    CURVES,
    GRADIENT,
    INPUT,
    MEANS,
    OTHER_INPUT,
    OUTPUT,
    POOLS,
    RANDOM_LATENT,
    REMOVERS,
    REMOVING_NULLS,
    SCORING,
    STEERED,
    TOGETHER,
    UNSTEERED,
    WORDS,
    Fluency,
    Show,
    Steer,
)
from replications.feature_steering.writing import Arm, Row, Writer

D, TOPICS, TEXTS = 12, 4, 5
LIMITS = Fluency(perplexity=3.0, distinct=0.7, least_words=2)


def planted(shift=3.0, seed=0):
    """Texts whose tokens are shifted along one axis a topic, in anisotropic noise."""
    x = torch.randn(TOPICS, TEXTS, 6, D, generator=torch.Generator().manual_seed(seed)) * torch.linspace(2.0, 0.3, D)
    for topic in range(TOPICS):
        x[topic, ..., D - 1 - topic] += shift
    return x


def test_calibration_and_scoring_share_no_topic_and_no_scored_question():
    calibration, scoring = concepts.topics([110, 111], 60), concepts.topics([10, 11], 60)
    assert not set(calibration) & set(scoring)
    assert len(set(calibration)) == len(set(scoring)) == 60
    asked = [concepts.scoring_questions([110]), concepts.scoring_questions([10]), concepts.CHOOSING_QUESTIONS]
    assert len(set().union(*asked)) == sum(map(len, asked))
    requests = [one for part in concepts.REQUESTS.values() for one in part]
    assert len(set(requests)) == len(requests)
    with pytest.raises(UserError, match="topics for steering, not 100"):
        concepts.topics([10], 100)


def test_every_topic_belongs_to_one_seed():
    found = [concepts.own_topics(24, place, 5) for place in range(5)]
    assert sorted(topic for own in found for topic in own) == list(range(24))


def test_vectors_judge_and_latents_find_a_planted_direction_and_nulls_do_not():
    x, axes = planted(), torch.eye(D).flip(0)[:TOPICS]
    probe, offset = vectors.fit_probe(x.mean(2), 0.1)
    for found in (vectors.difference_of_means(x), vectors.unit(probe.T.float())):
        assert torch.allclose(found.norm(dim=1), torch.ones(TOPICS), atol=1e-5)
        assert torch.equal((found @ axes.T).argmax(1), torch.arange(TOPICS))
    fresh = planted(seed=5).mean(2).double() @ probe + offset
    assert torch.equal(fresh.mean(1).argmax(1), torch.arange(TOPICS))
    assert vectors.reading(x.relu()).argmax(1).tolist() == [11, 10, 9, 8]
    pool = vectors.candidates(x.relu(), torch.eye(D), 3)
    assert pool[:, 0].tolist() == [11, 10, 9, 8]
    assert all(len(set(own)) == 3 for own in pool.tolist())
    alone = vectors.sum_of_rows(x.relu(), torch.eye(D), 1)
    assert torch.allclose(alone, axes, atol=1e-6), "the latent that the topic raises most"
    means = x.relu().mean((1, 2))
    raised = (means - (means.sum(0) - means) / (TOPICS - 1)).relu()
    assert torch.allclose(vectors.sum_of_rows(x.relu(), 2 * torch.eye(D), 64), vectors.unit(raised), atol=1e-6)
    silent = x.relu()
    silent[..., 11] = 0
    assert float(vectors.reading(silent)[0, 11]) == 0
    generator = torch.Generator().manual_seed(0)
    drawn = vectors.random_directions(x.flatten(0, 2), 4000, generator)
    spread = x.flatten(0, 2).var(0)
    assert np.corrcoef(drawn.square().mean(0), spread / spread.sum())[0, 1] > 0.98
    live = torch.arange(D) > 8
    assert set(vectors.random_latents(live, 7, generator).tolist()) == {9, 10, 11}


def test_words_join_case_and_plural_and_are_those_expected_more_than_elsewhere():
    tokens = {"Ġhorse": 0, "ĠHorses": 1, "Ġthe": 2, "horse": 3, "Ġsea": 4, "Ġ!": 5, "Ġcities": 6, "Ġcity": 7}
    known = words.vocabulary(SimpleNamespace(get_vocab=lambda: tokens), 8)
    assert known.stems == ["city", "horse", "sea", "the"]
    assert known.of_token.tolist() == [1, 1, 3, -1, 2, -1, 0, 0]
    expected = torch.tensor(
        [[0.1, 0.1, 0.6, 0, 0, 0.2, 0, 0], [0, 0, 0.2, 0, 0.1, 0.6, 0.05, 0.05]]
    )  # "the" is general
    found = words.topic_words(expected, known.of_token, 3)
    assert found.tolist() == [[1, -1, -1], [0, 2, -1]] or found.tolist() == [[1, -1, -1], [2, 0, -1]]
    texts = torch.tensor([[0, 1, 2, 0], [4, 6, 7, 2], [3, 3, 5, 2]])
    assert words.distinct_words(texts, known.of_token, found).tolist() == [[1, 0], [0, 2], [0, 0]]
    assert words.distinct_bigrams(texts[2:]).tolist() == [1.0]
    assert words.distinct_bigrams(torch.tensor([[7, 7, 7, 7]])).tolist() == pytest.approx([1 / 3])


def answers(**more):
    base = {
        "part": SCORING,
        "method": MEANS,
        "question": 0,
        "nats": 1.0,
        "distinct": 1.0,
        "words": 3,
        "words_0": 2,
        "words_1": 1,
        "others": 0.5,
        "others_0": 0.25,
        "others_1": 0.25,
        "named": 1,
        "follows": 2.0,
    }
    return base | more


def test_only_fluent_answers_take_a_topic_up():
    rows = [
        answers(method=UNSTEERED, words=0),
        answers(nats=2.0),
        answers(nats=2.2),  # more than three times the perplexity
        answers(distinct=0.6),  # a loop
        answers(words=1),
        answers(follows=1.0),
        answers(follows=0.0),  # on its topic and fluent, but it fits every other question better
    ]
    frame = with_scores(pd.DataFrame(rows), LIMITS)
    assert frame["takeover"].tolist() == [0, 1, 0, 0, 0, 1, 1]
    assert frame["judged"].tolist() == [1, 1, 0, 0, 1, 1, 1]
    assert frame["recognised"].tolist() == [0, 1, 0, 0, 0, 1, 1]
    assert frame["score"].tolist() == pytest.approx([0, 3 / 2, 0, 0, 3 / 2, 3 / 2, 0])
    assert is_fluent(pd.DataFrame(rows), LIMITS).tolist() == [True, True, False, False, True, True, True]


def test_an_answer_follows_its_question_if_no_other_question_makes_it_likelier():
    nats = {0: [1.0, 3.0, 2.0, 1.0], 1: [2.0, 2.0, 1.0, 1.0], 2: [2.0, 1.0, 3.0, 1.0]}  # question: answers

    class Known(Writer):
        def _reread(self, questions, written):
            found = [nats[int(one)][int(row)] for one, row in zip(questions - 8, written[:, 0], strict=True)]
            return torch.tensor(found)[:, None], torch.zeros(0)

    writer, own = object.__new__(Known), torch.tensor([[1.0], [3.0], [2.0], [1.0], [5.0]])
    questions, written = torch.tensor([8, 8, 8, 9, 30]), torch.tensor([[0], [1], [2], [3], [0]])
    found = writer._follows(questions, written, own, range(8, 11))
    assert found[:4].tolist() == [2, 0, 1, 2]
    assert found[4].isnan(), "an answer to another request is not rated"


def test_a_share_that_is_the_same_in_every_topic_keeps_an_interval():
    metric = evidence.over_topics(np.full(24, 0.5), "share", "f", {"never": np.zeros(24), "always": np.ones(24)})
    never, always = metric.control("never"), metric.control("always")
    assert (never.ci_low, always.ci_high) == (0, 1)
    assert 1 - never.ci_high == pytest.approx(always.ci_low) == pytest.approx(24 / (24 + 1.959964**2))
    assert 0.25 < metric.ci_low < 0.5 < metric.ci_high < 0.75
    nothing = evidence.over_topics(np.zeros(24), "share", "f", {"never": np.zeros(24)})
    assert nothing.control("never").difference.ci_high == nothing.ci_high == -nothing.control("never").difference.ci_low


def settings():
    about = load_replication("feature_steering", "full")
    return Steer(seed=3, writing=about.writing, fluency=about.fluency, removal=about.removal)


def test_all_methods_answer_the_same_questions_with_the_same_random_numbers():
    given, own = settings(), [1, 3]
    crossed = [one for pair in CROSSED.values() for one in pair]
    chosen = {method: dict.fromkeys(own, 2) for method in (*POOLS, *crossed)}
    rows = steer.scoring_rows(given, own, chosen, 8, 10, 4)
    scoring = [row for row in rows if row.part == SCORING]
    assert len(set(rows)) == len(rows), "no answer is written twice"
    unsteered = {(row.topic, row.question, row.stream) for row in scoring if row.method == UNSTEERED}
    for method in (*STEERED, *crossed):
        at_dose = [row for row in scoring if (row.method, row.dose) == (method, given.writing.dose)]
        assert {(row.topic, row.question, row.stream) for row in at_dose} == unsteered
        assert {row.dose for row in scoring if row.method == method} == (
            set(given.writing.doses) if method in CURVES else {given.writing.dose}
        )
    removing = [row for row in rows if row.part != SCORING]
    assert {row.dose for row in removing} == {-dose for own in doses_of(given.removal).values() for dose in [0.0, *own]}
    assert len({row.stream for row in rows}) == len({(row.topic, row.question, row.sample) for row in rows})
    tried = steer.choosing_rows(3, OUTPUT, 6, 0.3, 2)
    assert {row.question for row in tried} <= set(range(8)), "the choice never sees a scored question"
    assert [row.candidate for row in tried] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_gibberish_earns_no_output_score():
    share = np.array([[0.1, 0.0], [0.3, 0.0], [0.2, 0.1], [0.2, 0.1], [0.9, 0.9], [0.9, 0.9]])
    added = np.array([0.0, 0.0, 0.5, 1.5, 1.0, 1.5])  # the last candidate: 1.25 nats, beyond ln 3
    found = steer.pooled(share, added, 3, LIMITS)
    assert found == pytest.approx(np.array([[0.2, 0.0], [0.2, 0.1], [0.0, 0.0]]))


def test_every_method_moves_an_activation_by_the_dose():
    sae = Sae(About("relu"), "relu", torch.eye(D), torch.zeros(D), 2 * torch.eye(D), torch.zeros(D))
    prepared = {"norm": torch.tensor([10.0]), "diff_means": torch.eye(D)[:2], "probe": torch.eye(D)[2:4]}
    prepared |= {f"pool.{one}.3": torch.arange(2) for one in POOLS} | {
        one: torch.eye(D)[:2] for one in (*TOGETHER, WORDS, GRADIENT)
    }
    prepared["pool.random_direction.3"] = torch.eye(D)[4:6]
    prepared |= {"sae_input.3": torch.tensor([5]), "of_token": torch.zeros(2).long(), "words": torch.zeros(2, 1).long()}
    methods = steer.arms(prepared, 3, [1])
    clamped = {OUTPUT, INPUT, RANDOM_LATENT, OTHER_INPUT, *(one for pair in CROSSED.values() for one in pair)}
    assert {name for name, arm in methods.items() if arm.latent is not None} == clamped
    assert set(methods) >= {*STEERED, *REMOVERS, *REMOVING_NULLS}
    writer = Writer(None, sae, prepared, [], "", settings().writing, [], 3)
    for name, arm in methods.items():
        change = writer.steering([Row(3, SCORING, name, 1, 1, 0.2, 0, 0)], arm)(torch.zeros(1, 1, D))
        assert change.norm() == pytest.approx(2.0), name
    assert (
        writer.steering([Row(3, SCORING, "sae_input", 1, 1, 0.2, 0, 0)], Arm(latent=torch.tensor([0, 5]))).latent == 5
    )


def test_ranks_follow_axbench_only_when_the_methods_do():
    up = {(method, "score"): np.full(20, float(value)) for value, method in enumerate((OUTPUT, MEANS, "instruction"))}
    nulls = ("unsteered", "random_direction", "random_latent", "probe", INPUT)
    up |= {(method, "score"): np.zeros(20) for method in nulls}
    found = measure.order(up)["axbench_order"]
    assert (found.value, found.control("three_nulls").value) == (1.0, 0.5)
    assert found.control("prompt_over_nulls").value == 0.75, "the prompt alone decides half of the pairs"
    down = up | {(OUTPUT, "score"): np.full(20, 9.0)}
    assert measure.order(down)["axbench_order"].value == 0.5
    assert measure.order(down)["diff_means_above_sae_output"].value == 0
    assert measure.order(down)["diff_means_above_sae_input"].value == 1


def test_the_transcript_is_the_median_answer_and_not_the_best():
    def line(method, dose, number, text):
        about = {"method": method, "dose": dose, "asked": str(number), "text": text}
        return about | {"score": number, "words": 0, "takeover": number > 1}

    lines = [line(OUTPUT, 0.3, number, f"t{number}") for number in range(5)]
    lines += [line(UNSTEERED, 0.0, number, "u") for number in range(5)]
    assert show.transcript(pd.DataFrame(lines), OUTPUT, 0.3)["text"] == "t2"
    assert show.transcript(pd.DataFrame(lines[:4] + lines[5:]), OUTPUT, 0.3)["text"] == "t1", "of two the lower"


def test_a_latent_of_two_seeds_is_shown_once_where_they_share_a_dictionary(tmp_path):
    lines = [
        {"name": name, "method": method, "dose": dose, "asked": "q", "text": method, "score": 0, "words": 0,
         "takeover": False}
        for name in ("sea", "trains")
        for method, dose in ((OUTPUT, 0.3), (MEANS, 0.3), (UNSTEERED, 0.0))
    ]  # fmt: skip
    pd.DataFrame(lines).to_csv(tmp_path / "scored.csv", index=False)
    chosen = [tmp_path / f"chosen-{seed}.json" for seed in (3, 4)]
    write_json(chosen[0], [{"method": OUTPUT, "topic": 0, "latent": 7, "score": 2.0}])
    write_json(chosen[1], [{"method": OUTPUT, "topic": 1, "latent": 7, "score": 1.0}])
    record = {"index": 7, "raised": [" sea"], "contexts": []}
    about = {"topics": ["sea", "trains"], "words": [["w"]] * 2, "saes": ["d-s3", "d-s4"], "model": "m",
             "hook": "h", "norm": 1.0}  # fmt: skip
    all_settings = load_replication("feature_steering", "full").model_dump()
    own = all_settings["writing"] | {"dose": 0.3, "doses": [0.3]}
    settings = Show.model_validate({"writing": own, "demonstration": all_settings["demonstration"]})
    files = {"concepts": tmp_path / "concepts.json", "chosen": chosen, "scored": tmp_path / "scored.csv"}
    out = {"shown": tmp_path / "shown.json", "transcripts": tmp_path / "transcripts.csv"}
    run = RunInfo(scale="full", seeds=[3, 4], device="cpu")
    for others, count in ((" sea", 1), (" rail", 2)):
        latents = [record | {"seed": 3}, record | {"seed": 4, "raised": [others]}]
        write_json(files["concepts"], about | {"latents": latents})
        show.show(show.ShowFiles(**files, **out), settings, run)
        assert len(read_json(out["shown"])["latents"]) == count


def test_dictionaries_of_the_seeds_must_be_there_and_sit_at_one_hook(tmp_path):
    for name, hook in (("a-s0", "blocks.1.hook_resid_pre"), ("a-s1", "blocks.2.hook_resid_pre")):
        about = About("relu", model="m", hook=hook)
        save_saelens(Sae(about, "relu", torch.eye(D), torch.zeros(D), torch.eye(D), torch.zeros(D)), tmp_path / name)
    write_json(tmp_path / "index.json", [{"name": "a-s0"}, {"name": "a-s1"}])
    assert [sae.about.hook for sae in own_saes(tmp_path / "index.json", ["a-s0"], "m")] == ["blocks.1.hook_resid_pre"]
    with pytest.raises(UserError, match=r"no SAE 'a-s2' in .*; there are a-s0, a-s1"):
        own_saes(tmp_path / "index.json", ["a-s0", "a-s2"], "m")
    with pytest.raises(UserError, match=r"belongs to blocks\.2\.hook_resid_pre of m, not to blocks\.1"):
        own_saes(tmp_path / "index.json", ["a-s0", "a-s1"], "m")
