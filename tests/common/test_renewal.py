"""A used seed is no fresh one: what is sealed anew, on which seeds, and which badges stay."""

import shutil

import pytest

import common.core.lock as lock
from common.core.claims import Claim
from common.core.errors import UserError
from common.core.files import write_json
from common.engine import freeze, known_sample, renewal
from common.publish.earlier import otherwise_by_seed
from tests.fixtures.tiny_claims import LANDMARK, SCALE, fields


def test_a_change_before_scoring_is_sealed_anew_and_after_it_on_unused_seeds_alone(tiny, capsys):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.settings(steps=2000)
    freeze.freeze(name="tiny")
    assert tiny.one()[0].amended == [], "no score had been seen"
    tiny.settings(steps=3000)
    freeze.freeze(name="tiny")
    assert fields(tiny.one()[0]) == ["settings.training.steps"]
    said = capsys.readouterr().out.splitlines()[-1]
    assert "because it was scored on seeds 10, 11, 12, 13, 14 before; to seal it clean, put unused seeds into" in said
    tiny.scale(seeds=[30, 31, 32, 33, 34])
    freeze.freeze(name="tiny")
    claim, _ = tiny.one()
    assert (claim.amended, claim.effective_role) == ([], "required")
    assert len(lock.read_lock("tiny").entry("vulnerability", "laptop").earlier) == 2


def test_an_amended_claim_is_sealed_anew_as_it_stands_on_unused_seeds_alone(tiny):
    tiny.measure(random_directions=2.0)
    with pytest.raises(UserError, match=r"tiny\.vulnerability was never scored at scale laptop; seal it with"):
        renewal.renew("tiny", scale="laptop")
    freeze.freeze(name="tiny")
    tiny.one()
    tiny.settings(steps=3000)
    tiny.claims(LANDMARK | {"controls": ["random_directions", "shuffled"]})
    tiny.measure(random_directions=2.0, shuffled=1.0)
    tiny.one()
    with pytest.raises(UserError, match="was changed in controls without a reason"):
        renewal.renew("tiny", scale="laptop")
    freeze.amend("tiny", "vulnerability", "a second control")
    with pytest.raises(UserError, match=r"has used seed 10; put unused seeds into config/scales/laptop\.yaml"):
        renewal.renew("tiny", scale="laptop")
    with pytest.raises(UserError, match="no landmark 'other' that scale laptop decides; there is vulnerability"):
        renewal.renew("tiny", scale="laptop", claim="other")
    tiny.scale(seeds=[30, 31, 32, 33, 34])
    renewal.renew("tiny", scale="laptop")
    entry = lock.read_lock("tiny").entry("vulnerability", "laptop")
    assert (entry.amended, len(entry.earlier), entry.seal.calibration_seeds) == ([], 1, SCALE["seeds"])
    renewal.renew("tiny", scale="laptop", claim="vulnerability")
    assert lock.read_lock("tiny").entry("vulnerability", "laptop") == entry, "once is enough"
    claim, _ = tiny.one()
    assert (claim.amended, claim.effective_role) == ([], "required"), "what was measured is what is sealed"
    tiny.measure(random_directions=2.0, shuffled=1.0, formula="another")
    assert fields(tiny.one()[0]) == ["toy.formula"]


def test_a_sample_that_seeds_do_not_draw_keeps_its_badge(tiny):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    claim, _ = tiny.one()
    write_json(tiny.folder / "figures" / "records.json", {"tiny": {"scale": "laptop", "seeds": SCALE["seeds"]}})
    write_json(tiny.folder / "figures" / "claims.json", [claim.model_dump(mode="json")])
    assert tiny.one()[1] == [], "the seeds of the record"
    tiny.scale(seeds=[30, 31, 32, 33, 34])
    renewal.renew("tiny", scale="laptop")
    tiny.measure(effect=6.1, random_directions=2.0)
    assert tiny.one()[1] == [], "another value"
    tiny.measure(effect=6.000001, random_directions=2.1)
    assert tiny.one()[1] == [], "the same value by chance, beside another control"
    constant = {"name": "best_rule", "value": 0.3, "ci_low": 0.3, "ci_high": 0.1 + 0.2}
    again, before = claim.model_dump(), claim.model_dump()
    again["controls"], before["controls"] = ([*one["controls"], constant] for one in (again, before))
    again["controls"][0] |= {"value": 2.2, "ci_low": 2.1, "ci_high": 2.3}
    assert known_sample._drawn(*map(Claim.model_validate, (again, before))), "one the same in all seeds"
    for found, dealt in (([7.0, 7.0, 4.0], True), ([7.0, 4.0, 7.001], False), (None, False)):
        before, again = (claim.model_copy(update={"per_seed": one}) for one in ([7.0, 4.0, 7.0], found))
        assert otherwise_by_seed(again.per_seed, before.per_seed) is dealt, "the same mean of other values"
    tiny.measure(effect=6.000001, random_directions=2.0)
    [said] = tiny.one()[1]
    assert said.endswith("its value is that of seeds 10, 11, 12, 13, 14: seeds do not draw its sample")
    claim, said = tiny.one()
    assert (fields(claim), claim.effective_role, said) == (["sealed"], "reported", [])


def test_one_replication_is_sealed_anew_for_seeds_of_its_own(tiny):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.one()
    tiny.scale(own_seeds={"tiny": [30, 31, 32, 33, 34]})
    assert fields(tiny.one()[0]) == ["scoring_seeds"], "other seeds than those that were sealed"
    freeze.amend("tiny", "vulnerability", "other seeds")
    tiny.scale(own_seeds={"tiny": [40, 41, 42, 43, 44]})
    renewal.renew("tiny", scale="laptop")
    claim, _ = tiny.one()
    assert (claim.amended, claim.effective_role) == ([], "required")
    new = lock.read_lock("tiny").entry("vulnerability", "laptop").seal
    assert (new.calibration_seeds, new.scoring_seeds) == ([30, 31, 32, 33, 34], [40, 41, 42, 43, 44])


def test_unused_seeds_are_sealed_before_they_are_scored(tiny):
    """Once scored they would be used, and nothing could take the badge off them."""
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    renewal.check_renewed("tiny", "laptop")
    tiny.one()
    tiny.scale(seeds=[30, 31, 32, 33, 34])
    with pytest.raises(
        UserError, match=r"^tiny.vulnerability is sealed at scale laptop for other seeds .* `make renew"
    ):
        renewal.check_renewed("tiny", "laptop")
    renewal.renew("tiny", scale="laptop")
    renewal.check_renewed("tiny", "laptop")
    tiny.one()
    renewal.check_renewed("tiny", "laptop")
    tiny.scale(seeds=[40, 41, 42, 43, 44])
    tiny.settings(steps=2000)
    renewal.check_renewed("tiny", "laptop")  # a changed landmark bears a badge whatever its seeds


def test_a_bound_is_not_moved_by_sealing_anew(tiny):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.one()
    tiny.claims(LANDMARK | {"assertion": {"at_least": 2.5}})
    tiny.scale(seeds=[30, 31, 32, 33, 34])
    with pytest.raises(UserError, match=r"has changed in assertion.at_least since its last score \(3.0 -> 2.5\)"):
        renewal.renew("tiny", scale="laptop")


def test_another_scale_does_not_wash_the_badge_off_the_same_sample(tiny, capsys):
    tiny.claims(LANDMARK | {"scales": ["laptop", "full"]})
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.score()
    tiny.settings(steps=3000)
    tiny.score()
    shutil.copytree(tiny.folder / "results" / "laptop-calibration", tiny.folder / "results" / "full-calibration")
    freeze.freeze(scale="full", name="tiny")
    of_full = lock.read_lock("tiny").entry("vulnerability", "full")
    assert [one.field for one in of_full.amended] == ["settings.training.steps"]
    assert "because another scale has scored this very sample" in capsys.readouterr().out.splitlines()[-1]
    tiny.scale("full", seeds=[30, 31, 32, 33, 34])
    freeze.freeze(scale="full", name="tiny")
    assert lock.read_lock("tiny").entry("vulnerability", "full").amended == [], "other seeds are another sample"


def test_a_new_claim_has_used_the_seeds_of_its_neighbours(tiny):
    """Their score has written its metric, too."""
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.score()
    tiny.measure(random_directions=2.0, metric="another")
    tiny.claims(LANDMARK, LANDMARK | {"id": "new", "metric": "another"})
    freeze.freeze(name="tiny", claim="new")
    [late] = lock.read_lock("tiny").entry("new", "laptop").amended
    assert (late.field, late.why) == ("sealed", "its scoring seeds had been used before")


def test_a_score_without_a_seal_marks_the_first_seal_at_another_scale(tiny):
    tiny.claims(LANDMARK | {"scales": ["laptop", "full"]})
    tiny.measure(random_directions=2.0)
    freeze.mark_scored("tiny", "laptop", SCALE["seeds"])
    shutil.copytree(tiny.folder / "results" / "laptop-calibration", tiny.folder / "results" / "full-calibration")
    freeze.freeze(scale="full", name="tiny")
    [late] = lock.read_lock("tiny").entry("vulnerability", "full").amended
    assert (late.field, late.why) == ("sealed", "scale laptop had scored this very sample without a seal")


def test_another_bound_for_a_sample_that_was_scored_at_another_scale_is_an_amendment(tiny):
    tiny.claims(LANDMARK | {"scales": ["laptop", "full"]})
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.score()
    tiny.claims(
        LANDMARK
        | {
            "scales": ["laptop", "full"],
            "bounds": {"full": {"statement": "The model is a little weaker.", "assertion": {"at_least": 2.5}}},
        }
    )
    shutil.copytree(tiny.folder / "results" / "laptop-calibration", tiny.folder / "results" / "full-calibration")
    freeze.freeze(scale="full", name="tiny")
    assert [one.field for one in lock.read_lock("tiny").entry("vulnerability", "full").amended] == ["assertion"]


def test_seeds_of_a_calibration_are_no_unused_scoring_seeds(tiny):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    before = lock.read_lock("tiny").entry("vulnerability", "laptop").seal.calibration_seeds
    tiny.scale("laptop", seeds=before, calibration_seeds=[120, 121, 122, 123, 124])
    freeze.freeze(name="tiny")
    assert [one.field for one in lock.read_lock("tiny").entry("vulnerability", "laptop").amended] == ["scoring_seeds"]


def test_a_claim_that_is_renamed_after_scoring_stays_amended(tiny):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.score()
    tiny.claims(LANDMARK | {"id": "weakness"})
    stale = "claims.lock of tiny seals 'vulnerability', which is no landmark of its claims.yaml; restore the claim, or"
    with pytest.raises(UserError, match=stale):
        tiny.score()
    freeze.amend("tiny", "vulnerability", "it has a better name now")
    freeze.freeze(name="tiny")
    claim = tiny.score()[0]["tiny.weakness"]
    assert (fields(claim), claim.effective_role) == (["sealed"], "reported")


def test_a_claim_that_comes_back_to_a_scale_has_used_the_seeds_of_its_neighbours(tiny):
    """Their score has written its metric meanwhile."""
    other = LANDMARK | {"id": "other", "metric": "another"}
    for metric in ("vulnerability", "another"):
        tiny.measure(random_directions=2.0, metric=metric)
    tiny.claims(LANDMARK, other)
    freeze.freeze(name="tiny")
    tiny.score()
    tiny.claims(LANDMARK | {"scales": ["gpu"]}, other)
    tiny.score()
    freeze.amend("tiny", "vulnerability", "takes too long here")
    tiny.scale("laptop", seeds=[30, 31, 32, 33, 34])
    renewal.renew("tiny", "laptop")
    tiny.score()
    tiny.claims(LANDMARK | {"assertion": {"at_least": 5.4}}, other)
    freeze.freeze(name="tiny", claim="vulnerability")
    back = tiny.score()[0]["tiny.vulnerability"]
    assert back.amended
    assert back.effective_role == "reported"


def test_another_scale_inherits_from_the_seeds_that_were_scored_not_from_the_present_ones(tiny):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.score()
    tiny.scale("laptop", seeds=[20, 21, 22, 23, 24])
    tiny.claims(LANDMARK | {"scales": ["laptop", "full"], "assertion": {"at_least": 2.5}})
    shutil.copytree(tiny.folder / "results" / "laptop-calibration", tiny.folder / "results" / "full-calibration")
    freeze.freeze(scale="full", name="tiny")
    assert "assertion" in [one.field for one in lock.read_lock("tiny").entry("vulnerability", "full").amended]
