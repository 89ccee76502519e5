"""The judge: a claim holds only with its control, and a file that leaves something out is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import ttest_1samp
from statsmodels.stats.multitest import multipletests

from common.core.claims import (
    Check,
    ClaimsFile,
    Definition,
    Landmark,
    Planned,
    Sealed,
    load_claims,
    load_planned,
)
from common.core.errors import UserError
from common.core.files import write_json
from common.core.metrics import Control, Estimate, Metric, Uncertainty, write_metrics
from common.core.seals import check_lock, definition_of
from common.core.settings import ROOT, SCALES, checked, load_replication, replications
from common.core.statistics import holm, over_seeds
from common.core.verdicts import Assertion
from common.core.verify import evaluate, overview, read_claims, significance, summary, verify_replication
from common.publish.claims_page import html, markdown

BASE = {
    "id": "effect_is_large",
    "tier": "landmark",
    "statement": "The effect is at least one half.",
    "source": "Somebody 2020, section 1",
    "counterpart": "Figure 2b",
    "paper_value": None,
    "models": ["toy"],
    "part": "part",
    "metric": "effect",
    "assertion": {"at_least": 0.5},
    "neutral": 0.0,
    "controls": ["shuffled"],
    "role": "required",
    "scales": ["laptop"],
    "expected_verdict": "reproduced",
}
CHECK = {key: BASE[key] for key in ("statement", "source", "paper_value", "models", "part", "metric", "assertion")}
CHECK |= {"id": "premise", "tier": "check", "scales": ["laptop"]}
PLANNED = {key: BASE[key] for key in ("statement", "source", "counterpart")}
PLANNED |= {"id": "later", "tier": "planned", "needs": "gpt2 from a hub"}
SEALED = Sealed(date="2026-11-24", hash="0" * 16, seeds=[110, 111])


def definition(**changes) -> Landmark:
    return Landmark.model_validate(BASE | changes)


def control(name, value, effect, half=0.05, difference=None) -> Control:
    gap = effect - value
    low, high = difference or (gap - half, gap + half)
    paired = Estimate(value=gap, ci_low=low, ci_high=high)
    return Control(name=name, value=value, ci_low=value - half, ci_high=value + half, n=100, difference=paired)


def metric(value, half=0.05, per_seed=None, *, count=20, unit="documents", **controls) -> Metric:
    """An effect; `controls` are name=value, name=(value, half) or name=(value, half, interval of the difference)."""
    given = {name: one if isinstance(one, tuple) else (one,) for name, one in controls.items()}
    return Metric(
        value=value, ci_low=value - half, ci_high=value + half, n=100, unit="1", formula="test", per_seed=per_seed,
        uncertainty=Uncertainty(unit=unit, count=count),
        controls=[control(name, one[0], value, *one[1:]) for name, one in given.items()],
    )  # fmt: skip


def judge(effect, **changes):
    changes.setdefault("controls", [one.name for one in effect.controls])
    return evaluate("demo", definition(**changes), "toy", {"effect": effect}, sealed=SEALED)


def test_an_effect_that_passes_while_every_control_fails_is_reproduced():
    claim = judge(metric(0.9, per_seed=[0.8, 1.0], shuffled=0.1, untrained=0.2))
    assert (claim.verdict, claim.problem, claim.strongest_control) == ("reproduced", None, "untrained")
    assert [one.fails for one in claim.controls] == [True, True]
    assert claim.controls[0].difference.value == pytest.approx(0.8)
    assert "strongest control untrained 0.2 [0.15, 0.25] fails it" in claim.reason


def test_the_verdict_takes_the_worst_control_and_names_it():
    claim = judge(metric(0.9, shuffled=0.1, untrained=0.6))
    assert (claim.verdict, claim.strongest_control) == ("not reproduced", "untrained")
    assert "untrained" in claim.problem
    expected = judge(metric(0.9, shuffled=0.6), role="reported", expected_verdict="not reproduced")
    assert (expected.problem, expected.controls[0].fails) == (None, False)
    assert judge(metric(0.9, shuffled=(0.4, 0.2))).verdict == "not reproduced", "an interval that touches the bound"


@pytest.mark.parametrize(
    ("assertion", "strongest"),
    [
        ({"at_least": 0.5}, "second"), ({"at_most": 0.95}, "first"), ({"at_least": 0.5, "at_most": 0.95}, "first"),
    ],
)  # fmt: skip
def test_of_several_controls_that_pass_the_farthest_beyond_the_bound_is_named(assertion, strongest):
    claim = judge(metric(0.9, first=0.7, second=0.85), assertion=assertion)
    assert (claim.verdict, claim.strongest_control) == ("not reproduced", strongest)


def test_every_difference_must_exclude_zero_on_the_right_side():
    claim = judge(metric(0.9, shuffled=0.1, untrained=(0.2, 0.05, (-0.1, 1.0))))
    assert claim.verdict == "not reproduced"
    assert "effect - untrained [-0.1, 1] does not exclude 0" in claim.reason
    assert judge(metric(0.1, shuffled=0.9)).verdict == "not reproduced", "effect and control exchanged"
    below = {"assertion": {"at_most": 0.2}, "neutral": 1.0}
    assert judge(metric(0.1, shuffled=0.9), **below).verdict == "reproduced"
    assert judge(metric(0.1, shuffled=(0.9, 0.05, (-1.0, 0.1))), **below).verdict == "not reproduced"


def test_same_direction_needs_half_of_the_way_from_the_strongest_control():
    by_seed = judge(metric(0.9, per_seed=[0.3, 1.5], shuffled=0.1))
    by_interval = judge(metric(0.52, half=0.05, shuffled=0.1))
    assert by_seed.verdict == by_interval.verdict == "same direction"
    assert "1 of 2 seeds" in by_seed.reason
    assert by_seed.problem, "required"
    assert judge(metric(0.31, shuffled=0.1)).verdict == "same direction"
    assert judge(metric(0.31, shuffled=0.1, untrained=0.15)).verdict == "not reproduced"
    short = judge(metric(0.28, shuffled=0.1))
    assert (short.verdict, "has come only 45%" in short.reason) == ("not reproduced", True)


def test_the_wrong_side_of_neutral_is_never_the_same_direction():
    """Audit: `rarer_paper_crossing`, claimed >= 1 and measured 0.83 with neutral 1, was called the same direction."""
    ratio = {"assertion": {"at_least": 1.0}, "neutral": 1.0}
    claim = judge(metric(0.833, shuffled=0.2), **ratio)
    assert (claim.verdict, "right side of the neutral 1" in claim.reason) == ("not reproduced", True)
    area = {"assertion": {"at_least": 0.9}, "neutral": 0.5}
    assert judge(metric(0.45, shuffled=0.0), **area).verdict == "not reproduced"
    assert judge(metric(0.55, half=0.02, shuffled=0.1), **area).verdict == "same direction"
    cut = {"assertion": {"at_most": 0.5}, "neutral": 1.0}
    assert judge(metric(0.7, shuffled=1.5), **cut).verdict == "same direction"
    assert judge(metric(1.1, shuffled=2.5), **cut).verdict == "not reproduced"
    wide = judge(metric(0.31, half=0.35, shuffled=-0.2), neutral=0)
    assert (wide.verdict, "[-0.04, 0.66] is not wholly" in wide.reason) == ("not reproduced", True)
    assert judge(metric(0.31, half=0.25, shuffled=-0.2), neutral=0).verdict == "same direction"


def test_two_sided_assertions():
    assertion = Assertion(at_least=0.38, at_most=0.42)
    assert assertion.passes(metric(0.4, 0.01))
    assert not assertion.passes(metric(0.4, 0.05))
    assert assertion.fails(metric(0.5, 0.01))
    assert assertion.fails(metric(0.2, 0.01))
    assert not assertion.fails(metric(0.41, 0.02))
    two = {"assertion": {"at_least": 3.3, "at_most": 3.8}}
    assert judge(metric(2.5, shuffled=0.0), **two).verdict == "same direction"
    assert judge(metric(-5.0, shuffled=0.0), **two).verdict == "not reproduced"
    assert judge(metric(9.5, shuffled=0.0), **two).verdict == "not reproduced", "further beyond than the control below"
    assert judge(metric(3.5, shuffled=9.0), **two).verdict == "reproduced"


@given(st.floats(-2, 2), st.floats(0, 1), st.floats(-1, 1))
def test_no_metric_both_passes_and_fails(value, half, bound):
    for assertion in (Assertion(at_least=bound), Assertion(at_most=bound)):
        assert not (assertion.passes(metric(value, half)) and assertion.fails(metric(value, half)))


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2))
def test_a_stronger_control_never_helps(value, first, second):
    """Mutation of our own rule: adding a control can only lower the verdict."""
    both = judge(metric(value, shuffled=first, untrained=second), role="reported")
    order = ["reproduced", "same direction", "not reproduced"]
    assert order.index(both.verdict) >= order.index(judge(metric(value, shuffled=first), role="reported").verdict)


def test_a_verdict_other_than_expected_fails_the_run_in_either_direction():
    better = judge(metric(0.9, shuffled=0.1), expected_verdict="same direction", role="reported")
    assert "expected 'same direction'" in better.problem
    assert judge(metric(0.1, shuffled=0.1), expected_verdict="not reproduced").problem, "required must hold"
    assert judge(metric(0.1, shuffled=0.1), expected_verdict="not reproduced", role="reported").problem is None


def test_scales_may_have_different_bounds_and_each_is_sealed():
    larger = {"statement": "The effect is at least four fifths.", "assertion": {"at_least": 0.8}}
    both = definition(scales=["laptop", "full"], bounds={"full": larger})
    found = {}
    for scale in both.scales:
        claim = evaluate("demo", both.at(scale), "toy", {"effect": metric(0.7, shuffled=0.1)}, sealed=SEALED)
        found[scale] = (claim.assertion, claim.statement.split()[-1], claim.verdict)
        assert definition_of("tiny", both, scale)["assertion"]["at_least"] == both.at(scale).assertion.at_least
    assert found == {"laptop": (">= 0.5", "half.", "reproduced"), "full": (">= 0.8", "fifths.", "same direction")}
    with pytest.raises(ValidationError, match="bounds names the scale full, which 'scales' does not list"):
        definition(bounds={"full": larger})


def test_scales_may_expect_different_verdicts():
    both = {"role": "reported", "scales": ["laptop", "full"]}
    split = definition(**both, expected_verdict={"laptop": "not reproduced", "full": "reproduced"})
    strong, weak = metric(0.9, shuffled=0.1), metric(0.1, shuffled=0.1)
    for scale, holds, misses in (("laptop", weak, strong), ("full", strong, weak)):
        expected = split.at(scale)
        assert evaluate("demo", expected, "toy", {"effect": holds}).problem is None
        assert "expected" in evaluate("demo", expected, "toy", {"effect": misses}).problem
    assert split.at("gpu").expected_verdict is None, "never scored there"
    assert definition().at("full").expected_verdict == "reproduced"
    with pytest.raises(ValidationError, match="names the scale gpu, which 'scales' does not list"):
        definition(**both, expected_verdict={"gpu": "reproduced"})


def test_only_a_neighbouring_verdict_is_tolerated():
    near = {"role": "reported", "tolerated_verdicts": ["same direction"]}
    assert judge(metric(0.52, shuffled=0.1), **near).problem is None
    assert judge(metric(0.9, shuffled=0.6), **near).problem
    for changes, said in {
        "tolerated_verdicts is for reported claims": {"role": "required"},
        "'not reproduced' is no neighbour of the expected verdict 'reproduced'": {
            "tolerated_verdicts": ["not reproduced"]
        },
        "at most 1 item": {
            "tolerated_verdicts": ["reproduced", "not reproduced"], "expected_verdict": "same direction"
        },
    }.items():  # fmt: skip
        with pytest.raises(ValidationError, match=changes):
            definition(**near | said)


def test_a_check_holds_or_fails_and_fails_the_run():
    def checked(effect, scale="laptop", **changes):
        return evaluate("demo", Check.model_validate(CHECK | changes), "toy", {"effect": effect}, scale=scale)

    held = checked(metric(0.9))
    assert (held.verdict, held.problem, held.tier, held.role) == ("holds", None, "check", None)
    missed = checked(metric(0.52))
    assert (missed.verdict, "the check fails (interval" in missed.problem) == ("fails", True)
    assert checked(metric(0.9, shuffled=0.1, untrained=0.7), controls=["shuffled"]).verdict == "holds"
    assert checked(metric(0.9, shuffled=0.1, untrained=0.7), controls=["untrained"]).verdict == "fails"


def test_a_known_failure_stays_visible_and_holding_again_fails_the_run():
    def problem(value, scale):
        known = CHECK | {"scales": ["laptop", "full"], "known_failures": {"full": "one of five models is off"}}
        claim = evaluate("demo", Check.model_validate(known), "toy", {"effect": metric(value)}, scale=scale)
        return claim.verdict, claim.problem and claim.problem.split(": ")[1].split(" (")[0]

    assert problem(0.52, "full") == ("fails", None)
    assert problem(0.9, "full") == ("holds", "verdict is 'holds', expected 'fails'")
    assert problem(0.52, "laptop") == ("fails", "the check fails")
    with pytest.raises(ValidationError, match="known_failures names the scale full, which 'scales' does not list"):
        Check.model_validate(CHECK | {"known_failures": {"full": "it does"}})


LANDMARKS_REFUSED = {
    "leaves out the control 'untrained' that was measured": (metric(0.9, shuffled=0.1, untrained=0.2), {}),
    "lists the control 'shuffled', which was not measured with its effect": (metric(0.9, untrained=0.2), {}),
    "interval of width 0 for its effect": (metric(0.9, 0.0, shuffled=0.1), {}),
    "interval of width 0 for its control 'shuffled'": (metric(0.9, shuffled=(0.1, 0.0, (0.7, 0.9))), {}),
    "interval of width 0 for the difference to 'shuffled'": (metric(0.9, shuffled=(0.1, 0.05, (0.8, 0.8))), {}),
    "generalises over 19 documents, but a landmark needs at least 20": (metric(0.9, shuffled=0.1, count=19), {}),
    "generalises over 4 seeds, but a landmark needs at least 5": (metric(0.9, shuffled=0.1, count=4, unit="seeds"), {}),
    "has no unit of uncertainty": (metric(0.9, shuffled=0.1).model_copy(update={"uncertainty": None}), {}),
}


@pytest.mark.parametrize("said", LANDMARKS_REFUSED)
def test_a_landmark_without_the_evidence_is_refused(said):
    effect, changes = LANDMARKS_REFUSED[said]
    with pytest.raises(UserError, match=f"^claim demo.effect_is_large .*{said}"):
        evaluate("demo", definition(**changes), "toy", {"effect": effect})


def test_a_control_over_seeds_may_be_the_same_in_each():
    effect = metric(0.9, shuffled=(0.1, 0.0, (0.7, 0.9)), count=5, unit="seeds")
    same = effect.controls[0].model_copy(update={"per_seed": [0.1] * 5})
    claim = evaluate("demo", definition(), "toy", {"effect": effect.model_copy(update={"controls": [same]})})
    assert claim.verdict == "reproduced"


@pytest.mark.parametrize("unit", ["seeds", "sequences"])
def test_fewer_seeds_and_what_they_hold_will_do_on_fresh_seeds_alone(unit):
    effect = metric(0.9, shuffled=0.1, count=3, unit=unit)
    assert evaluate("demo", definition(), "toy", {"effect": effect}, few_seeds=True).verdict == "reproduced"
    with pytest.raises(UserError, match=f"3 {unit}, but a landmark needs at least"):
        evaluate("demo", definition(), "toy", {"effect": effect})


FILES_REFUSED = {
    "Field required": [{key: value for key, value in BASE.items() if key != "controls"}],
    "at least 1 item": [BASE | {"controls": []}],
    "the control 'shuffled' is listed twice": [BASE | {"controls": ["shuffled", "shuffled"]}],
    "duplicate claim id 'effect_is_large'": [BASE, BASE],
    "13 landmarks, but a replication has at most 12": [BASE | {"id": f"claim_{i}"} for i in range(13)],
    "5 headline claims": [BASE | {"id": f"claim_{i}", "headline": True} for i in range(5)],
    "the precondition 'premise' of 'effect_is_large' is not the id of a check": [BASE | {"precondition": "premise"}],
    "Input tag 'metric' found": [BASE | {"tier": "metric"}],
}


@pytest.mark.parametrize("said", FILES_REFUSED)
def test_a_claims_file_that_breaks_the_rules_is_refused_in_one_sentence(said):
    with pytest.raises(UserError, match=f"^demo.yaml: .*{said}") as caught:
        checked(ClaimsFile, {"claims": FILES_REFUSED[said]}, Path("demo.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["counterpart", "neutral", "metric", "assertion", "expected_verdict", "source"])
def test_a_landmark_that_lacks_something_is_refused(missing):
    content = {"claims": [{key: value for key, value in BASE.items() if key != missing}]}
    with pytest.raises(UserError, match=f"'claims.effect_is_large.{missing}': Field required"):
        checked(ClaimsFile, content, Path("demo.yaml"))


@pytest.mark.parametrize(
    "threshold", ["results/laptop/x/metrics.json", "metric * 0.9", "0.5", None, float("nan"), float("inf")]
)
def test_a_threshold_is_a_number_written_down_before(threshold):
    with pytest.raises(ValidationError):
        definition(assertion={"at_least": threshold})


@pytest.fixture
def demo(monkeypatch):
    """A replication of this name with these entries, and no lock."""

    def use(*entries):
        import common.core.verify as verify

        claims = ClaimsFile.model_validate({"claims": list(entries)}).claims
        monkeypatch.setattr(verify, "load_claims", lambda _: [one for one in claims if isinstance(one, Definition)])
        monkeypatch.setattr(verify, "load_planned", lambda _: [one for one in claims if isinstance(one, Planned)])

    return use


def test_not_run_here_gives_its_reason(demo, tmp_path):
    demo(BASE | {"scales": ["gpu"]}, BASE | {"id": "other", "models": ["gpt2"]}, PLANNED)
    first, second, third = verify_replication("demo", "laptop", ["small"], tmp_path)
    assert (first.verdict, first.reason) == ("not run here", "needs scale gpu; this is laptop")
    assert (second.verdict, second.reason) == ("not run here", "model gpt2 is not part of this run")
    assert (third.tier, third.verdict, third.reason) == ("planned", None, "planned: needs gpt2 from a hub")
    assert not any(claim.problem for claim in (first, second, third))
    assert summary([first, second, third]) == "0 of 0 landmarks reproduced, 2 not run here; 1 planned"


def test_a_failed_precondition_leaves_the_landmark_out_and_fails_its_check(demo, tmp_path):
    demo(BASE | {"precondition": "premise"}, CHECK | {"metric": "premise"})

    def verdicts(premise):
        path = tmp_path / "demo/toy/part/metrics.json"
        write_metrics(path, {"effect": metric(0.9, shuffled=0.1), "premise": metric(premise)})
        return verify_replication("demo", "laptop", [], tmp_path)

    assert [claim.verdict for claim in verdicts(0.9)] == ["reproduced", "holds"]
    landmark, check = verdicts(0.3)
    assert (landmark.verdict, landmark.problem, check.verdict) == ("not run here", None, "fails")
    assert landmark.reason.startswith("its precondition 'premise' on toy: fails")
    assert check.problem


def test_missing_results_are_an_error_and_not_a_skip(demo, tmp_path):
    demo(BASE)
    with pytest.raises(UserError, match="does not exist"):
        verify_replication("demo", "laptop", [], tmp_path)
    write_metrics(tmp_path / "demo/toy/other/metrics.json", {"effect": metric(1.0)})
    with pytest.raises(UserError, match="names the part 'part', which does not exist; there is other; correct"):
        verify_replication("demo", "laptop", [], tmp_path)
    write_metrics(tmp_path / "demo/toy/part/metrics.json", {"other": metric(1.0)})
    with pytest.raises(UserError, match="names the metric 'effect', which part 'part' lacks"):
        verify_replication("demo", "laptop", [], tmp_path)


def test_tables_show_every_claim_and_escape_text(tmp_path):
    claims = [judge(metric(0.9, shuffled=0.1), statement="Larger than <b>one</b> | half of it.")]
    assert "&lt;b&gt;one" in html(claims)
    assert "<b>one" not in html(claims)
    assert "one</b> \\| half" in markdown(claims)
    assert overview(claims) == ("1 of 1 landmarks reproduced; 1 of 1 differences significant after Holm's correction")
    write_json(tmp_path / "claims.json", [claims[0].model_dump(mode="json")])
    assert read_claims(tmp_path / "claims.json") == claims


def test_holm_counts_differences_over_all_landmarks():
    """One weak difference (p = 0.04 alone) among ten strong ones stays; among ten weak ones all go."""
    weak = (0.1, 0.05, (0.037, 1.563))
    strong = [judge(metric(0.9, shuffled=0.1), id=f"strong_{i}") for i in range(10)]
    weaker = [judge(metric(0.9, shuffled=weak), id=f"weak_{i}") for i in range(10)]
    assert overview([*strong, weaker[0]]).endswith("11 of 11 differences significant after Holm's correction")
    assert overview(weaker).endswith("0 of 10 differences significant after Holm's correction")
    wrong = judge(metric(0.1, shuffled=0.9), id="wrong")
    assert overview([*strong, wrong]).endswith("10 of 11 differences significant after Holm's correction")


def test_holm_uses_the_t_distribution_of_seeds():
    """Five differences with a mean of 1: the p of the t-test, not that of a normal distribution."""
    values = [0.7, 0.9, 1.0, 1.1, 1.3]
    found = over_seeds(values, unit="1", formula="f", controls={"none": [0.0] * 5}).control("none").difference
    assert holm([found], [4.0]) == pytest.approx([ttest_1samp(values, 0).pvalue])
    assert holm([found], [np.inf])[0] < holm([found], [4.0])[0] / 1000


@pytest.mark.parametrize(("unit", "left"), [("topics of models", 0), ("seeds", 0), ("topics", 10)])
def test_models_whose_topics_are_resampled_count_as_so_many_models(unit, left):
    """0.8 [0.5, 1.1] ten times: alone p is 2e-7 if resamples are normal, 0.0075 by t over three models."""
    one = judge(metric(0.9, per_seed=[0.8, 0.9, 1.0], shuffled=(0.1, 0.05, (0.5, 1.1))))
    sampled = Uncertainty(unit=unit, count=3 if unit == "seeds" else 60)
    ten = [one.model_copy(update={"id": str(i), "uncertainty": sampled}) for i in range(10)]
    assert significance(ten).startswith(f"{left} of 10 differences")


def test_holm_is_that_of_statsmodels():
    """Among many, with ties, a certain one and some that show nothing."""
    rng = np.random.default_rng(0)
    values = [*rng.normal(0, 2, 40), 1.0, 1.0, 0.0, 0.5]
    widths = [*np.full(42, 1.96), 1.0, 0.0]
    found = [Estimate(value=v, ci_low=v - w, ci_high=v + w) for v, w in zip(values, widths, strict=True)]
    degrees = [*np.full(20, 4.0), *np.full(24, np.inf)]
    alone = [holm([one], [df])[0] for one, df in zip(found, degrees, strict=True)]
    assert holm(found, degrees) == pytest.approx(multipletests(alone, method="holm")[1])
    assert holm([], []) == []


@pytest.mark.parametrize("name", replications())
def test_claims_of_every_replication(name, root):
    """Valid, with a lock that fits and models that exist."""
    from common.data.models import registry

    for claim in [*load_claims(name), *load_planned(name)]:
        assert set(claim.models) <= {"toy", *registry()}, claim.id
    for scale in SCALES:
        load_replication(name, scale)
        check_lock(name, scale, scored=False)


def results_claims(root=ROOT):
    """Every claim of every finished run on this machine, as one test item each; an unreadable file is skipped."""
    found = []
    for path in [*sorted(root.glob("results/*/claims.json")), *root.glob("figures/claims.json")]:
        if "calibration" in path.parent.name:
            continue
        try:
            claims = read_claims(path)
        except UserError as error:
            found.append(pytest.param(None, id=path.parent.name, marks=pytest.mark.skip(reason=str(error))))
        else:
            found += [pytest.param(claim, id=f"{path.parent.name}-{claim.id}-{claim.model}") for claim in claims]
    return found


@pytest.mark.parametrize("claim", results_claims())
def test_claim_of_a_finished_run(claim):
    if claim.verdict == "not run here":
        pytest.skip(claim.reason)
    assert claim.problem is None


def test_a_claims_file_that_cannot_be_read_is_one_skipped_item(tmp_path):
    good = [judge(metric(0.9, shuffled=0.1)).model_dump(mode="json")]
    write_json(tmp_path / "figures" / "claims.json", good)
    write_json(tmp_path / "results" / "laptop" / "claims.json", good)
    write_json(tmp_path / "results" / "laptop-calibration" / "claims.json", good)
    write_json(tmp_path / "results" / "older" / "claims.json", [{**good[0], "renamed": 1}])
    for name, content in {"cut": b"[{", "number": b"1", "bytes": b"\xff"}.items():
        (tmp_path / "results" / name).mkdir()
        (tmp_path / "results" / name / "claims.json").write_bytes(content)
    items = {item.id: [mark.kwargs["reason"] for mark in item.marks] for item in results_claims(tmp_path)}
    [laptop, figures] = [name for name, marks in items.items() if not marks]
    assert laptop.startswith("laptop-")
    assert figures.startswith("figures-")
    for name in ("older", "number", "cut", "bytes"):
        what = "damaged or of another version" if name in ("older", "number") else "not valid JSON"
        assert f"results/{name}/claims.json is {what}" in items[name][0]
        assert items[name][0].endswith("; delete it and run `make resume`")


def test_a_run_answers_only_for_the_claims_that_it_judged(tmp_path):
    from common.engine.conclusion import CLAIMS_FAILED, conclude
    from common.engine.config import load_run

    claim, run = judge(metric(0.3, shuffled=0.1)), load_run("smoke")
    assert claim.problem
    write_json(tmp_path / "claims.json", [claim.model_dump(mode="json")])
    assert conclude(tmp_path, [], run) == conclude(tmp_path, ["verify"], run) == CLAIMS_FAILED
    assert conclude(tmp_path, ["metrics"], run) == conclude(tmp_path, ["results/smoke/a/metrics.json"], run) == 0
    write_json(tmp_path / "a" / "claims.json", [claim.model_dump(mode="json")])
    assert conclude(tmp_path, [str(tmp_path / "a" / "claims.json")], run) == CLAIMS_FAILED


def test_before_its_first_scoring_a_landmark_expects_nothing():
    unscored = {"expected_verdict": None, "role": "reported"}
    assert judge(metric(0.9, shuffled=0.1), **unscored).problem is None
    assert judge(metric(0.1, shuffled=0.1), **unscored).problem is None
    for more in ({"role": "required"}, {"role": "reported", "tolerated_verdicts": ["same direction"]}):
        with pytest.raises(ValidationError, match="before its first scoring a claim is reported"):
            judge(metric(0.9, shuffled=0.1), **(unscored | more))
