"""Verdicts on earlier seeds are kept when a record is replaced, and shown where they differ."""

import json

import pytest

from common.core.claims import Claim, ControlResult
from common.core.lock import Entry, Lock
from common.publish import earlier as module
from common.publish.earlier import EARLIER, agreement, keep, same_number, sets_before, twice, twice_block

OLD = {"scale": "full", "seeds": [10, 11], "commit": "a" * 40}


def claim(name, verdict, value, **more):
    facts = {
        "id": f"grokking.{name}", "replication": "grokking", "tier": "landmark", "statement": "It is so.", "reason": "",
        "source": "Power et al. 2022", "model": "toy", "unit": "1", "value": value, "ci_low": value - 1,
        "ci_high": value + 1, "verdict": verdict, "assertion": ">= 5", "paper_value": None, "counterpart": None,
    }  # fmt: skip
    return Claim(**(facts | more))


@pytest.fixture
def before():
    """What the record before says: three landmarks, one of them without a verdict, and a check."""
    claims = [
        claim("delay", "reproduced", 7.0),
        claim("order", "not reproduced", 2.0),
        claim("later", "not run here", 0.0),
        claim("premise", "holds", 1.0, tier="check"),
    ]
    return [one.model_dump(mode="json") for one in claims]


def kept(folder, before, **changed):
    keep(folder, before, {"grokking": OLD}, {"grokking": OLD | changed})
    return json.loads((folder / EARLIER).read_text()).get("grokking")


def test_verdicts_are_kept_when_seeds_change(tmp_path, before):
    found = kept(tmp_path, before, seeds=[40, 41])
    assert (found["seeds"], found["commit"]) == ([10, 11], "a" * 40)
    assert {one["id"]: one["verdict"] for one in found["landmarks"]} == {
        "grokking.delay": "reproduced",
        "grokking.order": "not reproduced",
    }
    keep(tmp_path, [], {"grokking": OLD | {"seeds": [40, 41]}}, {"grokking": OLD | {"seeds": [40, 41]}})
    assert json.loads((tmp_path / EARLIER).read_text())["grokking"] == found, "the same seeds again change nothing"


@pytest.mark.parametrize("changed", [{"commit": "b" * 40}, {"scale": "laptop", "seeds": [40, 41]}])
def test_the_same_seeds_or_another_scale_keep_nothing(tmp_path, before, changed):
    assert kept(tmp_path, before, **changed) is None


def test_a_replication_that_is_gone_goes_here_too(tmp_path, before):
    kept(tmp_path, before, seeds=[40, 41])
    keep(tmp_path, [], {}, {"probing": OLD})
    assert json.loads((tmp_path / EARLIER).read_text()) == {}


def test_the_table_shows_what_moved_and_which_way(tmp_path, before):
    kept(tmp_path, before, seeds=[40, 41])
    twin = ControlResult(name="twin", value=2.0, ci_low=1.0, ci_high=3.0)
    now = [
        claim("delay", "same direction", 4.0, controls=[twin], strongest_control="twin"),
        claim("order", "reproduced", 9.0),
        claim("new", "reproduced", 9.0),
    ]
    block = twice_block(twice(tmp_path, now))
    assert (
        block.splitlines()[0]
        == "On earlier seeds 0 of 2 had the same verdict. Verdicts that are better now: 1; worse: 1."
    )
    moved = "| `grokking.delay` | >= 5 | reproduced: 7 [6, 8] | same direction: 4 [3, 5] |"
    assert f"{moved} twin: 2 [1, 3] (new) |" in block
    assert "grokking.new" not in block
    same = twice(tmp_path, [claim("delay", "reproduced", 6.0), claim("delay", "reproduced", 6.0, model="gpt2")])
    assert agreement(same) == "On earlier seeds 1 of 1 had the same verdict.", "another model was not scored before"
    before[0]["controls"] = [twin.model_dump()]
    kept(tmp_path, before, seeds=[40, 41])
    assert f"{moved} twin: 2 [1, 3] |" in twice_block(twice(tmp_path, now)), "the control is known"


def test_a_number_in_another_unit_against_another_bound_keeps_both(tmp_path):
    old = [claim("delay", "not reproduced", 700.0, unit="steps", assertion=">= 500").model_dump(mode="json")]
    kept(tmp_path, old, seeds=[40, 41])
    block = twice_block(twice(tmp_path, [claim("delay", "reproduced", 7.0, unit="doublings")]))
    moved = "not reproduced: 700 [699, 701] steps, bound >= 500 | reproduced: 7 [6, 8] doublings"
    assert f"| `grokking.delay` | >= 5 | {moved} |" in block


def test_nothing_is_said_where_nothing_was_scored_twice(tmp_path):
    assert agreement(twice(tmp_path, [claim("delay", "reproduced", 6.0)])) == ""


def test_a_number_that_no_seed_draws_was_not_scored_twice(tmp_path, before):
    """`delay` has its old value and interval again, up to rounding; `order` has not."""
    kept(tmp_path, before, seeds=[40, 41])
    now = [claim("delay", "reproduced", 7.0 + 1e-12), claim("order", "not reproduced", 2.1)]
    assert [one.id for one, _ in twice(tmp_path, now)] == ["grokking.order"]
    now = [claim("delay", "not reproduced", 7.0)]
    assert [one.id for one, _ in twice(tmp_path, now)] == ["grokking.delay"], "a control moved the verdict"
    before[0]["per_seed"] = [6.0, 8.0]
    kept(tmp_path, before, seeds=[40, 41])
    for values, scored in (([8.0, 6.0], ["grokking.delay"]), ([6.0, 8.0], []), (None, [])):
        again = twice(tmp_path, [claim("delay", "reproduced", 7.0, per_seed=values)])
        assert [one.id for one, _ in again] == scored, "the same mean of other values is another score"
    assert not same_number((0.0, 0.0, 0.1), (0.0, 0.0, 0.1)), "no refusal twice, on other requests"


@pytest.mark.parametrize(("scored", "said"), [([], ""), ([10, 11], ""), ([8, 9, 10, 11], " (1 set scored before)")])
def test_the_page_says_on_how_many_sets_of_seeds_claims_were_scored_before(monkeypatch, scored, said):
    full = {"one": {"full": Entry(metric="a.b", scored_seeds=scored), "laptop": Entry(metric="a.b", scored_seeds=[2])}}
    gone = {"two": {"full": Entry(metric="a.c", scored_seeds=[3, 4], retired="dropped")}}
    monkeypatch.setattr(module, "read_lock", lambda _: Lock(claims=full | gone))
    assert sets_before("grokking", OLD) == said
    more = full | {"three": {"full": Entry(metric="a.d", scored_seeds=[3, 4, 5, 6])}}
    monkeypatch.setattr(module, "read_lock", lambda _: Lock(claims=more))
    assert sets_before("grokking", OLD).startswith(" (2 sets" if len(scored) < 3 else " (3 sets")
