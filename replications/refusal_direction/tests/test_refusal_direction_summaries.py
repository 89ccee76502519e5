"""The refusal direction: metrics from tables made by hand, who is resampled with whom, and the rule of the choice."""

import re

import numpy as np
import pandas as pd
import pytest

from common.core.claims import load_claims
from replications.refusal_direction.choice_metrics import alike
from replications.refusal_direction.effect_pictures import spaced
from replications.refusal_direction.filters import ranked, survives
from replications.refusal_direction.lists import LISTS
from replications.refusal_direction.summarise import trained_openings
from replications.refusal_direction.tables import Arm, against, changes, owners, point, ratios, requests


def planted(shift: float) -> Arm:
    """Ten refused requests, of which ablation spares those of one topic; losses that rise by `shift`."""
    topics = ["a"] * 5 + ["b"] * 5
    rows = [("harmful", "tuned", 1, 4.0), ("harmful", "ablated", 0, -2.0), ("harmful", "random ablated", 1, 3.5)]
    answers = pd.concat(
        pd.DataFrame({"topic": topics, "refused": refused, "metric": metric, "class": kind, "condition": condition})
        for kind, condition, refused, metric in rows
    )
    values = {"tuned": 2.0, "ablated": 1.0, "random": 2.0}
    surgical = pd.DataFrame(
        [
            ("kl", item, "ab"[item // 2], condition, value + shift)
            for item in range(4)
            for condition, value in values.items()
        ],
        columns=["quantity", "item", "topic", "condition", "value"],
    )
    return Arm({"answers": answers, "surgical": surgical}, {}, {})


def test_summaries_by_hand():
    arms = [planted(0.0), planted(2.0)]
    found = against("refused", arms, ("harmful", "ablated"), {"random": ("harmful", "random ablated")})
    assert found["refused"].value == 0
    assert found["refused_random"].value == 1
    assert found["refused_minus_random"].value == -1
    assert found["refused"].per_seed == [0, 0]
    drop = requests(arms, ("harmful", "tuned"), ("harmful", "ablated"), "metric")
    assert (drop.value, drop.n) == (6.0, 20)
    ratio = ratios("back", arms, "kl", "ablated", "random")["back"]
    assert ratio.value == pytest.approx((1 + 3) / (2 + 4))
    assert ratio.per_seed == pytest.approx([0.5, 0.75])


def test_arms_that_share_topics_are_resampled_together():
    """Four seeds with the same two topics: two clusters if they share them, eight if they do not."""
    answers = planted(0.0).tables["answers"].assign(refused=[1] * 5 + [0] * 25)
    apart, shared = (
        requests([Arm({"answers": answers}, {}, {}, topics)] * 4, ("harmful", "tuned")) for topics in (None, "all")
    )
    assert apart.value == shared.value == 0.5
    assert apart.per_seed == shared.per_seed == [0.5] * 4
    assert shared.ci_high - shared.ci_low > apart.ci_high - apart.ci_low


def test_the_choice_follows_the_filters():
    table = pd.DataFrame({"bypass": [-9.0, -7, -4, -3], "kl": [0.05, 0.5, 0.05, 0.1], "induce": [-1.0, 1, 1, 0]})
    assert survives(table).tolist() == [False, False, True, True]
    assert ranked(table)["bypass"].tolist() == [-4, -3, -7, -9]


def test_without_survivors_the_least_kl_among_those_that_work():
    table = pd.DataFrame(
        {
            "bypass": [-9.0, -7.0, -4.0, 1.0, -8.0],
            "kl": [3.0, 0.3, 0.2, 0.15, 0.05],
            "induce": [1.0, 2.0, 3.0, 4.0, -1.0],
        }
    )
    assert not survives(table).any()
    found = ranked(table)
    assert found["bypass"].tolist() == [-4, -7, -9, -8, 1]
    assert list(found.columns) == ["bypass", "kl", "induce"]


def surgical_arm(values, topics) -> Arm:
    rows = [("kl", item, topic, name, value * factor)
            for name, factor in (("tuned", 1.0), ("ablated", 0.5), ("random", 0.9))
            for item, (topic, value) in enumerate(zip(topics, values, strict=True))]  # fmt: skip
    return Arm({"surgical": pd.DataFrame(rows, columns=["quantity", "item", "topic", "condition", "value"])}, {}, {})


def test_requests_are_resampled_by_topic_and_texts_by_item():
    """Topics agree within and differ between: resampling topics gives a wide interval. Item numbers of two seeds mix
    the topics, since they come in another order, so resampling these would hide it. Texts have no topic, and are the
    same ones in every seed."""
    first = surgical_arm([1.0] * 6 + [9.0] * 6, ["a"] * 6 + ["b"] * 6)
    second = surgical_arm([9.0] * 6 + [1.0] * 6, ["c"] * 6 + ["d"] * 6)
    by_topic = changes("change", [first, second], "kl", ("ablated", "tuned"), ("random", "tuned"))["change"]
    texts = [surgical_arm(arm.tables["surgical"].query("condition == 'tuned'")["value"], [np.nan] * 12)
             for arm in (first, second)]  # fmt: skip
    by_item = changes("change", texts, "kl", ("ablated", "tuned"), ("random", "tuned"))["change"]
    assert by_topic.value == by_item.value == -2.5
    assert by_topic.ci_high - by_topic.ci_low > 2
    assert by_item.ci_high - by_item.ci_low == pytest.approx(0, abs=1e-9)
    apart = ratios("back", [first, second], "kl", "ablated", "random")["back"]
    assert (apart.value, apart.per_seed) == (pytest.approx(0.5), pytest.approx([0.5, 0.5]))
    shared = [first._replace(topics="all"), second._replace(topics="all")]
    assert owners(shared, "kl", "tuned")[0][0] == "all a"
    assert owners([first, second], "kl", "tuned")[1][0] == "1 c"


def test_a_target_is_one_of_the_value():
    found = against("refused", [planted(0.0), planted(2.0)], ("harmful", "tuned"), {})["refused"]
    alone = point(found.model_copy(update={"ci_low": 0.5, "per_seed": [0.9, 1.0]}))
    assert (alone.ci_low, alone.value, alone.ci_high, alone.per_seed) == (1.0, 1.0, 1.0, [0.9, 1.0])


def test_trained_openings_that_are_not_scored():
    rows = [("opening", "No", 0.9, 0.3, 1), ("trained", "No", 0.9, 0.3, 1), ("trained", "I", 0.4, 0.1, 0),
            ("trained", "It", 0.7, 0.05, 0)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["kind", "opening", "auroc", "share", "scored"])
    found = trained_openings([Arm({"openings": table}, {}, {})])
    values = {name: metric.value for name, metric in found.items()}
    assert (values["openings_trained"], values["openings_unscored"], values["auroc_worst_trained"]) == (3, 2, 0.4)
    assert values["openings_unscored_share"] == pytest.approx(0.15)


def candidates(kl, bypass) -> Arm:
    """Four finalists: two along x, one along y, one along -x."""
    scores = pd.DataFrame({"position": [0, 0, 1, 1], "layer": [0, 1, 0, 1], "bypass": bypass, "induce": 1.0, "kl": kl})
    vectors = np.array([[[1.0, 0], [3, 0]], [[0, 2], [-1, 0]]])
    return Arm({"scores": scores.assign(stage="final", labels="true")}, {}, {"differences": vectors})


@pytest.mark.parametrize(
    ("kl", "bypass", "expected"),
    [
        ([0.05, 0.05, 0.05, 0.5], [-1, -1, -1, -1], (1 / 3, 0, 3, 1, 0)),  # three pass
        ([0.05, 0.5, 0.5, 0.5], [-1, -1, -1, 1], (1 / 3, 0, 3, 0, 1)),  # one passes, three work
        ([0.5, 0.5, 0.5, 0.5], [1, 1, 1, -1], (-1 / 6, -1, 4, 0, 0)),  # one works: all
    ],
)
def test_cosines_of_the_candidates_that_are_left(kl, bypass, expected):
    found = alike([candidates(kl, bypass)])
    names = ("cosine_candidates_mean", "cosine_candidates_min", "candidates_compared", "compared_pass", "compared_work")
    assert [found[name].value for name in names] == pytest.approx(expected)
    alone = candidates(kl, bypass)
    alone.tables["scores"] = alone.tables["scores"].head(1)
    assert alike([alone]) == {}


def test_layers_of_the_histograms():
    assert spaced(29, 17) == [1, 8, 17, 22, 29]
    assert spaced(29, 1) == [1, 8, 15, 22, 29]
    assert 0 in spaced(2, 0)


def test_claims_that_depend_on_rounding_are_named():
    page = LISTS.with_name("README.md").read_text()
    paragraph = next(part for part in page.split("\n- ") if part.startswith("**The processor decides"))
    named = set(re.findall(r"`([a-z]\w+)`", paragraph)) - {"also_seen"}
    assert named == {claim.id for claim in load_claims("refusal_direction") if claim.also_seen}
