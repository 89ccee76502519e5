"""Planted trees and absorption: the world, the measure on hand-built dictionaries, the stream."""

import pandas as pd
import pytest
import torch

from common.saes.architectures.base import unit_rows
from common.saes.sae import About, Sae
from replications.sparse_autoencoders import absorption as trees
from replications.sparse_autoencoders.absorption import (
    ARCHITECTURES,
    CHILDREN,
    FEATURES,
    FORMULA,
    PARENTS,
    TreeStream,
    directions,
    draw,
    judged,
    summary,
)


def sae_from(rows, encoder, threshold):
    """A JumpReLU SAE in the basis of the trees of seed 0."""
    return Sae(
        About("hand-built"), "jumprelu", encoder.T.contiguous(), torch.zeros(len(rows)), rows.contiguous(),
        torch.zeros(FEATURES), threshold=torch.full((len(rows),), threshold),
    )  # fmt: skip


def test_children_imply_their_parents_and_rates_are_as_stated():
    sample = draw(40_000, directions(0), 0, 1)
    assert not bool((sample.child.any(-1) & ~sample.parent).any())
    assert int(sample.child.sum(-1).max()) == 1
    assert float(sample.parent.float().mean()) == pytest.approx(trees.ACTIVE, abs=0.01)
    given = sample.child.any(-1)[sample.parent].float().mean()
    assert float(given) == pytest.approx(trees.WITH_CHILD, abs=0.01)
    active = sample.parent.sum(1) + sample.child.sum((1, 2))
    assert float(active.float().mean()) == pytest.approx(trees.MEAN_L0, abs=0.05)
    assert float(sample.x.square().sum(1).mean()) == pytest.approx(1, abs=0.05)


def test_a_sample_is_the_sum_of_its_features():
    table = directions(0)
    assert torch.allclose(table @ table.T, torch.eye(FEATURES), atol=1e-5)
    sample = draw(50, table, 0, 2)
    code = sample.x @ table.T / trees.SCALE
    literal = torch.zeros(50, FEATURES, dtype=torch.bool)
    for row in range(50):
        for parent in range(PARENTS):
            literal[row, parent] = sample.parent[row, parent]
            for child in range(CHILDREN):
                literal[row, PARENTS + CHILDREN * parent + child] = sample.child[row, parent, child]
    assert torch.equal(code.abs() > 1e-3, literal)


def test_the_true_dictionary_has_no_holes():
    table = directions(0)
    sample = draw(5000, table, 0, 3)
    frame = judged(sae_from(table, table, 0.01), table, sample)
    assert (frame["recall"] == 1).all()
    assert (frame["alone"] == 1).all()
    assert frame["cosine"].min() > 0.999
    assert frame["explained"].min() > 0.999
    assert frame["shuffled"].mean() == pytest.approx(trees.ACTIVE, abs=0.05)


def test_an_absorbed_parent_is_seen_as_such():
    """Latents of children write the parent too, and the parent's latent is switched off by them."""
    table = directions(0)
    sample = draw(5000, table, 0, 4)
    parents = table[:PARENTS].repeat_interleave(CHILDREN, 0)
    rows = unit_rows(torch.cat([table[:PARENTS], table[PARENTS:] + parents]))
    off = table[PARENTS:].unflatten(0, (PARENTS, CHILDREN)).sum(1)
    encoder = torch.cat([table[:PARENTS] - 10 * off, table[PARENTS:]])
    sae = sae_from(rows, encoder, 0.01)
    frame = judged(sae, table, sample)
    assert (frame["alone"] == 1).all()
    assert (frame["recall"] == 0).all()
    assert frame["alone_shuffled"].mean() == pytest.approx(frame["shuffled"].mean(), abs=0.05)
    assert (sae.encode(sample.x)[sample.child[:, 2].any(-1), 2] == 0).all()
    assert frame["l0"].iloc[0] < trees.MEAN_L0


def test_the_stream_is_a_function_of_its_step():
    stream = TreeStream([0, 5], 16)
    first = stream(3, "activations").x
    assert not torch.equal(stream(4, "activations").x, first)
    assert torch.equal(TreeStream([0, 5], 16)(3, "activations").x, first)
    assert torch.equal(first[1], draw(16, directions(5), 5, 3).x)


def test_summary_pairs_seeds():
    rows = pd.DataFrame(
        [
            {"architecture": name, "seed": seed, "parent": parent, **dict.fromkeys(FORMULA, 0.1 * place + 0.01 * seed)}
            for place, name in enumerate(ARCHITECTURES)
            for seed in (0, 1, 2)
            for parent in range(PARENTS)
        ]
    )
    found = summary(rows)
    assert found["matryoshka_gain"].value == pytest.approx(0.2)
    assert found["matryoshka_gain"].per_seed == pytest.approx([0.2] * 3)
    rows.loc[rows["architecture"] == "batch_topk", "recall"] = 0.0
    missed = summary(rows)["batch_topk_missed"]
    assert missed.per_seed == pytest.approx([0.2, 0.21, 0.22])
    assert missed.control("matryoshka").value == pytest.approx(0)
    assert missed.control("shuffled_samples").value == pytest.approx(0)
    assert found["topk_recall"].per_seed == pytest.approx([0.1, 0.11, 0.12])
