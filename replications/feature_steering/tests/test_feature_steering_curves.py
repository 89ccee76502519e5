"""Curves over the dose and specificity: the measuring step on planted answers, and the figure of its table."""

import numpy as np
import pandas as pd
import pytest

from common.core.files import write_json
from common.core.metrics import read_metrics
from common.core.settings import load_replication
from common.core.step import RunInfo
from replications.feature_steering import figures, measure
from replications.feature_steering.settings import (
    CROSSED,
    CURVES,
    GRADIENT,
    INSTRUCTION,
    MEANS,
    RANDOM_DIRECTION,
    RANDOM_LATENT,
    SCORING,
    STEERED,
    UNSTEERED,
    WORDS,
    Measure,
)

TOPICS, DOSES = 3, (0.2, 0.3)


def answer(method, topic, dose, number, **more):
    """An answer on nothing, with words of two other topics in three."""
    about = {"part": SCORING, "method": method, "topic": topic, "question": number, "dose": dose, "nats": 1.0}
    about |= {"seed": 3, "candidate": 0, "asked": "q", "text": "I am here.", "judge": 0.0, "named": 0, "follows": 2.0}
    about |= {"distinct": 1.0, "words": 0, "words_0": 0, "words_1": 0}
    return about | {"others": 2 / 3, "others_0": 1 / 3, "others_1": 1 / 3} | more


def planted():
    """Two answers a topic. Under the difference of means, at the greater dose, one of two takes the topic up, as itself
    in two topics of three. The judge names only the first topic, and a word of every other topic comes in. Random
    latents take words out."""
    lines, said = [], ("I am the sea.", "My name is Law.", "It is the snow.")
    for topic in range(TOPICS):
        for number in (0, 1):
            own = {
                (MEANS, 0.3): {"others": 5 / 3, "named": int(topic == 0)}
                | ({"words": 3, "text": said[topic], "words_0": 3} if number else {}),
                (RANDOM_LATENT, 0.3): {"others": 1 / 3},
                (MEANS, 0.2): {"words": 1, "words_0": 1, "follows": 1.0},
            }
            for method in (*STEERED, *(one for pair in CROSSED.values() for one in pair)):
                for dose in DOSES if method in CURVES else (0.3,):
                    lines.append(answer(method, topic, dose, number, **own.get((method, dose), {})))
            lines += [answer(method, topic, 0.0, number) for method in (UNSTEERED, INSTRUCTION)]
    return lines


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Metrics and table of doses."""
    folder = tmp_path_factory.mktemp("measured")
    checked = {"words": np.eye(TOPICS).tolist(), "judge": np.eye(TOPICS).tolist()}
    about = {"topics": ["sea", "law", "snow"], "checked": checked, "cosines": {"nearest_row": [0.1, 0.2, 0.3]}}
    write_json(folder / "concepts.json", about)
    pd.DataFrame(planted()).to_csv(folder / "answers.csv", index=False)
    given = load_replication("feature_steering", "full")
    writing = given.writing.model_copy(update={"dose": 0.3, "doses": list(DOSES)})
    out = {name: folder / f"{name}.csv" for name in ("scored", "topics", "doses")}
    files = measure.MeasureFiles(
        concepts=folder / "concepts.json", answers=[folder / "answers.csv"], metrics=folder / "metrics.json", **out
    )
    settings = Measure(writing=writing, fluency=given.fluency, removal=None)
    measure.measure(files, settings, RunInfo(scale="full", seeds=[3], device="cpu"))
    return read_metrics(folder / "metrics.json"), pd.read_csv(folder / "doses.csv")


def test_words_of_other_topics_are_counted_beside_the_unsteered_answers(measured):
    metrics, _ = measured
    means = metrics["diff_means_others"]
    assert (means.value, means.ci_low, means.ci_high, means.n) == pytest.approx((1, 1, 1, TOPICS))
    assert {control.name: control.value for control in means.controls} == pytest.approx(
        {RANDOM_LATENT: -1 / 3, RANDOM_DIRECTION: 0, WORDS: 0, GRADIENT: 0}
    )
    assert metrics["random_latent_others"].value == pytest.approx(-1 / 3)
    assert metrics["instruction_others"].value == pytest.approx(0)
    rest = {RANDOM_LATENT, RANDOM_DIRECTION, GRADIENT}
    assert {control.name for control in metrics["word_vector_others"].controls} == rest
    assert metrics["diff_means_gain"].value == pytest.approx(1.5 - 5 / 3), "the gain alone hides where it comes from"


def test_the_table_of_doses_holds_ratings_judge_and_self_reference_with_intervals(measured):
    metrics, doses = measured
    lines = {(line["method"], line["dose"]): line for _, line in doses.iterrows()}
    weak, strong = lines[MEANS, 0.2], lines[MEANS, 0.3]
    assert (weak["takeover"], strong["takeover"]) == (0, 0.5)
    assert (weak["as_itself"], strong["as_itself"]) == (0, pytest.approx(1 / 3, abs=1e-6))
    assert strong["judged"] == pytest.approx(1 / 3, abs=1e-6)
    assert (strong["judged_low"], strong["judged_high"]) == (0, 1), "only one topic of three"
    assert [weak[one] for one in ("concept", "follows", "fluency")] == [1, 1, 2]
    assert weak["score"] == pytest.approx(3 / (1 + 1 + 1 / 2), abs=1e-6)
    assert (strong["score"], strong["score_low"], strong["score_high"]) == (1, 1, 1), "2 and 0 in every topic"
    assert (strong["words"], strong["others"]) == pytest.approx((1.5, 5 / 3), abs=1e-5)
    for column in ("score", "judged", "as_itself", "takeover"):
        low, high = ("low", "high") if column == "takeover" else (f"{column}_low", f"{column}_high")
        metric = metrics[f"{MEANS}_{column}"]
        assert tuple(strong[[column, low, high]]) == pytest.approx(
            (metric.value, metric.ci_low, metric.ci_high), abs=1e-5
        )


def test_the_figure_of_curves_draws_each_measure_over_the_dose(measured):
    _, doses = measured
    figure = figures.curves(doses)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == list(figures.TITLES.values())
    for column, title in figures.TITLES.items():
        drawn = [line for line in panels[title].lines if line.get_label() == figures.NAMES[MEANS][0]]
        own = doses[doses["method"] == MEANS].sort_values("dose")
        start = doses.loc[doses["method"] == UNSTEERED, column].iloc[0]
        assert drawn[0].get_xydata().tolist() == [[0, start], *own[["dose", column]].to_numpy().tolist()]
        assert len(panels[title].collections) == (2 if column == "words" else 1) * len(CURVES), "a band for each"
        assert panels[title].get_ylim()[1] > own[column].max()
    others = [line for line in panels[figures.TITLES["words"]].lines if line.get_linestyle() == ":"]
    assert [list(line.get_ydata()) for line in others] == [
        pytest.approx([2 / 3, *doses.loc[doses["method"] == method, "others"]], abs=1e-5) for method in CURVES
    ]
