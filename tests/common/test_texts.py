"""The sentences of recorded claims are those of `claims.yaml`, and a change of them puts no record out of date."""

import pytest
import yaml

from common.core.files import read_json
from common.publish import reference
from common.publish.texts import TEXTS, with_texts


def test_records_have_the_present_sentences(root):
    claims, records = (read_json(root / "figures" / f"{name}.json") for name in ("claims", "records"))
    scales = {name: one["scale"] for name, one in records.items()}
    assert with_texts(claims, scales) == claims, "run `make pages`"
    old = [
        claim | {"statement": "An earlier sentence of this claim."} for claim in claims if claim["tier"] != "planned"
    ]
    assert with_texts(old, scales) == claims
    other = [claim | {"metric": "another"} for claim in old]
    assert with_texts(other, scales)[0]["statement"].startswith("An earlier"), "of another measure"


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
