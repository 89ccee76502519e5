"""Seals: no change of a landmark after its seal passes without a badge."""

import json

import pytest

import common.core.lock as lock
import common.core.seals as seals
from common.core.claims import ClaimsFile
from common.core.errors import UserError
from common.engine import freeze, retirement
from common.engine.unsealed import unmeasured
from tests.fixtures.tiny_claims import LANDMARK, SCALE, fields


def test_a_sealed_landmark_is_required_and_has_no_badge(tiny, capsys):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    claim, said = tiny.one()
    assert (claim.verdict, claim.effective_role, claim.amended, said) == ("reproduced", "required", [], [])
    assert claim.sealed.seeds == SCALE["calibration_seeds"]
    before = lock.lock_path("tiny").read_bytes()
    freeze.freeze(name="tiny")
    assert lock.lock_path("tiny").read_bytes() == before
    assert capsys.readouterr().out.splitlines() == [
        "sealed: tiny.vulnerability at scale laptop",
        "already sealed: tiny.vulnerability at scale laptop",
    ]


def test_one_new_landmark_is_sealed_without_calibration_of_its_neighbours(tiny, capsys):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    new = LANDMARK | {"id": "size", "metric": "size"}
    tiny.claims(LANDMARK | {"metric": "not_measured"}, new)
    tiny.measure(metric="size", random_directions=2.0)
    with pytest.raises(UserError, match="names the metric 'not_measured'"):
        freeze.freeze(name="tiny")
    before = lock.read_lock("tiny").claims["vulnerability"]
    freeze.freeze(name="tiny", claim="size")
    assert list(lock.read_lock("tiny").claims) == ["size", "vulnerability"]
    assert lock.read_lock("tiny").claims["vulnerability"] == before
    assert capsys.readouterr().out.splitlines()[-1] == "sealed: tiny.size at scale laptop"
    with pytest.raises(
        UserError, match=r"tiny has no landmark 'sise' that scale laptop decides; there is vuln.*, size"
    ):
        freeze.freeze(name="tiny", claim="sise")
    with pytest.raises(UserError, match="say which, as in NAME=my_result CLAIM=my_landmark"):
        freeze.freeze(claim="size")


def test_a_required_landmark_without_a_seal_is_refused_before_anything_is_scored(tiny):
    with pytest.raises(
        UserError, match=r"is required but not sealed at scale laptop; run `make calibrate NAME=tiny .* f"
    ):
        tiny.score()
    assert not lock.lock_path("tiny").exists()
    with pytest.raises(
        UserError, match=r"has no calibration in .*metrics.json; run `make calibrate NAME=tiny SCALE=lap"
    ):
        freeze.freeze(name="tiny")


def test_the_exchanged_control_of_superposition_has_a_badge_and_is_not_required(tiny, capsys):
    """Audit: the worst of as many random directions passed, so the control became `densest_models` (51bba8b)."""
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.measure(random_directions=6.3)
    assert tiny.one()[0].verdict == "not reproduced"
    tiny.claims(LANDMARK | {"controls": ["densest_models"]})
    tiny.measure(densest_models=1.0)
    claim, [said] = tiny.one()
    assert (claim.verdict, claim.effective_role) == ("reproduced", "reported")
    assert fields(claim) == ["controls", "toy.controls.densest_models", "toy.controls.random_directions"]
    assert (claim.amended[0].before, claim.amended[0].after) == (["random_directions"], ["densest_models"])
    assert said.startswith(
        "amended: tiny.vulnerability has changed since it was sealed: controls (['random_directions']"
    )
    assert 'make amend NAME=tiny CLAIM=vulnerability WHY="..."' in said
    assert tiny.one()[1] == [], "recorded once"
    capsys.readouterr()
    freeze.freeze(name="tiny")
    assert "keeps its badge (controls, toy.controls.densest_models" in capsys.readouterr().out
    tiny.claims(LANDMARK)
    tiny.measure(random_directions=2.0)
    again, _ = tiny.one()
    assert len(again.amended) == 6, "the way back is a change too"
    assert again.effective_role == "reported"


def test_a_claim_split_by_control_has_a_badge_and_is_not_required(tiny):
    """Audit: refusal ablation was required against random directions, and reported against the permuted candidate."""
    both = LANDMARK | {"controls": ["random_directions", "permuted"]}
    tiny.claims(both)
    tiny.measure(random_directions=1.0, permuted=2.0)
    freeze.freeze(name="tiny")
    tiny.measure(random_directions=1.0, permuted=10.0)
    assert tiny.one()[0].verdict == "not reproduced"
    tiny.claims(LANDMARK)
    with pytest.raises(UserError, match=r"claim tiny.vulnerability leaves out the control 'permuted' that"):
        tiny.one()
    other = both | {"id": "against_permuted", "metric": "permuted_only", "controls": ["permuted"], "role": "reported"}
    tiny.claims(LANDMARK, other)
    tiny.measure(random_directions=1.0)
    tiny.measure(permuted=10.0, metric="permuted_only")
    judged, _ = tiny.score()
    split = judged["tiny.vulnerability"]
    assert (split.verdict, split.effective_role) == ("reproduced", "reported")
    assert "controls" in fields(split)
    freeze.freeze(name="tiny")
    late = tiny.score()[0]["tiny.against_permuted"]
    assert (fields(late), late.effective_role) == (["sealed"], "reported"), "it was scored before it was sealed"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda tiny: tiny.claims(LANDMARK | {"assertion": {"at_least": 2.0}}), "assertion.at_least"),
        (lambda tiny: tiny.claims(LANDMARK | {"neutral": 0.0}), "neutral"),
        (lambda tiny: tiny.claims(LANDMARK | {"role": "reported"}), "role"),
        (lambda tiny: tiny.settings(steps=2000), "settings.training.steps"),
        (lambda tiny: tiny.measure(random_directions=2.0, n=60), "toy.n"),
        (lambda tiny: tiny.measure(random_directions=2.0, formula="worst of ten"), "toy.formula"),
        (lambda tiny: tiny.scale(seeds=[30, 31, 32, 33, 34]), "scoring_seeds"),
        (lambda tiny: tiny.claims(LANDMARK | {"scales": ["gpu"]}), "judged"),
        (
            lambda tiny: (
                tiny.measure(metric="size", random_directions=2.0),
                tiny.claims(LANDMARK | {"metric": "size"}),
            ),
            "metric",
        ),
    ],
)
def test_every_sealed_field_is_named_when_it_changes(tiny, change, field):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.score()
    change(tiny)
    claim, [said] = tiny.one()
    assert fields(claim) == [field]
    assert field in said
    assert claim.effective_role == "reported"


def test_the_bound_of_a_precondition_is_sealed_but_for_older_seals(tiny, monkeypatch):
    premise = {
        key: LANDMARK[key]
        for key in ("statement", "source", "paper_value", "models", "part", "metric", "controls", "scales")
    } | {"id": "premise", "tier": "check", "assertion": {"at_least": 2.5}}
    needing, tighter = LANDMARK | {"precondition": "premise"}, premise | {"assertion": {"at_least": 9.0}}
    tiny.claims(needing, premise)
    tiny.measure(random_directions=2.0)
    with monkeypatch.context() as before:
        before.setattr(seals, "load_claims", lambda _: [])
        freeze.freeze(name="tiny")
    assert tiny.one()[0].amended == [], "a seal from when it was not sealed"
    lock.lock_path("tiny").unlink()
    freeze.freeze(name="tiny")
    assert tiny.one()[0].amended == []
    tiny.claims(needing, tighter)
    assert fields(tiny.one()[0]) == ["check.assertion.at_least"]


def test_a_claim_taken_from_a_scale_has_nothing_more_to_explain_there(tiny):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.score()
    tiny.claims(LANDMARK | {"scales": ["gpu"]})
    assert "judged" in tiny.one()[1][0]
    before = lock.lock_path("tiny").read_bytes()
    tiny.scale(seeds=[30, 31, 32, 33, 34])
    tiny.settings(steps=2000)
    assert tiny.one()[1] == []
    assert lock.lock_path("tiny").read_bytes() == before
    tiny.claims(LANDMARK)
    assert tiny.one()[1], "it is decided again, on other settings"


def test_what_is_not_sealed_may_change(tiny):
    tiny.claims(LANDMARK | {"settings": ["figure"]})
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.settings(steps=2000)
    tiny.measure(random_directions=2.5, n=90)
    tiny.claims(LANDMARK | {"settings": ["figure"], "statement": "The same said in other words than before."})
    assert tiny.one()[0].amended == []
    tiny.claims(LANDMARK | {"settings": ["trainnig"]})
    with pytest.raises(UserError, match="seals the settings 'trainnig', which do not exist; there is training, figure"):
        tiny.one()


def test_what_an_unsealed_claim_names_and_a_run_lacks_is_said(tiny):
    tiny.measure(random_directions=2.0, others=1.0)
    results, said = tiny.folder / "results" / "laptop", []
    for changes in (
        {"metric": "vulnerable"},
        {"controls": ["random_direction", "others"]},
        {"controls": ["others"]},
        {"part": "elsewhere"},
        {"controls": ["others", "random_directions"]},
    ):
        tiny.claims(LANDMARK | changes)
        said.append(unmeasured("tiny", results, []))
    assert said == [
        ["claim tiny.vulnerability names the metric 'vulnerable', which part 'attack' lacks; it has vulnerability"],
        ["claim tiny.vulnerability lists the control 'random_direction', which its metric lacks; it has others, "
         "random_directions"],
        ["claim tiny.vulnerability leaves out the control 'random_directions', which its metric has; list every "
         "control"],
        ["claim tiny.vulnerability names the part 'elsewhere', which no step measures; there is attack"],
        [],
    ]  # fmt: skip
    freeze.freeze(name="tiny")
    tiny.claims(LANDMARK)
    assert unmeasured("tiny", results, []) == [], "a sealed claim may want more than this scale measures"


@pytest.mark.parametrize("current", [True, False])
def test_a_landmark_is_retired_and_only_a_record_that_was_up_to_date_stays_so(tiny, monkeypatch, current):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.score()
    first, last = (f"  - id: {name}\n    tier: check\n" for name in ("first", "last"))
    own = "  - id: vulnerability\n    tier: landmark # of attacks\n\n    controls:\n      - random_directions\n\n"
    path = tiny.home / "claims.yaml"
    written = path.read_text()
    pages: list[object] = []
    papers = [{"figures": [{"reason": "none"}, {"landmark": "tiny.vulnerability"}]}]
    for target, stand_in in {
        "ROOT": tiny.folder, "records": lambda: {"tiny": {"scale": "laptop", "state": path.read_text() * current}},
        "landmarks": lambda _: ClaimsFile.model_validate({"claims": [LANDMARK]}).claims,
        "state": lambda *_: path.read_text(), "write_pages": pages.append, "famous_papers": lambda: papers,
    }.items():  # fmt: skip
        monkeypatch.setattr(retirement, target, stand_in)
    with pytest.raises(UserError, match="tiny has no landmark 'vulnerable'; it has vulnerability"):
        retirement.retire("tiny", "vulnerable", "a trivial alternative passes")
    with pytest.raises(UserError, match=r"names tiny.vulnerability; give that figure a `reason`"):
        retirement.retire("tiny", "vulnerability", "a trivial alternative passes")
    papers[0]["figures"].pop()
    with pytest.raises(UserError, match=r"no entry of claims.yaml begins with `- id: vulnerability`"):
        retirement.retire("tiny", "vulnerability", "a trivial alternative passes")
    assert path.read_text() == written
    path.write_text(f"claims:\n{first}{own}{last}")
    with pytest.raises(UserError, match="WHY is empty"):
        retirement.retire("tiny", "vulnerability", " ")
    assert path.read_text() == f"claims:\n{first}{own}{last}"
    monkeypatch.setattr(freeze, "landmarks", lambda _: [])  # what is left
    retirement.retire("tiny", "vulnerability", "a trivial alternative passes")
    assert path.read_text() == f"claims:\n{first}{last}"
    entry = lock.read_lock("tiny").entry("vulnerability", "laptop")
    assert (entry.retired, entry.seal is None) == ("a trivial alternative passes", False)
    kept = tiny.folder / "figures" / "records.json"
    assert (len(pages), kept.exists()) == (int(current), current)
    assert not current or json.loads(kept.read_text())["tiny"]["state"] == f"claims:\n{first}{last}"


def test_reasons_are_recorded_and_shown(tiny, capsys):
    with pytest.raises(UserError, match="WHY is empty"):
        freeze.amend("tiny", "vulnerability", " ")
    with pytest.raises(UserError, match="has no claim 'vulnerability'; it has none"):
        freeze.amend("tiny", "vulnerability", "because")
    with pytest.raises(UserError, match="unknown replication 'tinny'; there is tiny"):
        freeze.amend("tinny", "vulnerability", "because")
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    with pytest.raises(UserError, match=r"no change of tiny.vulnerability waits for a reason"):
        freeze.amend("tiny", "vulnerability", "because")
    before = seals.state("tiny", "laptop")
    tiny.score()
    assert seals.state("tiny", "laptop") == before, "to be scored is no reason to judge again"
    tiny.claims(LANDMARK | {"neutral": 0.0})
    tiny.score()
    freeze.amend("tiny", "vulnerability", "a ratio was read as a difference")
    assert seals.state("tiny", "laptop") != before
    assert [one.why for one in tiny.one()[0].amended] == ["a ratio was read as a difference"]
    assert capsys.readouterr().out.splitlines()[-1] == "reason recorded: tiny.vulnerability (neutral)"


def test_a_change_that_is_taken_back_is_recorded_twice_and_no_oftener(tiny):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.score()
    for neutral in (0.0, LANDMARK["neutral"]):
        tiny.claims(LANDMARK | {"neutral": neutral})
        tiny.score()
    for _ in range(2):
        tiny.score()
        assert len(lock.read_lock("tiny").entry("vulnerability", "laptop").amended) == 2


def test_a_lock_edited_by_hand_is_refused(tiny):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    path = lock.lock_path("tiny")
    before = path.read_text()
    path.write_text(before.replace('"at_least": 3.0', '"at_least": 2.0'))
    with pytest.raises(
        UserError, match=r"claims.lock was edited by hand: the seal of 'vulnerability' does not have its"
    ):
        tiny.score()
    path.write_text(before)
    content = json.loads(before)
    content["claims"]["vulnerability"]["laptop"]["scored_seeds"] = [30]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"edited by hand: its history does not have its hash; restore it from git"):
        tiny.score()
    path.write_text('{"claims": {"vulnerability": {"laptop": {}}}}')
    with pytest.raises(UserError, match=r"claims.lock is damaged at 'claims.vulnerability.laptop.metric'; restore it"):
        tiny.score()
