"""The judge: a claim holds only with its control, and a file that leaves something out is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.core.claims import Assertion, ClaimDefinition, ClaimsFile, evaluate, load_claims
from common.core.errors import UserError
from common.core.files import read_yaml, write_json
from common.core.metrics import Metric, write_metrics
from common.core.settings import ROOT, SCALES, load_replication, load_scale, replications
from common.core.verify import read_claims, summary, verify_replication
from common.publish.claims_page import html, markdown

BASE = {
    "id": "effect_is_large",
    "statement": "The effect is at least one half.",
    "source": "Somebody 2020, section 1",
    "paper_value": None,
    "models": ["toy"],
    "part": "part",
    "metric": "effect",
    "assertion": {"at_least": 0.5},
    "control": {"name": "shuffled labels", "metric": "control", "difference": "difference"},
    "role": "required",
    "scales": ["laptop"],
    "expected_verdict": "reproduced",
    "frozen_at": {"date": "2026-11-20", "seeds": [100, 101, 102]},
}


def definition(**changes) -> ClaimDefinition:
    return ClaimDefinition.model_validate(BASE | changes)


def metric(value, half=0.05, per_seed=None) -> Metric:
    return Metric(
        value=value, ci_low=value - half, ci_high=value + half, n=5, unit="1", formula="test", per_seed=per_seed
    )


def judge(effect, control, difference=None, **changes):
    difference = difference or metric(effect.value - control.value)
    metrics = {"effect": effect, "control": control, "difference": difference}
    return evaluate("demo", definition(**changes), "toy", metrics)


def test_effect_passes_and_control_fails_is_reproduced():
    claim = judge(metric(0.9, per_seed=[0.8, 1.0]), metric(0.1))
    assert (claim.verdict, claim.problem, claim.n_seeds) == ("reproduced", None, 2)
    assert claim.control.fails_assertion


def test_a_control_that_passes_spoils_the_claim():
    claim = judge(metric(0.9), metric(0.6))
    assert claim.verdict == "not reproduced"
    assert "control" in claim.problem
    expected = judge(metric(0.9), metric(0.6), role="reported", expected_verdict="not reproduced")
    assert (expected.problem, expected.control.fails_assertion) == (None, False)


def test_a_control_whose_interval_touches_the_passing_side_spoils_the_claim():
    assert judge(metric(0.9), metric(0.4, half=0.2)).verdict == "not reproduced"


def test_effect_put_in_place_of_its_control_never_holds():
    claim = judge(metric(0.1), metric(0.9))
    assert claim.verdict == "not reproduced"
    assert claim.problem


def test_one_bad_seed_or_a_wide_interval_gives_same_direction():
    by_seed = judge(metric(0.9, per_seed=[0.3, 1.5]), metric(0.1))
    by_interval = judge(metric(0.52, half=0.05), metric(0.1))
    assert by_seed.verdict == by_interval.verdict == "same direction"
    assert "1 of 2 seeds" in by_seed.reason
    assert by_seed.problem  # required, and its expected verdict was another


def test_difference_must_exclude_zero_with_the_right_sign():
    assert judge(metric(0.9), metric(0.1), metric(0.04)).verdict == "not reproduced"
    assert judge(metric(0.9), metric(0.1), metric(-0.8)).verdict == "not reproduced"


def test_the_opposite_direction_is_never_the_same_direction():
    assert judge(metric(-3.0), metric(-5.0)).verdict == "not reproduced"
    assert judge(metric(-0.1), metric(-3.0), assertion={"at_least": 0}).verdict == "not reproduced"
    assert judge(metric(0.02), metric(-3.0), assertion={"at_least": 0}).verdict == "same direction"
    two_sided = {"assertion": {"at_least": 3.3, "at_most": 3.8}}
    assert judge(metric(-5.0), metric(0.0), **two_sided).verdict == "not reproduced"
    assert judge(metric(2.5), metric(0.0), **two_sided).verdict == "same direction"
    assert judge(metric(3.5), metric(9.0), **two_sided).verdict == "reproduced"
    assert judge(metric(9.5), metric(9.0), **two_sided).verdict == "not reproduced"


def test_a_verdict_that_changes_for_the_better_fails_too():
    claim = judge(metric(0.9), metric(0.1), expected_verdict="same direction", role="reported")
    assert "expected 'same direction'" in claim.problem


def test_an_expected_negative_result_is_a_result():
    reported = judge(metric(0.1), metric(0.1), expected_verdict="not reproduced", role="reported")
    assert reported.problem is None
    assert judge(metric(0.1), metric(0.1), expected_verdict="not reproduced").problem  # required must hold


def test_two_sided_assertion():
    assertion = Assertion(at_least=0.38, at_most=0.42)
    assert assertion.passes(metric(0.4, 0.01))
    assert not assertion.passes(metric(0.4, 0.05))
    assert assertion.fails(metric(0.5, 0.01))
    assert assertion.fails(metric(0.2, 0.01))
    assert not assertion.fails(metric(0.41, 0.02))


@given(st.floats(-2, 2), st.floats(0, 1), st.floats(-1, 1))
def test_no_metric_both_passes_and_fails(value, half, bound):
    for assertion in (Assertion(at_least=bound), Assertion(at_most=bound)):
        assert not (assertion.passes(metric(value, half)) and assertion.fails(metric(value, half)))


def test_a_verdict_seen_on_another_processor_is_said_and_does_not_fail_the_run():
    near = {"role": "reported", "expected_verdict": "reproduced", "also_seen": ["same direction"]}
    claim = judge(metric(0.9, per_seed=[0.4, 1.0]), metric(0.1), **near)
    assert (claim.verdict, claim.problem) == ("same direction", None)
    assert "(reported; with other rounding reproduced)" in markdown([claim])
    assert "expected 'reproduced'" in judge(metric(0.1), metric(0.1, half=0.02), **near).problem
    assert judge(metric(0.9), metric(0.6), **near).problem  # a control that passes spoils it everywhere
    for changes in ({"role": "required"}, {"expected_verdict": "same direction"}):
        with pytest.raises(ValidationError, match="also_seen is for reported claims"):
            definition(**near | changes)


@pytest.mark.parametrize("missing", ["control", "metric", "assertion", "expected_verdict", "frozen_at", "source"])
def test_a_claim_that_lacks_something_is_refused(missing):
    with pytest.raises(ValidationError, match=missing):
        ClaimsFile.model_validate({"claims": [{key: value for key, value in BASE.items() if key != missing}]})


@pytest.mark.parametrize(
    "threshold", ["results/laptop/x/metrics.json", "metric * 0.9", "0.5", None, float("nan"), float("inf")]
)
def test_a_threshold_is_a_number_written_down_before(threshold):
    with pytest.raises(ValidationError):
        definition(assertion={"at_least": threshold})


def test_calibration_on_the_same_seed_twice_is_refused():
    with pytest.raises(ValidationError, match="same seed stands here twice"):
        definition(frozen_at={"date": "2026-11-20", "seeds": [100, 100]})


def test_duplicate_ids_are_refused():
    with pytest.raises(ValidationError, match="duplicate claim id 'effect_is_large'"):
        ClaimsFile.model_validate({"claims": [BASE, BASE]})


def test_not_run_here_gives_its_reason(monkeypatch, tmp_path):
    import common.core.verify

    both = [definition(scales=["gpu"]), definition(id="other", models=["gpt2"])]
    monkeypatch.setattr(common.core.verify, "load_claims", lambda name: both)
    first, second = verify_replication("demo", "laptop", ["small"], tmp_path)
    assert (first.verdict, first.reason) == ("not run here", "needs scale gpu; this is laptop")
    assert (second.verdict, second.reason) == ("not run here", "model gpt2 is not part of this run")
    assert first.problem is None


def test_a_claim_whose_condition_is_not_met_is_not_run():
    needs = {"metric": "auroc", "at_least": 0.9}

    def guarded(areas: list[float]):
        claim = definition(needs=needs, role="reported", expected_verdict="same direction")
        names = {"effect": metric(0.7, per_seed=[0.4, 1.0]), "control": metric(0.1), "difference": metric(0.6)}
        found = names | {"auroc": metric(0.95, half=0.2, per_seed=areas)}
        return evaluate("demo", claim, "toy", found), evaluate("demo", definition(), "toy", names)

    met, other = guarded([0.95, 0.95])
    assert (met.verdict, other.verdict, met.problem) == ("same direction", "same direction", None)
    unmet, other = guarded([0.89, 1.0])
    assert (unmet.verdict, unmet.reason, unmet.value) == (
        "not run here",
        "needs auroc >= 0.9; of one seed it is 0.89",
        None,
    )
    assert other.verdict == "same direction"
    with pytest.raises(UserError, match="names the metric 'auroc', which part 'part' lacks"):
        judge(metric(0.9), metric(0.1), needs=needs, role="reported")
    with pytest.raises(ValidationError, match="needs is for reported claims"):
        definition(needs=needs)
    with pytest.raises(ValidationError, match="needs names another metric"):
        definition(needs=needs | {"metric": "effect"}, role="reported")


def test_missing_results_are_an_error_and_not_a_skip(monkeypatch, tmp_path):
    import common.core.verify

    monkeypatch.setattr(common.core.verify, "load_claims", lambda name: [definition()])
    with pytest.raises(UserError, match="does not exist"):
        verify_replication("demo", "laptop", [], tmp_path)
    write_metrics(tmp_path / "demo/toy/other/metrics.json", {"effect": metric(1.0)})
    with pytest.raises(UserError, match="names the part 'part', which does not exist; there is other; correct"):
        verify_replication("demo", "laptop", [], tmp_path)
    write_metrics(tmp_path / "demo/toy/part/metrics.json", {"effect": metric(1.0)})
    with pytest.raises(UserError, match="names the metric 'control', which part 'part' lacks"):
        verify_replication("demo", "laptop", [], tmp_path)


def test_tables_show_every_claim_and_escape_text(tmp_path):
    claims = [judge(metric(0.9), metric(0.1), statement="Larger than <b>one</b> | half of it.")]
    assert "&lt;b&gt;one" in html(claims)
    assert "<b>one" not in html(claims)
    assert "one</b> \\| half" in markdown(claims)
    assert summary(claims) == "1 reproduced"
    write_json(tmp_path / "claims.json", [claims[0].model_dump(mode="json")])
    assert read_claims(tmp_path / "claims.json") == claims


@pytest.mark.parametrize("name", replications())
def test_claims_of_every_replication(name, root):
    """Valid, with calibration seeds that are not scored, and with models and scales that exist."""
    from common.data.models import registry

    scored = {seed for scale in SCALES for seed in load_scale(scale).seeds}
    page = (root / "replications" / name / "README.md").read_text().split("<!-- results:")[0]
    for claim in load_claims(name):
        published = claim.paper_value is not None and claim.role == "reported" and claim.scales == ["gpu"]
        explained = f"`{claim.id}`" in page  # says why it was not calibrated, or what was changed
        assert claim.frozen_at is not None or "toy" not in claim.models or published or explained, claim.id
        assert not scored & set(claim.frozen_at.seeds if claim.frozen_at else []), claim.id
        assert set(claim.models) <= {"toy", *registry()}, claim.id
        assert claim.control.metric != claim.metric
        if claim.needs:
            conditions = [(one.part, one.metric, one.needs) for one in load_claims(name)]
            assert (claim.part, claim.needs.metric, None) in conditions, (
                f"{claim.id}: no claim makes its condition seen"
            )
    assert read_yaml(root / "replications" / name / "claims.yaml")
    for scale in SCALES:
        load_replication(name, scale)


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
    good = [judge(metric(0.9), metric(0.1)).model_dump(mode="json")]
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
    from common.engine.launch import CLAIMS_FAILED, _conclude

    claim = judge(metric(0.3), metric(0.1))
    assert claim.problem
    write_json(tmp_path / "claims.json", [claim.model_dump(mode="json")])
    assert _conclude(tmp_path, []) == _conclude(tmp_path, ["verify"]) == CLAIMS_FAILED
    assert _conclude(tmp_path, ["metrics"]) == _conclude(tmp_path, ["results/smoke/a/metrics.json"]) == 0
