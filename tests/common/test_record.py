"""Slim records: a replication is recorded by itself, pictures stay small, and what has changed since is named."""

import json
import re
import subprocess
from functools import partial

import numpy as np
import pytest
from PIL import Image
from pydantic import create_model

import common.publish.record as module
import common.publish.reference as reference
from common.core import seals
from common.core.claims import Claim, ControlResult, load_claims
from common.core.errors import UserError
from common.core.metrics import Estimate
from common.core.settings import ROOT, load_replication, replications
from common.core.verify import overview, summary
from common.publish.claims_page import by_replication, reason, strongest, value
from common.publish.gpu_card import gpu_block
from common.publish.misses import CLOSE, EQUALLED, SHORT, WIDE, WORSE, missed, reaches, what_decided
from common.publish.pages import (
    MOST_PICTURES,
    all_seeds,
    badge,
    leading,
    page_figures,
    with_block,
)
from common.publish.paper import reasons
from common.publish.record import record, slim_picture
from common.publish.reference import records, seed_list
from common.publish.texts import chronological

COST = {"wall_s": 1.0, "cpu_s": 120.0, "peak_rss_mb": 3000.0, "gpu_s": 0.0, "peak_gpu_mb": 0.0}
ORIGIN = {"commit": "a" * 40, "dirty": False, "scale": "laptop", "seeds": [10, 11, 12], "device": "one", "models": {}}


def claim(name, **more):
    facts = {
        "id": f"grokking.{name}", "replication": "grokking", "tier": "landmark", "statement": f"What {name} says.",
        "counterpart": "Figure 1", "source": "Power et al. 2022", "paper_value": "5", "model": "toy", "unit": "1",
        "value": 7.0, "ci_low": 6.0, "ci_high": 8.0, "verdict": "reproduced", "reason": "", "assertion": ">= 5",
        "strongest_control": "large_share",
        "controls": [ControlResult(name="large_share", value=1.0, ci_low=0.9, ci_high=1.1)],
    }  # fmt: skip
    return Claim(**(facts | more))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a finished run of grokking, whose section of the paper shows one figure."""
    results = tmp_path / "results/laptop"
    for path, content in {
        "replications/grokking/section.typ": '#figure-of("grokking/toy/delay/figures/delay")\n',
        "figures/claims.json": json.dumps([claim("old", replication="gone").model_dump(mode="json")]),
        "results/laptop/grokking/claims.json": json.dumps([claim("delay").model_dump(mode="json")]),
        "results/laptop/grokking/provenance.json": json.dumps(ORIGIN | {"state": "now"}),
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    (results / "grokking/toy/delay/figures").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (900, 1400, 3), dtype=np.uint8)
    noise[:, 200:] = 255
    Image.fromarray(noise).save(results / "grokking/toy/delay/figures/delay.png")
    cost = {"steps": {"grokking/train": COST}, "replications": {"grokking": COST | {"disk_mb": 4.0}}}
    for target, stand_in in {
        "ROOT": tmp_path, "replications": lambda: ["grokking"], "state": lambda name, scale: "now",
        "costs": lambda folder: cost, "write_pages": lambda folder: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(module, target, stand_in)
    monkeypatch.setattr("common.publish.pages.ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("seeds", "kept"), [([20, 21, 22], ["grokking"]), ([110, 111, 112], [])])
def test_what_was_scored_before_is_kept_but_no_calibration(project, seeds, kept):
    (project / "figures/records.json").write_text(json.dumps({"grokking": ORIGIN | {"seeds": seeds}}))
    (project / "figures/claims.json").write_text(json.dumps([claim("delay").model_dump(mode="json")]))
    record("laptop")
    assert list(json.loads((project / "figures/earlier.json").read_text())) == kept


def test_a_finished_replication_is_recorded_with_small_pictures(project):
    record("laptop")
    known = json.loads((project / "figures/records.json").read_text())["grokking"]
    assert (known["scale"], known["state"], known["cost"]["steps"]) == ("laptop", "now", 1)
    assert known["cost"]["costliest"] == {"train": 120.0}
    judged = json.loads((project / "figures/claims.json").read_text())
    assert [one["id"] for one in judged] == ["grokking.delay"], "records of replications that are gone go"
    assert (project / "figures/grokking/delay.png").stat().st_size <= 100_000


def test_a_run_on_a_gpu_is_kept_beside_the_reference_run(project):
    results = project / "results"
    (results / "laptop").rename(results / "gpu-calibration")
    origin = ORIGIN | {"scale": "gpu", "seeds": [110, 111, 112, 113, 114], "device": "A GPU", "state": "now"}
    (results / "gpu-calibration/grokking/provenance.json").write_text(json.dumps(origin))
    record("gpu-calibration")
    assert list(json.loads((project / "figures/gpu/records.json").read_text())) == ["grokking"]
    assert not (project / "figures/records.json").exists()
    assert "old" in (project / "figures/claims.json").read_text(), "the reference run is left alone"
    other = claim("delay", verdict="not reproduced", value=3.0, controls=[ControlResult(name="newer", value=4.0)])
    (project / "figures/claims.json").write_text(json.dumps([other.model_dump(mode="json")]))
    said = gpu_block(project / "figures")
    assert (
        "grokking: A GPU; calibration seeds, which set the seals: not scored yet (110 to 114); commit `aaaaaaaa`."
        in said
    )
    assert "| grokking | 1 | 2.0 | 0.0 | 0.0 | 1 of 1 (calibration) | 0 of 1 | 0 of 0 |" in said
    assert "- `grokking.delay`: reproduced with 7 [6, 8]; at `full` not reproduced with 3 [6, 8], against" in said
    assert "against controls that this record lacks (newer)." in said
    assert '<img src="../figures/gpu/grokking/delay.png"' in said
    assert (project / "figures/gpu/grokking/delay.png").exists()
    check = other.model_copy(update={"tier": "check", "verdict": "holds"})
    (project / "figures/claims.json").write_text(json.dumps([check.model_dump(mode="json")]))
    said = gpu_block(project / "figures")
    assert "| 0 of 0 (calibration) | 0 of 0 | 0 of 0 |" in said, "a check at `full` is not compared"
    assert "Judged otherwise" not in said
    (project / "figures/claims.json").write_text(json.dumps([other.model_dump(mode="json")]))
    unjudged = claim("delay", verdict="not run here", reason="its premise fails", value=None)
    broken = claim("premise", tier="check", verdict="fails")
    content = [one.model_dump(mode="json") for one in (unjudged, broken)]
    (project / "figures/gpu/claims.json").write_text(json.dumps(content))
    said = gpu_block(project / "figures")
    assert "| 0 of 0 (calibration) | 0 of 0 | 0 of 1 |" in said
    assert "- `grokking.delay`: not run here (its premise fails); at `full` not reproduced with" in said
    assert "Checks that fail: `grokking.premise`." in said


def test_fresh_seeds_make_no_record(project):
    with pytest.raises(UserError, match="results/laptop-fresh-5-6 is of fresh seeds, which check a record"):
        record("laptop-fresh-5-6", "grokking")


def test_an_unfinished_run_is_not_recorded(project, monkeypatch):
    monkeypatch.setattr(module, "state", lambda name, scale: "edited")
    with pytest.raises(UserError, match="no finished run of grokking by the present sources"):
        record("laptop", "grokking")
    assert not (project / "figures/records.json").exists()


def test_the_reference_run_gives_way_to_another_scale_by_name_alone(project):
    full = json.dumps({"grokking": ORIGIN | {"scale": "full", "seeds": [20, 21, 22]}})
    (project / "figures/records.json").write_text(full)
    with pytest.raises(UserError, match="holds the reference run"):
        record("laptop")
    assert (project / "figures/records.json").read_text() == full
    record("laptop", "grokking")
    assert json.loads((project / "figures/records.json").read_text())["grokking"]["scale"] == "laptop"


def test_a_picture_that_cannot_be_small_is_refused(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    monkeypatch.setattr(module, "LARGEST_PICTURE", 1_000)
    with pytest.raises(UserError, match="does not fit into 1 KB"):
        slim_picture(tmp_path / "noise.png")


def test_out_of_date_records_are_named(monkeypatch):
    monkeypatch.setattr(reference, "replications", lambda: ["a", "b", "c"])
    monkeypatch.setattr(reference, "state", lambda name, scale: f"{name} at {scale}")
    known = {"a": {"state": "a at full", "scale": "full"}, "b": {"state": "older", "scale": "full"}}
    monkeypatch.setattr(reference, "records", lambda: known)
    assert reference.stale() == ["b", "c"]
    older, missing = map(reference.remedy, reference.stale())
    assert "b is out of date" in older
    assert "`make SCALE=full b && make record SCALE=full NAME=b`" in older
    assert "c is missing; run `make SCALE=full c && make record SCALE=full NAME=c`" in missing


def test_a_setting_that_is_null_asks_for_nothing(monkeypatch):
    asked, before = load_replication("grokking", "smoke"), reference.chosen("grokking", "smoke")
    kind = create_model("More", __base__=type(asked), optional=(int | None, None))
    for optional, same in ((None, True), (1, False)):
        more = kind(**asked.model_dump(), optional=optional)
        for place in (reference, seals):
            monkeypatch.setattr(place, "load_replication", lambda name, scale, more=more: more)
        assert (reference.chosen("grokking", "smoke") == before) == same


def test_a_card_shows_value_strongest_control_and_badge():
    one = claim("delay")
    assert value(one) == "7 [6, 8]"
    assert strongest(one) == "large share: 1 [0.9, 1.1]"
    assert badge(one, failed="bound missed") == "✔ reproduced (unsealed)"
    assert badge(claim("other", verdict="not reproduced"), failed="bound missed") == "✘ bound missed (unsealed)"
    other = claim("other", verdict="not reproduced")
    check = claim("third", tier="check", verdict="holds")
    said = "1 of 2 landmarks reproduced, 1 not reproduced, 1 not run here; 1 of 2 checks hold"
    failing, waiting = claim("fourth", tier="check", verdict="fails"), claim("fifth", verdict="not run here")
    assert summary([one, other, check, failing, waiting]) == said


def test_what_decided_is_the_control_or_the_effect_itself():
    failed = partial(claim, verdict="not reproduced", assertion="in [0.4, 0.6]")

    def against(value: float, *controls: float) -> Claim:
        return failed("a", value=value, controls=[ControlResult(name=str(one), value=one) for one in controls])

    assert [reaches(failed("a"), number) for number in (0.3, 0.4, 0.6, 0.7, None)] == [False, True, True, False, False]
    assert [reaches(failed("a", assertion="<= 1e-05"), number) for number in (-3.0, 0.1)] == [True, False]
    assert [reaches(failed("a", assertion=">= -1"), number) for number in (-3.0, 0.1)] == [False, True]
    assert not reaches(failed("a", assertion=None), 0.5)
    equalled, short, worse = against(0.5, 0.1, 0.55), against(0.3, 0.2), against(0.3, 0.5)
    near = failed("a", value=0.5, controls=[ControlResult(name="near", value=0.39, ci_low=0.37, ci_high=0.41)])
    said = what_decided([equalled, near, near, short, short, worse, claim("held", value=0.0)])
    numbers = re.findall(r"\d+", said.removesuffix("includes 0."))
    assert numbers == ["6", "3", "1", "1", "2"], "all, short of the bound, so reached, equalled, close"
    assert what_decided([short]).startswith("Of the 1 not reproduced, 1 miss the bound; in 0")
    assert [missed(one) for one in (equalled, short, worse)] == [EQUALLED, SHORT, WORSE]
    told = short.model_copy(update={"reason": "the control large_share does not fail >= 5"})
    assert reason(told) == "0.3 [6, 8] misses in [0.4, 0.6]; the control large share does not fail ≥ 5"
    blamed = equalled.model_copy(update={"reason": "effect - near [-1, 1] does not exclude 0 on the right side"})
    assert reason(blamed) == f"{EQUALLED}: effect - near [-1, 1] is not wholly on the passing side of 0"
    held = told.model_copy(update={"verdict": "reproduced"})
    assert reason(held) == "the control large share does not fail ≥ 5"
    assert reasons([short, held]) == {f"{short.id} toy": SHORT}
    apart = Estimate(value=0.11, ci_low=0.05, ci_high=0.17)
    touching = ControlResult(name="near", value=0.39, ci_low=0.37, ci_high=0.41, difference=apart)
    same = touching.model_copy(update={"ci_high": 0.395, "difference": apart.model_copy(update={"ci_low": -0.01})})
    for control in (touching, same):
        assert missed(near.model_copy(update={"controls": [control]})) == CLOSE
    far = near.model_copy(update={"controls": [touching.model_copy(update={"ci_high": 0.395})]})
    assert missed(far) == WIDE, "no control is to blame: the effect's interval includes the neutral value"
    assert what_decided([far]).endswith("in 1 the interval of the effect itself is too wide.")


def test_the_count_over_replications_says_what_holm_leaves():
    toward, away = (Estimate(value=one, ci_low=one - 1, ci_high=one + 1) for one in (6.0, -6.0))
    one = claim(
        "delay", controls=[ControlResult(name="a", difference=toward), ControlResult(name="b", difference=away)]
    )
    assert overview([one]) == f"{summary([one])}; 1 of 2 differences significant after Holm's correction"
    assert overview([claim("delay")]) == summary([claim("delay")])


def test_a_landmark_without_controls_shows_a_dash():
    assert strongest(claim("delay", controls=[], strongest_control=None)) == "–"


def test_a_block_is_replaced_between_its_markers():
    page = "a\n<!-- x: generated by `make record` -->\nold\n<!-- end of x -->\nb\n"
    assert with_block(page, "x", "new") == page.replace("old", "new")
    with pytest.raises(UserError, match="lost the markers of its block 'y'"):
        with_block(page, "y", "new")


def test_seeds_in_a_row_are_shortened():
    assert seed_list([0, 1, 2, 3, 4]) == "0 to 4"
    assert seed_list([0, 1]) == "0, 1"
    assert seed_list([0, 2, 3]) == "0, 2, 3"
    assert all_seeds({"seeds": [0, 1, 2], "own_seeds": {"grokking": [7, 9]}}) == "0 to 2; Grokking: 7, 9"


def test_replications_come_in_the_order_of_the_papers_that_lead_them():
    names = chronological()
    assert sorted(names) == sorted(replications())
    shipped = ["grokking", "induction_heads", "ioi_circuit", "superposition", "monosemanticity", "probing"]
    shipped += ["sparse_autoencoders", "feature_steering", "refusal_direction", "circuit_tracing"]  # 2022 to 2025
    assert [name for name in names if name in shipped] == shipped


def test_claims_come_in_the_order_of_their_file_not_of_the_record():
    """So the first headline of `claims.yaml` leads the front page before anything is recorded again."""
    written = [one for one in load_claims("grokking") if one.tier == "landmark"]
    recorded = [claim(one.id, headline=one.headline) for one in [*written[1:], written[0]]]
    gone, other = claim("gone"), [claim(name, id=f"other.{name}", replication="other") for name in "ba"]
    groups = by_replication([gone, *recorded, *other])
    assert [one.id for one in groups["grokking"]] == [f"grokking.{one.id}" for one in written] + ["grokking.gone"]
    assert groups["other"] == other
    first = next(one for one in written if one.headline)
    assert leading(groups["grokking"]).id == f"grokking.{first.id}" != leading(recorded).id


def test_every_picture_that_a_page_shows_is_one_that_its_record_keeps():
    for name in replications():
        text = (ROOT / "replications" / name / "README.md").read_text(encoding="utf-8")
        own = re.findall(r"\.\./\.\./figures/([\w/-]+)\.png", text)
        kept = [f"{name}/{figure}" for figure in page_figures(name)[:MOST_PICTURES]]
        shown = f"replications/{name}/README.md shows no `../../figures/{name}/<figure>.png`"
        assert own or name not in records(), f"{shown}; its headline figure belongs there"
        assert set(own) <= set(kept), name


@pytest.mark.parametrize("path", ["figures/records.json", "figures/gpu/records.json"])
def test_the_commit_of_every_record_is_in_the_history(root, path):
    """A record that was committed on a branch and rebased names a commit that no clone has: merge that, too."""

    def git(*words):
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)

    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("no history here")
    records = json.loads((root / path).read_text())
    commits = {name: one["commit"] for name, one in records.items()}
    assert [name for name, one in commits.items() if git("merge-base", "--is-ancestor", one, "HEAD").returncode] == []
