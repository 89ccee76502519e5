"""The index of dictionaries: what is written is read, and what is broken is named."""

import pytest

from common.core.errors import UserError
from common.core.files import read_json, write_json
from common.saes.index import Entry, read_index, write_index
from common.saes.recipe import Recipe
from common.saes.saelens import save_saelens
from tests.fixtures.saes_browser_tiny import tiny_sae


def test_what_is_written_is_read(tmp_path):
    recipe = Recipe(architecture="batch_topk", d_sae=64, sparsity=4.0, seed=3)
    entries = [Entry(name="tiny", kind="grid", recipe=recipe), Entry(name="other", kind="late")]
    save_saelens(tiny_sae(), tmp_path / "tiny")
    write_index(tmp_path / "index.json", entries)
    found = read_index(tmp_path / "index.json")
    assert list(found.entries.values()) == entries
    assert found.of_kinds("late") == entries[1:]
    assert found.load("tiny").d_sae == tiny_sae().d_sae
    assert {one["version"] for one in read_json(tmp_path / "index.json")} == {1}
    with pytest.raises(UserError, match=r"no SAE 'third' in .*; there are tiny, other"):
        found.path("third")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([{"name": "a"}, {"name": "a"}], "'a' stands here twice"),
        ([{"name": "a", "version": 2}], r"0\.version"),
        ([{"kind": "grid"}], r"0\.name"),
        ({"name": "a"}, "valid list"),
    ],
)
def test_a_broken_index_is_named(tmp_path, content, named):
    write_json(tmp_path / "index.json", content)
    with pytest.raises(UserError, match=named):
        read_index(tmp_path / "index.json")
