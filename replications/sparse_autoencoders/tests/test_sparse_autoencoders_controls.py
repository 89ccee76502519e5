"""Controls that need no SAE: tables of tokens, clusters. And the intervals in which seeds share their documents."""

import numpy as np
import pytest
import torch

from common.core.statistics import over_clusters
from replications.sparse_autoencoders import clusters
from replications.sparse_autoencoders.crossed import Ratio, by_document, over_seeds_and_documents
from replications.sparse_autoencoders.named_features import choose
from replications.sparse_autoencoders.token_tables import PRIOR, left_out_shares, tables


def test_shares_are_those_of_other_documents_shrunk_to_the_coarser_level():
    dice = torch.Generator().manual_seed(0)
    token, document = torch.randint(4, (60,), generator=dice), torch.arange(60) // 10
    pair, counted = token + 4 * torch.randint(3, (60,), generator=dice), document < 4
    labels = torch.rand(60, 2, generator=dice) < 0.4
    found = left_out_shares(labels, [token, pair], document, counted)
    for place in range(60):
        for pattern in range(2):
            share = 0.0
            for key in (token, pair):
                same = [
                    one for one in range(60)
                    if counted[one] and key[one] == key[place] and document[one] != document[place]
                ]  # fmt: skip
                share = (sum(bool(labels[one, pattern]) for one in same) + PRIOR * share) / (len(same) + PRIOR)
            assert float(found[place, pattern]) == pytest.approx(share, abs=1e-6)


def test_a_table_of_pairs_knows_a_pattern_of_pairs_and_a_set_of_tokens_does_not():
    """The pattern is token 1 behind token 2; in each document a word of its own is in it half of the time."""
    dice = np.random.default_rng(0)
    token, document = dice.integers(0, 4, 4000), np.repeat(np.arange(40), 100)
    previous, first = np.roll(token, 1), document % 2 == 0
    truth = (token == 1) & (previous == 2)
    own = dice.random(4000) < 0.1
    token = np.where(own, 100 + document, token)
    truth |= own & (document % 4 < 2)
    ids = [torch.from_numpy(one) for one in (previous, token, document, first)]
    found = tables(torch.from_numpy(truth)[:, None], *ids)
    f1 = {}
    for name, values in found.items():
        [one] = choose(values, {"p": torch.from_numpy(truth)}, document, first).values()
        f1[name] = one.above.sum() / one.below.sum()
    rare = torch.from_numpy(own)
    assert f1["token_pairs"] == pytest.approx(2 * 0.055 / (2 * 0.055 + 0.05), abs=0.08), "all but words of one document"
    assert f1["token_set"] < f1["token_pairs"] - 0.2
    assert float(found["token_pairs"][rare].max()) < 0.2, "a document does not teach its own words"


def planted(seeds, documents, of_seed, of_document):
    """One part; what the ratio is made of varies with both."""
    dice = np.random.default_rng(0)
    values = 2 + of_seed * dice.standard_normal((seeds, 1)) + of_document * dice.standard_normal(documents)
    return Ratio(values[:, None], np.ones((seeds, 1, documents)))


def width(metric):
    return metric.ci_high - metric.ci_low


def test_documents_that_seeds_share_count_once():
    """As of one seed; an interval with documents of their own for each seed would be shorter by the root of three."""
    ratio = planted(3, 60, 0.0, 1.0)
    found = over_seeds_and_documents(ratio, {}, n=180, unit="1", formula="f")
    one = over_clusters(ratio.above[0, 0], np.arange(60), unit="1", formula="f")
    assert found.value == pytest.approx(one.value)
    assert width(found) == pytest.approx(width(one), rel=0.1)
    assert found.uncertainty.model_dump() == {"unit": "documents and seeds", "count": 60}
    nested = over_clusters(
        ratio.above.flatten(), np.arange(180), unit="1", formula="f", models=np.repeat(np.arange(3), 60)
    )
    assert width(nested) < 0.7 * width(found)


def test_seeds_that_differ_widen_the_interval():
    found = over_seeds_and_documents(planted(3, 60, 1.0, 0.01), {}, n=180, unit="1", formula="f")
    assert found.ci_low == pytest.approx(min(found.per_seed), abs=0.02), "three times the same seed is 1 resample in 27"
    assert found.ci_high == pytest.approx(max(found.per_seed), abs=0.02)


def test_the_value_is_a_mean_of_ratios_of_sums_and_controls_are_paired():
    above = np.array([[[1.0, 2, 3], [0, 0, 0]], [[3, 2, 1], [4, 0, 4]]])
    below = np.array([[[2.0, 4, 2], [0, 0, 0]], [[4, 4, 4], [5, 5, 6]]])
    halves = Ratio(above - 0.25 * below, below)
    found = over_seeds_and_documents(Ratio(above, below), {"less": halves}, n=6, unit="1", formula="f")
    assert found.value == pytest.approx((12 / 20 + 8 / 16) / 2)
    assert found.per_seed == pytest.approx([6 / 8 / 2, (6 / 12 + 8 / 16) / 2])
    less = found.control("less")
    assert less.difference.value == pytest.approx(0.25)
    assert (less.difference.ci_low, less.difference.ci_high) == pytest.approx((0.125, 0.25)), (
        "pairing leaves parts alone"
    )
    seedless = over_seeds_and_documents(
        Ratio(above, below), {"one": Ratio(above[:1], below[:1])}, n=6, unit="1", formula="f"
    )
    assert seedless.control("one").per_seed == pytest.approx([6 / 8 / 2] * 2)


def test_tokens_are_summed_by_document():
    values = np.array([[1.0, 2, 3, 4], [10, 20, 30, 40]])
    assert by_document(values, np.array([7, 2, 7, 2])).tolist() == [[6, 4], [60, 40]]


def test_centres_are_those_of_the_literal_algorithm(monkeypatch):
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    rows = [one / one.norm() for one in x[:7]]
    for _ in range(3):
        sums = [torch.zeros(5) for _ in rows]
        for one in x:
            values = [float(one @ row) for row in rows]
            best = max(range(7), key=values.__getitem__)
            sums[best] += max(values[best], 0) * one
        rows = [row if total.norm() == 0 else total / total.norm() for row, total in zip(rows, sums, strict=True)]
    monkeypatch.setattr(clusters, "AT_ONCE", 16)
    assert torch.allclose(clusters.centres(x, 7, 3), torch.stack(rows), atol=1e-5)
    with pytest.raises(ValueError, match="7 clusters need as many samples, not 6"):
        clusters.centres(x[:6], 7)


def test_clusters_are_found_where_the_data_have_them_and_read_by_rounds(monkeypatch):
    dice = torch.Generator().manual_seed(1)
    truth = torch.nn.functional.normalize(torch.randn(6, 20, generator=dice), dim=1)
    x = 3 * truth[torch.arange(900) % 6] + 0.05 * torch.randn(900, 20, generator=dice) + 2
    two, one = clusters.baselines_of_clusters(x, 6, [2, 1])
    assert (two.name, two.kind, two.l0) == ("clusters-2", "clusters", 2.0)
    code = clusters.of_clusters(x, 6, 2)
    away = truth - truth.mean(0)
    assert (torch.nn.functional.normalize(away, dim=1) @ code.rows.mT).amax(1).min() > 0.99
    monkeypatch.setattr(clusters, "CACHED", 7)
    slow = clusters.pursuit(code.rows, code.middle, 2)
    assert torch.allclose(code.encode(x), slow.encode(x), atol=1e-4)
    assert torch.allclose(two.reconstruct(x), slow.reconstruct(x), atol=1e-4)
    assert (x - two.reconstruct(x)).norm() < (x - one.reconstruct(x)).norm() < 0.1 * (x - x.mean(0)).norm()
    assert len(clusters.of_clusters(x[:4], 6, 1).rows) == 4
