"""probing: the trivial reader finds what is planted, and is chosen without the statements it is judged on."""

import numpy as np
import pytest

from replications.probing.statements import statements
from replications.probing.trivial import Bag, area, features, trivial_reader

ROWS = statements(50, 50)


def of(topic, split, *, negated=False):
    return [row for row in ROWS if (row.topic, row.split, row.negated) == (topic, split, negated)]


def truth_of(rows):
    return np.array([row.true for row in rows])


@pytest.mark.parametrize(("sign", "name"), [(1, "log_probability"), (-1, "minus_log_probability")])
def test_a_probability_that_says_all_is_chosen_with_its_sign(sign, name):
    train, judged = of("capitals", "train"), of("capitals", "held_out")
    reader = trivial_reader(train, sign * truth_of(train).astype(float))
    assert (reader.name, reader.area) == (name, 1)
    assert area(reader.scores(judged, sign * truth_of(judged).astype(float)), truth_of(judged)) == 1


def test_digits_alone_order_numbers_and_negation_turns_them():
    """No model, no probability: what stands in the slots tells which number is larger, on items never seen."""
    train = of("larger", "train")
    reader = trivial_reader(train, np.zeros(len(train)))
    assert reader.name == "slots"
    for negated in (False, True):
        judged = of("larger", "validation", negated=negated)
        found = area(reader.scores(judged, np.zeros(len(judged))), truth_of(judged))
        assert found < 0.1 if negated else found > 0.9


def test_balanced_words_tell_nothing():
    """Each answer is as often true as false, so a bag of slots is at chance on other items."""
    for topic in ("capitals", "opposites", "sums"):
        train, judged = of(topic, "train"), of(topic, "validation")
        assert area(Bag(train)(judged), truth_of(judged)) == pytest.approx(0.5, abs=0.1)
        likely = np.random.default_rng(0).normal(truth_of(train), 1)
        assert trivial_reader(train, likely).name == "log_probability"


def test_the_bag_is_judged_on_items_it_has_not_seen():
    """A bag that knows its own items has 0.998 here."""
    train = of("larger", "train")
    assert area(Bag(train)(train), truth_of(train)) > 0.99
    assert 0.8 < trivial_reader(train, np.zeros(len(train))).area < 0.97


def test_features_are_words_or_digits_of_a_slot():
    row = of("larger", "train")[0]._replace(slots=("47", "105"))
    assert features(row) == {
        (0, 0, "4"),
        (0, 1, "7"),
        (0, -1, "2"),
        (1, 0, "1"),
        (1, 1, "0"),
        (1, 2, "5"),
        (1, -1, "3"),
    }
    assert (0, 2, "two") in features(row._replace(slots=("one and two", "three")))
