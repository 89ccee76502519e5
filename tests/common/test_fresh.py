"""Which runs are scored: calibration, results made elsewhere, and fresh seeds."""

import json
from base64 import urlsafe_b64encode

import pytest

import common.core.lock as lock
import common.core.settings as settings
from common.core.errors import UserError
from common.core.verify import verify_replication
from common.engine import config, freeze, fresh, plan


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
