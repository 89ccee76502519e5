"""Seals: no change of a landmark after its seal passes without a badge, and a used seed is no fresh one."""

import json
import shutil
from base64 import urlsafe_b64encode
from typing import Any

import pytest
import yaml

import common.core.claims as claims_module
import common.core.lock as lock
import common.core.seals as seals
import common.core.settings as settings
from common.core.errors import UserError
from common.core.files import write_json
from common.core.metrics import Control, Estimate, Metric, Uncertainty, write_metrics
from common.core.settings import Strict
from common.core.verify import verify_replication
from common.engine import config, freeze, fresh, known_sample, plan, renewal, retirement
from common.engine.unsealed import unmeasured

LANDMARK = {
    "id": "vulnerability",
    "tier": "landmark",
    "statement": "Models in superposition are at least three times as vulnerable.",
    "source": "Elhage et al. 2022, adversarial examples",
    "counterpart": "Figure 11",
    "paper_value": "3",
    "models": ["toy"],
    "part": "attack",
    "metric": "vulnerability",
    "assertion": {"at_least": 3.0},
    "neutral": 1.0,
    "controls": ["random_directions"],
    "role": "required",
    "scales": ["laptop"],
    "expected_verdict": "reproduced",
}
SCALE = {
    "device": "cpu",
    "seeds": [10, 11, 12, 13, 14],
    "calibration_seeds": [110, 111, 112, 113, 114],
    "models": [],
    "hub_models": [],
}


class Training(Strict):
    steps: int
    width: int


class Settings(Strict):
    training: Training
    figure: str = "wide"


class Tiny:
    """A replication of one part and one landmark in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.home = folder / "replications" / "tiny"
        self.home.mkdir(parents=True)
        (self.home / "rules.smk").touch()
        for scale in settings.SCALES:
            self.scale(scale)
        self.settings()
        self.claims(LANDMARK)

    def scale(self, name="laptop", **changes):
        path = self.folder / "config" / "scales" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(SCALE | changes))

    def settings(self, **training):
        blocks = {"default": {"training": {"steps": 100, "width": 8} | training}, "smoke": {}, "laptop": {}, "gpu": {}}
        (self.home / "config.yaml").write_text(yaml.safe_dump(blocks))

    def claims(self, *entries):
        (self.home / "claims.yaml").write_text(yaml.safe_dump({"claims": list(entries)}))

    def measure(self, effect=6.0, n=100, formula="ratio of losses", metric="vulnerability", **controls):
        """Writes the same metric as calibration and as score."""
        found = [
            Control(
                name=name, value=value, ci_low=value - 0.5, ci_high=value + 0.5, n=n,
                difference=Estimate(value=effect - value, ci_low=effect - value - 0.5, ci_high=effect - value + 0.5),
            )
            for name, value in controls.items()
        ]  # fmt: skip
        one = Metric(
            value=effect, ci_low=effect - 0.5, ci_high=effect + 0.5, n=n, unit="1", formula=formula,
            uncertainty=Uncertainty(unit="seeds", count=5), controls=found,
        )  # fmt: skip
        for run in ("laptop", "laptop-calibration"):
            path = self.folder / "results" / run / "tiny" / "toy" / "attack" / "metrics.json"
            old = json.loads(path.read_text()) if path.exists() else {}
            write_metrics(path, {key: Metric.model_validate(value) for key, value in old.items()} | {metric: one})

    def score(self):
        """What `make` does on scoring seeds: claims by id, and the lines about amendments."""
        seals.check_lock("tiny", "laptop", scored=True)
        freeze.mark_scored("tiny", "laptop", settings.load_scale("laptop", "tiny").seeds)
        judged = verify_replication("tiny", "laptop", [], self.folder / "results" / "laptop")
        return {claim.id: claim for claim in judged}, freeze.record_amendments("laptop", judged)

    def one(self):
        judged, said = self.score()
        return judged["tiny.vulnerability"], said


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Any:
    monkeypatch.chdir(tmp_path)
    for module in (settings, claims_module, lock, known_sample):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(settings, "settings_class", lambda _: Settings)
    monkeypatch.setattr(freeze, "plan", lambda *_, **__: [])  # calibration is up to date
    monkeypatch.setattr(freeze, "refuse_copied", lambda *_: None)
    return Tiny(tmp_path)


def fields(claim):
    return [amendment.field for amendment in claim.amended]


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
    assert known_sample._drawn(*map(claims_module.Claim.model_validate, (again, before))), "one the same in all seeds"
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


def test_a_calibration_of_other_sources_settings_or_seeds_is_not_sealed(tiny, monkeypatch):
    tiny.measure(random_directions=2.0)
    asked = []

    def due(*targets, config):
        asked.append((targets, config))
        return ["one job"]

    monkeypatch.setattr(freeze, "plan", due)
    with pytest.raises(UserError, match=r"calibration of tiny is of other sources, .* run `make calibrate NAME=tiny"):
        freeze.freeze(name="tiny")
    assert not lock.lock_path("tiny").exists()
    path = "results/laptop-calibration/tiny/toy/attack/metrics.json"
    assert asked == [((path,), ["scale=laptop", "calibrate=1"])]


def test_a_calibration_that_was_copied_here_is_not_sealed(tiny, monkeypatch):
    """Snakemake knows nothing of its sources, and takes it for up to date."""
    monkeypatch.setattr(freeze, "refuse_copied", plan.refuse_copied)
    tiny.measure(random_directions=2.0)
    path = "results/laptop-calibration/tiny/toy/attack/metrics.json"
    with pytest.raises(
        UserError, match=rf"{path} was not made in this folder, .* remove results/laptop-calibration/tiny "
    ):
        freeze.freeze(name="tiny")
    known = plan.METADATA / urlsafe_b64encode(path.encode()).decode()
    known.parent.mkdir(parents=True)
    known.touch()
    freeze.freeze(name="tiny")
    assert plan.made_here(tiny.folder / "nothing"), "what is missing is said elsewhere"


def test_results_that_were_copied_here_are_not_scored(tiny):
    """Else they would bear the seeds and sources of the run that takes them for up to date."""
    tiny.measure(random_directions=2.0)
    copied = (tiny.folder / "results" / "laptop-calibration" / "tiny").relative_to(tiny.folder)
    plan.refuse_copied([copied / "none"], copied)
    path = copied / "toy" / "attack" / "metrics.json"
    with pytest.raises(UserError, match=rf"{path} was not made in this folder, .* remove {copied} and run again"):
        plan.refuse_copied([path], copied)
    known = plan.METADATA / urlsafe_b64encode(str(path).encode()).decode()
    known.parent.mkdir(parents=True)
    known.touch()
    plan.refuse_copied([path], copied)


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


@pytest.mark.parametrize("current", [True, False])
def test_a_landmark_is_retired_and_only_a_record_that_was_up_to_date_stays_so(tiny, monkeypatch, current):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.score()
    first, last = (f"  - id: {name}\n    tier: check\n" for name in ("first", "last"))
    own = "  - id: vulnerability\n    tier: landmark # of attacks\n\n    controls:\n      - random_directions\n\n"
    path = tiny.home / "claims.yaml"
    written = path.read_text()
    pages: list[Any] = []
    papers = [{"figures": [{"reason": "none"}, {"landmark": "tiny.vulnerability"}]}]
    for target, stand_in in {
        "ROOT": tiny.folder, "records": lambda: {"tiny": {"scale": "laptop", "state": path.read_text() * current}},
        "landmarks": lambda _: claims_module.ClaimsFile.model_validate({"claims": [LANDMARK]}).claims,
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


def test_calibration_does_not_look_at_seals_and_fresh_seeds_not_at_sizes(tiny):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    tiny.measure(random_directions=2.0, n=3)
    results = tiny.folder / "results" / "laptop"
    kinds = {kind: verify_replication("tiny", "laptop", [], results, kind)[0] for kind in ("calibration", "fresh")}
    assert (kinds["calibration"].sealed, kinds["calibration"].amended) == (None, [])
    assert kinds["fresh"].sealed
    assert kinds["fresh"].amended == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("20,12", "seed 12 is not fresh: it is a scoring seed of tiny at scale gpu"),
        ("20,40", "seed 40 is not fresh: it is in the claims.lock of tiny"),
        ("20,113", "seed 113 would draw calibration documents; choose fresh seeds below 100 or from 200 on"),
        ("200,199", "seed 199 would draw calibration documents; choose fresh seeds below 100 or from 200 on"),
        ("20,20", "SEEDS=20,20 are not two or more different seeds"),
        ("20,-1", "'-1' is no seed"),
    ],
)
def test_a_seed_that_is_not_fresh_is_named(tiny, given, said):
    freeze.mark_scored("tiny", "laptop", [40])
    with pytest.raises(UserError, match=f"^{said}"):
        config.check_fresh(config.fresh_seeds(given), ["tiny"])


def test_what_another_replication_has_used_is_fresh(tiny):
    for scale in settings.SCALES:
        tiny.scale(scale, own_seeds={"tiny": [30, 31, 32, 33, 34]})
    config.check_fresh([12, 13], ["tiny"])
    with pytest.raises(UserError, match="seed 30 is not fresh"):
        config.check_fresh([12, 30], ["tiny"])
    with pytest.raises(UserError, match=r"^seed 113 is not fresh: it is a calibration seed of tiny at scale gpu"):
        config.check_fresh([12, 113], ["tiny"])


def test_fresh_verdicts_are_compared_with_the_scored_ones(tiny):
    tiny.measure(random_directions=2.0)
    freeze.freeze(name="tiny")
    scored, _ = tiny.one()
    run = config.load_run("laptop", seeds="20, 21,22")
    assert (run.kind, run.seeds, run.results) == ("fresh", [20, 21, 22], "results/laptop-fresh-20-21-22")
    assert "no scored verdict at scale laptop" in fresh.agreement([scored], run, tiny.folder)
    path = tiny.folder / "results" / "laptop" / "tiny" / "claims.json"
    path.write_text(json.dumps([scored.model_dump(mode="json")]))
    other = scored.model_copy(update={"verdict": "not reproduced", "value": 1.0, "ci_low": 0.5, "ci_high": 1.5})
    assert fresh.agreement([scored], run, tiny.folder).splitlines() == [
        "Fresh seeds 20, 21, 22: 1 of 1 landmark verdicts agree.",
        "  3 seeds are fewer than the 5 that a scored landmark needs, so intervals over seeds are wider here.",
    ]
    assert fresh.agreement([other], run, tiny.folder).splitlines()[:2] == [
        "Fresh seeds 20, 21, 22: 0 of 1 landmark verdicts agree.",
        "  tiny.vulnerability on toy: not reproduced 1 [0.5, 1.5], scored reproduced 6 [5.5, 6.5]",
    ]
    absent = scored.model_copy(update={"verdict": "not run here", "value": None, "reason": "its precondition fails"})
    assert fresh.agreement([absent], run, tiny.folder).splitlines()[1] == (
        "  tiny.vulnerability on toy: not judged here (its precondition fails), scored otherwise."
    )
