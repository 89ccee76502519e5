"""The picture of the circuit: one line per counted head, as wide as its effect."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.patches import FancyArrowPatch

from replications.ioi_circuit.circuit_figures import diagram

NODES = [
    (9, 0, "end", "logits", -60.0, "name_mover"),
    (9, 1, "end", "logits", 30.0, "negative"),
    (8, 0, "end", "mover_queries", -12.0, "s_inhibition"),
    (7, 0, "s2", "inhibition_values", -6.0, "induction"),
    (6, 0, "s2", "inhibition_keys", 3.0, "unclassified"),
    (9, 2, "end", "logits", -50.0, "uncounted"),
]
TABLE = pd.DataFrame(NODES, columns=["layer", "head", "place", "receiver", "effect", "class"])


@pytest.fixture
def picture():
    figure, shown = diagram(TABLE)
    yield figure, shown
    plt.close(figure)


def test_every_counted_head_has_one_line_as_wide_as_its_effect(picture):
    figure, shown = picture
    assert shown["effect"].tolist() == [-60, 30, -12, -6, 3]
    lines = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    widths = sorted((line.get_linewidth() for line in lines), reverse=True)
    assert widths == pytest.approx([0.6 + 4 * size / 60 for size in (60, 30, 12, 6, 3)])
    broken = sorted(line.get_linewidth() for line in lines if line.get_linestyle() not in ("-", "solid"))
    assert broken == pytest.approx([0.6 + 4 * size / 60 for size in (3, 30)])


def test_direct_effects_lead_into_the_logits_and_the_legend_counts_what_is_left_out(picture):
    figure, _ = picture
    assert "logits" in [text.get_text() for text in figure.axes[0].texts]
    assert "not drawn: 1 of 6 nodes" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_no_box_covers_another(picture):
    _, shown = picture
    for _, same in shown.groupby("x"):
        assert same["y"].sort_values().diff().dropna().min() >= 1 or len(same) == 1


def test_a_circuit_without_counted_heads_is_an_empty_picture():
    figure, shown = diagram(TABLE[TABLE["class"] == "uncounted"])
    plt.close(figure)
    assert shown.empty
