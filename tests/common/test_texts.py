"""The sentences of recorded claims are those of `claims.yaml`, and a change of them puts no record out of date."""

import pytest
import yaml

from common.core.errors import UserError
from common.core.files import read_json
from common.publish import controls, reference, texts
from common.publish.texts import TEXTS, with_texts


def test_records_have_the_present_sentences(root):
    claims, records = (read_json(root / "figures" / f"{name}.json") for name in ("claims", "records"))
    scales = {name: one["scale"] for name, one in records.items()}
    assert with_texts(claims, scales) == claims, "run `make pages`"
    old = [
        claim | {"statement": "An earlier sentence of this claim."} for claim in claims if claim["tier"] != "planned"
    ]
    assert with_texts(old, scales) == claims
    for other in ({"metric": "another"}, {"assertion": ">= 12345"}):
        changed = with_texts([claim | other for claim in old], scales)
        assert changed[0]["statement"].startswith("An earlier"), "of another measure or bound"


def test_a_retired_landmark_leaves_the_records(root, monkeypatch):
    claims = read_json(root / "figures" / "claims.json")
    scales = {name: one["scale"] for name, one in read_json(root / "figures" / "records.json").items()}
    gone = next(one for one in claims if one["tier"] == "landmark" and one["replication"] == "grokking")
    name = gone["id"].partition(".")[2]
    kept = [one for one in texts.load_claims("grokking") if one.id != name]
    monkeypatch.setattr(
        texts, "load_claims", lambda one, load=texts.load_claims: kept if one == "grokking" else load(one)
    )
    assert gone in with_texts(claims, scales), "gone, but nobody said why"
    lock = texts.read_lock("grokking")
    for scale, entry in lock.claims[name].items():
        lock = lock.with_entry(name, scale, entry.model_copy(update={"retired": "a trivial alternative passes"}))
    monkeypatch.setattr(texts, "read_lock", lambda one, read=texts.read_lock: lock if one == "grokking" else read(one))
    assert with_texts(claims, scales) == [one for one in claims if one != gone]


@pytest.mark.parametrize(
    ("field", "value", "same"),
    [
        ("statement", "Another sentence, at least as long.", True),
        ("paper_value", "7", True),
        ("metric", "other", False),
    ],
)
def test_only_what_decides_is_part_of_the_state(root, tmp_path, field, value, same):
    path = root / "replications" / "grokking" / "claims.yaml"
    content = yaml.safe_load(path.read_text())
    content["claims"][0][field] = value
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(content))
    assert (reference._claims(tmp_path / "claims.yaml", "full") == reference._claims(path, "full")) is same
    assert field in TEXTS or not same


def test_a_control_is_what_its_claim_says_else_what_its_name_says(tmp_path, monkeypatch):
    monkeypatch.setattr(controls, "ROOT", tmp_path)
    folder = tmp_path / "replications" / "tiny_controls"
    folder.mkdir(parents=True)
    (folder / "controls.yaml").write_text("random: any direction\nother:\n  here: the next topic\n")
    assert controls.definition("tiny_controls.anywhere", "random") == "any direction"
    assert controls.definition("tiny_controls.here", "other") == "the next topic"
    assert controls.definition("tiny_controls.there", "other") == ""
    assert controls.definition("tiny_controls.here", None) == controls.definition("no_such.claim", "random") == ""
    (folder / "controls.yaml").write_text("random: [1, 2]\n")
    controls.definitions.cache_clear()
    with pytest.raises(UserError, match="one line of text"):
        controls.definition("tiny_controls.here", "random")
    controls.definitions.cache_clear()
