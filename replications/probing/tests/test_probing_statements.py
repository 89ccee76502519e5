"""probing: the statements carry no label in their words, and the splits share nothing."""

import collections

from replications.probing.statements import CALIBRATION_TOPICS, TOPICS, calibration_statements, statements

ROWS = statements(42, 30)


def test_each_answer_is_as_often_true_as_false():
    """Behind one subject and in one polarity, the words of true statements are those of false ones."""
    for topic in TOPICS[:2]:
        for split in ("train", "validation", "held_out"):
            for negated in (False, True):
                rows = [row for row in ROWS if row[:1] + row[2:4] == (topic, split, negated)]
                kinds = {
                    true: collections.Counter(word for row in rows if row.true == true for word in row.text.split())
                    for true in (True, False)
                }
                assert kinds[True] == kinds[False]


def test_truth_is_decided_by_item_and_polarity():
    by_text = {row.text: row.true for row in ROWS if row.topic == "larger"}
    for text, true in by_text.items():
        words = text.rstrip(".").split()
        assert true == ((int(words[2]) > int(words[-1])) != ("not" in words))


def test_sums_are_sums():
    from replications.probing.statements import NUMBERS

    for row in ROWS:
        if row.topic == "sums":
            words = row.text.rstrip(".").split()
            a, b, c = (NUMBERS.index(words[place]) for place in (3, 5, -1))
            assert row.true == ((a + b == c) != row.negated)


def test_no_sum_is_the_mirror_of_another():
    pairs = {(row.item, frozenset(row.slots[0].split(" and "))) for row in statements(50, 50) if row.topic == "sums"}
    assert len(pairs) == len({pair for _, pair in pairs}) == 150


def test_slots_are_what_the_form_leaves_out():
    for row in ROWS:
        before, behind = row.slots
        assert before in row.stem
        assert row.text.endswith(f" {behind}.")


def test_splits_share_no_item_and_no_statement():
    where = collections.defaultdict(set)
    for row in ROWS:
        where[row.topic, row.item].add(row.split)
        where[row.text].add(row.split)
    assert {len(splits) for splits in where.values()} == {1}
    for topic in TOPICS:
        for negated in (False, True):
            assert len([row for row in ROWS if row.topic == topic and row.negated == negated]) >= 200


def test_calibration_topics_are_other_topics_and_half_true():
    rows = calibration_statements(50)
    assert not {row.topic for row in rows} & set(TOPICS)
    for topic in CALIBRATION_TOPICS:
        for split in ("train", "validation"):
            own = [row for row in rows if (row.topic, row.split) == (topic, split)]
            assert [len(own), sum(row.true for row in own)] == [100, 50]
    for row in rows:
        words = row.text.rstrip(".").replace(" and ", " ").split()
        if row.topic == "letters":
            assert row.true == (words[2] < words[-1])
        if row.topic == "products":
            assert row.true == (int(words[3]) * int(words[4]) == int(words[-1]))
