"""Figures: all their files, laid out once and not again for every form."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine

from common.core.errors import UserError
from common.core.figures import save_figure, use_style
from common.core.files import read_json

DATA = pd.DataFrame({"x": [1, 2]})
ENDINGS = ("svg", "png", "pdf", "csv", "json")


def drawn(tmp_path):
    """A figure with a colour bar, and its caption."""
    use_style()
    figure, axes = plt.subplots(1, 2)
    axes[0].plot(DATA["x"])
    figure.colorbar(axes[1].imshow([[0, 1]]))
    caption = tmp_path / "caption.rst"
    caption.write_text("Two\n   lines.\n")
    return figure, caption


def test_a_figure_is_laid_out_once(tmp_path, monkeypatch):
    calls, execute = [], ConstrainedLayoutEngine.execute
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda self, fig: (calls.append(fig), execute(self, fig)))
    figure, caption = drawn(tmp_path)
    save_figure(figure, tmp_path / "made", DATA, caption, [tmp_path / "table.csv"])
    assert calls == [figure]
    assert all((tmp_path / f"made.{ending}").stat().st_size > 0 for ending in ENDINGS)
    assert read_json(tmp_path / "made.json")["caption"] == "Two lines."


def test_the_stored_caption_names_the_scale(tmp_path):
    figure, caption = drawn(tmp_path)
    place = tmp_path / "results" / "laptop" / "toy"
    save_figure(figure, place / "made", DATA, caption, [])
    assert read_json(place / "made.json")["caption"] == "Two lines. Scale laptop."


def test_the_same_data_give_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        figure, caption = drawn(tmp_path)
        save_figure(figure, tmp_path / name, DATA, caption, [])
    for ending in ENDINGS:
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"other.{ending}").read_bytes(), ending


def test_nothing_to_draw_is_an_error(tmp_path):
    figure, caption = drawn(tmp_path)
    with pytest.raises(UserError, match="no data for figure made"):
        save_figure(figure, tmp_path / "made", DATA[:0], caption, [tmp_path / "part" / "table.csv"])
    plt.close(figure)


def test_an_empty_caption_is_an_error(tmp_path):
    figure, caption = drawn(tmp_path)
    caption.write_text(" \n")
    with pytest.raises(UserError, match=r"caption.rst is empty; write what the figure shows"):
        save_figure(figure, tmp_path / "made", DATA, caption, [])
    plt.close(figure)
