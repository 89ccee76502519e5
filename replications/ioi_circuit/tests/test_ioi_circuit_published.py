"""The published heads of GPT-2 small: the list itself, and how heads that the rules find are held against it."""

import pandas as pd
import pytest

from common.core.errors import UserError
from replications.ioi_circuit.nodes import PLACE_OF_RECEIVER
from replications.ioi_circuit.published import (
    HEADS,
    measure_overlap,
    naive_nodes,
    overlap,
    parse_head,
    published_classes,
)


def test_rules_are_held_against_the_published_heads() -> None:
    """A table in which all heads but one have their published class, and everything else has none."""
    table = pd.DataFrame([(layer, head) for layer in range(12) for head in range(12)], columns=["layer", "head"])
    for name in PLACE_OF_RECEIVER:
        table[name], table[f"{name}_class"] = 0.0, None
    for kind, column in (
        ("name_mover", "logits"), ("negative", "logits"), ("s_inhibition", "mover_queries"),
        ("induction", "inhibition_values"), ("duplicate", "inhibition_keys"), ("previous", "induction_keys"),
    ):  # fmt: skip
        for node in published_classes()[kind]:
            table.loc[12 * node.layer + node.head, f"{column}_class"] = kind
    table.loc[12 * 9 + 9, "logits_class"] = "unclassified"
    metrics = measure_overlap(table, 100)
    assert metrics["published_named"].value == pytest.approx(17 / 18)
    assert metrics["published_named"].n == 18
    assert metrics["published_named"].control("shuffled_heads").ci_high < 0.2


def test_the_published_heads_of_gpt2() -> None:
    classes = published_classes()
    assert sum(map(len, classes.values())) == 26
    assert len(naive_nodes()) == 13
    assert overlap([(9, 9), (10, 0), (0, 0)], "name_mover") == pytest.approx(2 / 3)
    for name, (_, heads) in HEADS.items():
        assert len(classes[name]) == len(heads.split())


@pytest.mark.parametrize("label", ["12.0", "3.12", "3", "3.x", "-1.2", ""])
def test_an_unknown_head_label_is_a_clear_error(label: str) -> None:
    assert parse_head("11.11", 12, 12) == (11, 11)
    with pytest.raises(UserError, match=r"unknown head '.*': heads of this model .* from 0.0 to 11.11"):
        parse_head(label, 12, 12)


def test_the_published_heads_are_refused_by_a_model_that_lacks_them() -> None:
    with pytest.raises(UserError, match="unknown head"):
        published_classes(4, 4)
