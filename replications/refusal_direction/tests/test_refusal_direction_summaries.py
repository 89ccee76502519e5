"""The refusal direction: metrics from tables made by hand, who is resampled with whom, and the rule of the choice."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from common.core.statistics import over_seeds
from replications.refusal_direction.comparisons import SEARCHED, Studied, requests, rises
from replications.refusal_direction.loss_figures import corpus_rows, losses
from replications.refusal_direction.search import ranked, survives
from replications.refusal_direction.summarise import crossed, separation
from replications.refusal_direction.summarise_recipes import by_recipe


def planted(shift: float) -> Studied:
    """Ten refused requests, of which ablation spares those of one topic; KL and losses that rise by `shift`."""
    topics = ["a"] * 5 + ["b"] * 5
    rows = [("harmful", "tuned", 1, 4.0), ("harmful", "ablated", 0, -2.0), ("harmful", "random ablated", 1, 3.5)]
    answers = pd.concat(
        pd.DataFrame(
            {"topic": topics, "refused": refused, "metric": metric, "class": kind, "condition": condition}
            | {"kl_before": metric + 3 + shift}
        )
        for kind, condition, refused, metric in rows
    )
    values = {"tuned": 2.0, "ablated": 2.5, "subtracted": 2.0 + 1 / (1 + shift), "damage ablated": 4.0, "weights": 2.25}
    values |= {"least subtracted": 2.75, "cheapest ablated": 3.0}
    losses = pd.DataFrame(
        [("docs", item, condition, value) for item in range(4) for condition, value in values.items()],
        columns=["corpus", "item", "condition", "value"],
    )
    return Studied({"answers": answers, "losses": losses}, {}, {})


def test_summaries_by_hand():
    arms = [planted(0.0), planted(2.0)]
    random = {"random": ("harmful", "random ablated")}
    refused = requests(arms, ("harmful", "ablated"), random)
    assert (refused.value, refused.per_seed) == (0, [0, 0])
    assert (refused.control("random").value, refused.control("random").difference.value) == (1, -1)
    ratio = requests(arms, ("harmful", "ablated"), random, column="kl_before", over=("harmful", "tuned"))
    assert ratio.value == pytest.approx((1 + 3) / (7 + 9))
    assert ratio.control("random").value == pytest.approx((6.5 + 8.5) / (7 + 9))
    assert ratio.per_seed == pytest.approx([1 / 7, 3 / 9])


def test_rises_of_the_loss_by_hand():
    """0.5 ablated; 1 and a third subtracted; 2 by damage."""
    arms = [planted(0.0), planted(2.0)]
    found = rises(arms, "docs", "ablated", {"damage": "damage ablated"}, None)
    assert (found.value, found.control("damage").value, found.unit) == (0.5, 2, "nats")
    share = rises(arms, "docs", "ablated", {"damage": "damage ablated"}, "subtracted")
    assert share.value == pytest.approx(0.5 / (2 / 3))
    assert share.per_seed == pytest.approx([0.5, 1.5])


def test_what_the_figure_of_losses_draws_by_hand():
    """Losses as planted, rises over `tuned`, one row a seed; subtraction rises by 1 and by a third."""
    drawn = corpus_rows([planted(0.0), planted(2.0)], "docs")
    means = drawn.groupby(["quantity", "condition"])["value"].first()
    assert means["loss"].to_dict() == pytest.approx(
        {"tuned": 2, "ablated": 2.5, "weights": 2.25, "subtracted": 2 + 2 / 3, "damage ablated": 4}
        | {"least subtracted": 2.75, "cheapest ablated": 3}
    )
    assert means["rise"].to_dict() == pytest.approx(
        {"ablated": 0.5, "weights": 0.25, "subtracted": 2 / 3, "damage ablated": 2}
        | {"least subtracted": 0.75, "cheapest ablated": 1}
    )
    subtracted = drawn[(drawn["condition"] == "subtracted") & (drawn["quantity"] == "rise")]
    assert subtracted["seed_value"].tolist() == pytest.approx([1, 1 / 3])
    figure, table = losses([planted(0.0), planted(2.0)])
    assert [axes.get_title() for axes in figure.axes] == ["docs: loss", "docs: rise on the same texts"]
    assert len(table) == len(drawn)


def test_recipes_by_hand():
    """Free weights leave one of two requests, rank 1 none; both seeds alike."""
    rows = []
    for seed in ("1", "2"):
        for rank, left in ((1, 0), (0, 1)):
            for kind in ("harmful", "harmless"):
                for vectors, count in (("none", 0), ("found", 1), ("random", 1)):
                    refused = 1 if vectors != "found" else left
                    rows += [(seed, rank, kind, vectors, count, topic, refused * (topic == "a"), 0.5) for topic in "ab"]
    names = ["seed", "rank", "class", "vectors", "directions", "topic", "refused", "kl_tuned"]
    found = by_recipe(pd.DataFrame(rows, columns=names))
    assert (found["left_rank_1_1"].value, found["left_full_1"].value, found["left_full_0"].value) == (0, 0.5, 0.5)
    assert found["left_rank_1_1"].control("random").value == 0.5
    assert found["full_left_1"].control("rank_1").difference.value == 0.5
    assert found["kl_full_1"].value == 0.5
    assert found["refused_least"].value == min(found["left_rank_1_0"].value, found["left_full_0"].value)


def test_exchanged_directions_face_all_controls_of_both_models(tmp_path):
    names = ("random", "permuted", "other_topic", "earlier")
    kinds = (("harmful", "ablated", 1), ("harmless", "added", 0))
    own = pd.concat(
        pd.DataFrame({"topic": list("ab"), "class": kind, "condition": condition, "refused": refused})
        for kind, how, null in kinds
        for condition, refused in {how: 1 - null, **{f"{name} {how}": null for name in names}}.items()
    )
    rows = [("harmless", "foreign added", [1, 0]), ("harmful", "foreign ablated", [1, 0])]
    rows += [("harmful", f"foreign {name} ablated", [1, 1]) for name in names]
    foreign = pd.concat(
        pd.DataFrame({"topic": list("ab"), "class": kind, "condition": condition, "refused": refused, "model": model})
        for kind, condition, refused in rows
        for model in ("harmful", "food")
    )
    foreign.to_csv(tmp_path / "7-8.csv", index=False)
    study = Studied({"answers": own}, {}, {})
    found = crossed([study], [study], [tmp_path / "7-8.csv"])
    for model in ("harm", "food"):
        ablated, added = found[f"{model}_foreign_ablated"], found[f"{model}_foreign_added"]
        assert [one.name for one in ablated.controls] == [*names, *(f"foreign_{name}" for name in names)]
        assert {one.value for one in ablated.controls} == {1}
        assert [one.name for one in added.controls] == list(names)
        assert ablated.value == added.value == 0.5
        kept = found[f"{model}_own_ablated"]
        assert (kept.value, kept.control("foreign").difference.value) == (0, -0.5)


def test_separation_of_the_classes():
    table = pd.concat(
        pd.DataFrame({"topic": list("abcd"), "metric": metric, "class": kind, "condition": "tuned"})
        for kind, metric in (("harmful", [4.0, 3.0, 2.0, -1.0]), ("harmless", [-4.0, -3.0, 0.0, -5.0]))
    )
    assert separation([Studied({"answers": table}, {}, {})]).value == 15 / 16


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


def test_without_survivors_the_limit_on_kl_is_relaxed_then_the_least_kl_of_what_works():
    table = pd.DataFrame(
        {
            "bypass": [-9.0, -7.0, -4.0, 1.0, -8.0],
            "kl": [3.0, 0.3, 0.2, 0.15, 0.05],
            "induce": [1.0, 2.0, 3.0, 4.0, -1.0],
        }
    )
    assert not survives(table).any()
    found = ranked(table)
    assert found["bypass"].tolist() == [-7, -4, -9, -8, 1]
    assert list(found.columns) == ["bypass", "kl", "induce"]


def test_a_survivor_that_leaves_refusal_as_it_is_comes_after_what_ends_it():
    table = pd.DataFrame({"bypass": [0.5, -3.0, -5.0], "kl": [0.05, 0.4, 2.0], "induce": [1.0, 1.0, 1.0]})
    assert survives(table).tolist() == [True, False, False]
    assert ranked(table)["bypass"].tolist() == [-3, -5, 0.5]


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
    """None of the requests of four topics against all of them: Wilson's bounds are z^2 / (4 + z^2) from 0 and 1."""
    arms = [planted(0.0), planted(2.0)]
    found = requests(arms, ("harmful", "ablated"), {"random": ("harmful", "random ablated")})
    bound = 1.96**2 / (4 + 1.96**2)
    control = found.control("random")
    assert (found.ci_low, found.ci_high) == (0, pytest.approx(bound, abs=1e-4))
    assert (control.ci_low, control.ci_high) == (pytest.approx(1 - bound, abs=1e-4), 1)
    assert (control.difference.ci_low, control.difference.ci_high) == (-1, pytest.approx(-1 + 2**0.5 * bound, abs=1e-4))
    assert found.per_seed == [0, 0]


def test_a_share_with_spread_keeps_its_bootstrap_interval():
    table = planted(0.0).tables["answers"].query("condition == 'ablated'").assign(refused=[1] * 5 + [0] * 5)
    found = requests([Studied({"answers": table}, {}, {})] * 2, ("harmful", "ablated"))
    assert (found.value, found.ci_low, found.ci_high) == (0.5, 0, 1)


def test_a_control_that_works_in_one_model_of_three_does_not_fail_for_certain():
    """Refusals left by a control, by model: 1, 0, 1. Topics alone would say that it fails the bound of 0.35."""
    tables = [planted(0.0).tables["answers"].assign(refused=refused) for refused in (1, 0, 1)]
    found = requests([Studied({"answers": table}, {}, {}) for table in tables], ("harmful", "random ablated"))
    assert found.value == pytest.approx(2 / 3)
    assert found.ci_low < 0.35
    assert (found.uncertainty.unit, found.uncertainty.count) == ("topics of models", 6)


def test_no_interval_is_narrower_than_that_of_t_over_models():
    """Two models of ten requests that ablation spares by half and wholly: t with one degree of freedom."""
    half, whole = planted(0.0), planted(0.0)
    spared = half.tables["answers"]["condition"] == "ablated"
    half.tables["answers"].loc[spared, "refused"] = [1, 0] * 5
    found = requests([half, whole], ("harmful", "ablated"), {"random": ("harmful", "random ablated")})
    expected = over_seeds([0.5, 0.0], unit="share", formula="by hand", controls={"random": [1.0, 1.0]})
    assert (found.value, found.ci_low, found.ci_high) == (0.25, 0, 1)  # a share ends there
    difference, by_hand = found.control("random").difference, expected.controls[0].difference
    assert (difference.ci_low, difference.ci_high) == pytest.approx((by_hand.ci_low, by_hand.ci_high))


def test_t_over_models_of_a_ratio_by_hand():
    """Ratios of means 1/7 and 3/9, pooled 4/16; the linear parts are (1 - 7/4) / 8 and (3 - 9/4) / 8 of a mean."""
    arms = [planted(0.0), planted(2.0)]
    found = requests(arms, ("harmful", "ablated"), column="kl_before", over=("harmful", "tuned"))
    error = np.std([(1 - 7 / 4) / 8, (3 - 9 / 4) / 8], ddof=1) / np.sqrt(2)
    assert found.ci_high == pytest.approx(1 / 4 + t.ppf(0.975, 1) * error)


def test_a_control_that_is_chosen_says_how():
    arm = planted(0.0)
    renamed = {"random ablated": "permuted ablated"}
    arm.tables["answers"]["condition"] = arm.tables["answers"]["condition"].replace(renamed)
    found = requests([arm, arm], ("harmful", "ablated"), {"permuted": ("harmful", "permuted ablated")})
    assert found.controls[0].formula == SEARCHED
