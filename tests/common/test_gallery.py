"""The committed gallery: single replications are renewed, the others stay, and nothing is kept that has changed."""

import json

import numpy as np
import pytest
from PIL import Image

import common.publish.gallery as module
from common.core.errors import UserError
from common.publish.gallery import gallery, merged_cost
from common.publish.pages import _cost_card, gallery_text, opening, seed_list

STEP = {"wall_s": 1.0, "cpu_s": 2.0, "peak_rss_mb": 3.0, "gpu_s": 0.0, "peak_gpu_mb": 0.0}
ORIGIN = {"commit": "a" * 40, "dirty": False, "scale": "laptop", "seeds": [0, 1], "device": "one", "models": {}}


def claims(root, name):
    return [one for one in json.loads((root / "figures/claims.json").read_text()) if one["replication"] == name]


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    """A committed gallery of superposition and grokking, and a finished run of grokking alone."""
    names, figures, results = ["grokking", "superposition"], tmp_path / "figures", tmp_path / "results/laptop"
    known = {"grokking": "old", "superposition": "same"}
    cost = {
        "steps": {f"{name}/draw": STEP for name in names},
        "replications": {name: STEP | {"disk_mb": 1.0} for name in names},
    }
    for name in names:
        (figures / name).mkdir(parents=True)
        (figures / name / "old.json").write_text('{"caption": "An old figure."}')
    written = {
        "claims.json": [claim for name in names for claim in claims(root, name)],
        "provenance.json": dict.fromkeys(names, ORIGIN),
        "cost.json": cost,
        "sources.json": known,
    }
    for name, content in written.items():
        (figures / name).write_text(json.dumps(content))
    folder = results / "grokking/toy/delay/figures"
    folder.mkdir(parents=True)
    for ending in ("svg", "png", "csv", "pdf"):
        (folder / f"new.{ending}").write_text("x")
    (folder / "new.json").write_text('{"caption": "A new figure."}')
    (results / "grokking/claims.json").write_text(json.dumps(claims(root, "grokking")[:2]))
    new = ORIGIN | {"commit": "b" * 40, "device": "two", "instructions": "AVX2", "state": "new"}
    (results / "grokking/provenance.json").write_text(json.dumps(new))
    fresh = {"steps": {"grokking/draw": STEP | {"cpu_s": 7.0}}, "replications": {"grokking": STEP | {"disk_mb": 4.0}}}
    states = {"grokking": "new", "superposition": "same"}
    for target, value in {
        "ROOT": tmp_path, "replications": lambda: names, "states": lambda: states, "costs": lambda _: fresh,
        "pages": lambda folder: {folder / "README.md": gallery_text(folder)},
    }.items():  # fmt: skip
        monkeypatch.setattr(module, target, value)
    return figures, states


def test_one_replication_is_renewed_and_the_other_stays(project, root):
    figures, states = project
    gallery()
    assert sorted(path.name for path in (figures / "grokking").iterdir()) == [
        f"delay-new.{ending}" for ending in ("csv", "json", "png", "svg")
    ]
    assert (figures / "superposition/old.json").exists()
    judged = json.loads((figures / "claims.json").read_text())
    assert judged == claims(root, "grokking")[:2] + claims(root, "superposition")
    origins = json.loads((figures / "provenance.json").read_text())
    assert [origins[name]["commit"][0] for name in ("grokking", "superposition")] == ["b", "a"]
    assert json.loads((figures / "sources.json").read_text()) == states
    page = (figures / "README.md").read_text()
    assert "| laptop | 0, 1 | `bbbbbbbbbbbb` | two (AVX2) |" in page
    assert "| laptop | 0, 1 | `aaaaaaaaaaaa` | one |" in page
    assert "![A new figure.](grokking/delay-new.png)" in page
    assert claims(root, "grokking")[0]["statement"] not in page, "claims stand on the page of the replication"


def test_seeds_in_a_row_are_shortened():
    assert seed_list([0, 1, 2, 3, 4]) == "0 to 4"
    assert seed_list([0, 1]) == "0, 1"
    assert seed_list([0, 2, 3]) == "0, 2, 3"


@pytest.mark.parametrize(
    "caption",
    [
        "Accuracy on trained and held-out pairs, one line per seed. More follows.",
        "A title. What the neurons of the trained networks are. More follows.",
        "Every number that Miller et al. Figure 2 has, [in all]. More follows.",
        'Does the model complete "... John gave a drink to" with Mary? More follows.',
        "A caption without an end",
    ],
)
def test_a_picture_is_described_by_the_first_sentence_of_its_caption(caption):
    assert opening(caption) == caption.removesuffix(" More follows.").replace("[in all]", "(in all)")


def test_what_has_changed_since_is_not_kept(project):
    figures, states = project
    before = {path: path.read_bytes() for path in figures.rglob("*") if path.is_file()}
    states["superposition"] = "edited"
    with pytest.raises(
        UserError, match="scale laptop are up to date, and figures/ shows older ones, of: superposition;"
    ):
        gallery()
    states |= {"superposition": "same", "grokking": "edited after its run"}
    with pytest.raises(UserError, match="results/laptop holds no finished replication"):
        gallery()
    with pytest.raises(UserError, match="results/smoke holds no finished replication"):
        gallery("smoke")
    assert {path: path.read_bytes() for path in figures.rglob("*") if path.is_file()} == before


def test_cost_is_that_of_the_run_each_replication_comes_from(project):
    figures, _ = project
    gallery()
    cost = json.loads((figures / "cost.json").read_text())
    assert {name: step["cpu_s"] for name, step in cost["steps"].items()} == {
        "grokking/draw": 7.0,
        "superposition/draw": 2.0,
    }
    assert (cost["total"]["cpu_s"], cost["total"]["disk_mb"]) == (9.0, 5.0)


def test_nothing_old_is_needed_where_everything_is_new(project):
    new = {"steps": {f"{name}/draw": STEP for name in ("grokking", "superposition")}}
    new["replications"] = {name: STEP | {"disk_mb": 1.0} for name in ("grokking", "superposition")}
    assert merged_cost({}, new, ["grokking", "superposition"])["total"]["cpu_s"] == 4.0


def test_the_cost_of_models_is_that_of_the_new_run_and_of_what_others_need(project):
    def run_of(steps, names, disk):
        costs = {name: STEP | {"cpu_s": seconds} for name, seconds in steps.items()}
        return {"steps": costs, "replications": {name: STEP | {"disk_mb": disk} for name in (*names, "models")}}

    names = ["grokking", "superposition"]
    old = run_of({"grokking/draw": 1.0, "superposition/draw": 1.0, "models/chat": 8.0, "models/gone": 5.0}, names, 4.0)
    new = run_of({"grokking/draw": 2.0, "models/docs": 3.0, "models/chat": 9.0}, names[:1], 2.0)
    found = merged_cost(old, new, names[:1])
    assert {name: step["cpu_s"] for name, step in found["steps"].items() if name.startswith("models/")} == {
        "models/chat": 9.0,
        "models/docs": 3.0,
        "models/gone": 5.0,  # superposition may be made from it
    }
    assert found["replications"]["models"]["cpu_s"] == 17.0
    assert (found["total"]["cpu_s"], found["total"]["disk_mb"]) == (20.0, 10.0)
    new = run_of({"grokking/draw": 2.0, "superposition/draw": 2.0, "models/docs": 3.0}, names, 2.0)
    whole = merged_cost(old, new, names)
    assert {name for name in whole["steps"] if name.startswith("models/")} == {"models/docs"}
    assert (whole["total"]["cpu_s"], whole["total"]["disk_mb"]) == (7.0, 6.0)


def test_the_cost_card_says_what_was_written_where_it_is_known_of_every_step():
    old = {"steps": {"grokking/draw": STEP}, "replications": {"grokking": STEP | {"disk_mb": 1.0}}}
    assert _cost_card(old, "grokking", "one")[2:] == [
        "| the 1 costliest steps | CPU seconds | peak memory, MB |",
        "|---|---:|---:|",
        "| `draw` | 2 | 3 |",
    ]
    new = old | {"steps": {"grokking/draw": STEP | {"disk_mb": 0.25}}}
    assert _cost_card(new, "grokking", "one")[2:] == [
        "| the 1 costliest steps | CPU seconds | peak memory, MB | written, MB |",
        "|---|---:|---:|---:|",
        "| `draw` | 2 | 3 | 0.2 |",
    ]


def test_nothing_is_cut_off_at_the_border_of_a_committed_figure(root):
    """Labels and legends that do not fit run over the border, where an untouched picture is white."""

    def border(path):
        picture = np.asarray(Image.open(path).convert("L"))
        return np.concatenate([side.ravel() for side in (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:])])

    assert [path.name for path in sorted(root.glob("figures/*/*.png")) if border(path).min() < 250] == []
