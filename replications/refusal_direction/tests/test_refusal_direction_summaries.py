"""The refusal direction: metrics from tables made by hand, who is resampled with whom, and the rule of the choice."""

import numpy as np
import pandas as pd
import pytest

from replications.refusal_direction.comparisons import Studied, changes, cluster_ids, ratios, requests
from replications.refusal_direction.direction_metrics import agreement
from replications.refusal_direction.effect_figures import spaced
from replications.refusal_direction.search import ranked, survives
from replications.refusal_direction.summarise import shown_tokens


def planted(shift: float) -> Studied:
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
    return Studied({"answers": answers, "surgical": surgical}, {}, {})


def test_summaries_by_hand():
    arms = [planted(0.0), planted(2.0)]
    random = {"random": ("harmful", "random ablated")}
    refused = requests(arms, ("harmful", "ablated"), random)
    assert (refused.value, refused.per_seed) == (0, [0, 0])
    assert (refused.control("random").value, refused.control("random").difference.value) == (1, -1)
    drop = requests(arms, ("harmful", "ablated"), random, column="metric", fall_from=("harmful", "tuned"))
    assert (drop.value, drop.n, drop.control("random").value) == (6.0, 20, 0.5)
    ratio = ratios(arms, "kl", "ablated", {"random": "random"})
    assert ratio.value == pytest.approx((1 + 3) / (2 + 4))
    assert ratio.per_seed == pytest.approx([0.5, 0.75])


def test_arms_that_share_topics_are_resampled_together():
    """Four seeds with the same two topics: two clusters if they share them, eight if they do not."""
    answers = planted(0.0).tables["answers"].assign(refused=[1] * 5 + [0] * 25)
    apart, shared = (
        requests([Studied({"answers": answers}, {}, {}, topics)] * 4, ("harmful", "tuned")) for topics in (None, "all")
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


def surgical_arm(values, topics) -> Studied:
    rows = [("kl", item, topic, name, value * factor)
            for name, factor in (("tuned", 1.0), ("ablated", 0.5), ("random", 0.9))
            for item, (topic, value) in enumerate(zip(topics, values, strict=True))]  # fmt: skip
    return Studied(
        {"surgical": pd.DataFrame(rows, columns=["quantity", "item", "topic", "condition", "value"])}, {}, {}
    )


def test_requests_are_resampled_by_topic_and_texts_by_item():
    """Topics agree within and differ between: resampling topics gives a wide interval. Item numbers of two seeds mix
    the topics, since they come in another order, so resampling these would hide it. Texts have no topic, and are the
    same ones in every seed."""
    first = surgical_arm([1.0] * 6 + [9.0] * 6, ["a"] * 6 + ["b"] * 6)
    second = surgical_arm([9.0] * 6 + [1.0] * 6, ["c"] * 6 + ["d"] * 6)
    by_topic = changes([first, second], "kl", "ablated", "tuned", {"random": "random"})
    texts = [surgical_arm(arm.tables["surgical"].query("condition == 'tuned'")["value"], [np.nan] * 12)
             for arm in (first, second)]  # fmt: skip
    by_item = changes(texts, "kl", "ablated", "tuned", {"random": "random"})
    assert by_topic.value == by_item.value == -2.5
    assert by_topic.ci_high - by_topic.ci_low > 2
    assert by_item.ci_high - by_item.ci_low == pytest.approx(0, abs=1e-9)
    apart = ratios([first, second], "kl", "ablated", {"random": "random"})
    assert (apart.value, apart.per_seed) == (pytest.approx(0.5), pytest.approx([0.5, 0.5]))
    shared = [first._replace(topics="all"), second._replace(topics="all")]
    assert cluster_ids(shared, "kl", "tuned")[0][0] == "all a"
    assert cluster_ids([first, second], "kl", "tuned")[1][0] == "1 c"


def test_shown_tokens_that_are_not_scored():
    rows = [(0.9, 0.3, 1), (0.4, 0.1, 0), (0.7, 0.05, 0)]
    found = shown_tokens([np.array(rows)])
    values = {name: metric.value for name, metric in found.items()}
    assert (values["tokens_trained"], values["tokens_unscored"], values["auroc_worst_trained"]) == (3, 2, 0.4)
    assert values["tokens_unscored_share"] == pytest.approx(0.15)


def candidates(kl, bypass) -> Studied:
    """Four finalists: two along x, one along y, one along -x."""
    scores = pd.DataFrame({"position": [0, 0, 1, 1], "layer": [0, 1, 0, 1], "bypass": bypass, "induce": 1.0, "kl": kl})
    vectors = np.array([[[1.0, 0], [3, 0]], [[0, 2], [-1, 0]]])
    return Studied({"scores": scores.assign(stage="final", labels="true")}, {}, {"differences": vectors})


@pytest.mark.parametrize(
    ("kl", "bypass", "expected"),
    [
        ([0.05, 0.05, 0.05, 0.5], [-1, -1, -1, -1], (1 / 3, 0, 3, 1, 0)),  # three pass
        ([0.05, 0.5, 0.5, 0.5], [-1, -1, -1, 1], (1 / 3, 0, 3, 0, 1)),  # one passes, three work
        ([0.5, 0.5, 0.5, 0.5], [1, 1, 1, -1], (-1 / 6, -1, 4, 0, 0)),  # one works: all
    ],
)
def test_cosines_of_the_candidates_that_are_left(kl, bypass, expected):
    found = agreement([candidates(kl, bypass)])
    names = ("cosine_candidates_mean", "cosine_candidates_min", "candidates_compared", "compared_pass", "compared_work")
    assert [found[name].value for name in names] == pytest.approx(expected)
    alone = candidates(kl, bypass)
    alone.tables["scores"] = alone.tables["scores"].head(1)
    assert agreement([alone]) == {}


def test_layers_of_the_histograms():
    assert spaced(29, 17) == [1, 8, 17, 22, 29]
    assert spaced(29, 1) == [1, 8, 15, 22, 29]
    assert 0 in spaced(2, 0)


def test_a_control_of_another_class_is_resampled_by_its_own_topics():
    """Harmless requests have topics of their own; the difference is still effect minus control on as many requests."""
    table = pd.concat(
        pd.DataFrame({"topic": topics, "refused": refused, "class": kind, "condition": "tuned"})
        for kind, topics, refused in (("harmful", list("aabb"), [1, 1, 1, 0]), ("harmless", list("cdcdcd"), [0, 1] * 3))
    )
    found = requests([Studied({"answers": table}, {}, {})], ("harmless", "tuned"), {"harmful": ("harmful", "tuned")})
    control = found.control("harmful")
    assert (found.value, control.value, control.difference.value) == (0.5, 0.75, -0.25)
    assert (found.ci_low, found.ci_high, control.ci_low, control.ci_high) == (0, 1, 0.5, 1)


def test_no_share_has_an_interval_without_width():
    """0 of 20 requests against all of 20: Wilson's bounds are z^2 / (n + z^2) from 0 and 1; Newcombe joins them."""
    arms = [planted(0.0), planted(2.0)]
    found = requests(arms, ("harmful", "ablated"), {"random": ("harmful", "random ablated")})
    bound = 1.959964**2 / (20 + 1.959964**2)
    control = found.control("random")
    assert (found.ci_low, found.ci_high) == (0, pytest.approx(bound))
    assert (control.ci_low, control.ci_high) == (pytest.approx(1 - bound), 1)
    assert (control.difference.ci_low, control.difference.ci_high) == (-1, pytest.approx(-1 + 2**0.5 * bound))
    assert found.per_seed == [0, 0]


def test_a_share_with_spread_keeps_its_bootstrap_interval():
    table = planted(0.0).tables["answers"].query("condition == 'ablated'").assign(refused=[1] * 5 + [0] * 5)
    found = requests([Studied({"answers": table}, {}, {})] * 2, ("harmful", "ablated"))
    assert (found.value, found.ci_low, found.ci_high) == (0.5, 0, 1)


def test_losses_as_a_share_of_those_under_another_condition():
    """KL of 1 ablated, 2 tuned, 2 random; all rise by 2 in the second seed: the changes are -1 and 0."""
    arms = [planted(0.0), planted(2.0)]
    found = changes(arms, "kl", "random", "ablated", {"tuned": "tuned"}, over="tuned")
    assert (found.value, found.unit, found.control("tuned").value) == (1, "1", 1)
