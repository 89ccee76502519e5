"""Errors of SAEs against other errors of their size: planted ratios, the controls, documents as the unit."""

import numpy as np
import pandas as pd
import pytest
import torch

from common.core.errors import UserError
from common.core.settings import load_replication
from common.saes.sae import About, Sae
from replications.sparse_autoencoders.crossed import by_document
from replications.sparse_autoencoders.measure_errors import (
    DRAWS,
    OTHER_ERRORS,
    covariance_root,
    noise,
    over_documents,
    row,
    set_against,
    summary,
)
from replications.sparse_autoencoders.substitution import at_same_distance, at_same_norm, error_of_another_token

SWEEP = load_replication("sparse_autoencoders", "smoke").sweep


def planted(factor, seed, documents=12):
    """An SAE whose error does `factor` times the damage of random ones, which differ by a tenth between draws."""
    dice = np.random.default_rng(seed)
    size = dice.uniform(1, 3, documents)
    random = size * (1 + 0.1 * dice.standard_normal((DRAWS, 1)))
    others = {name: place * size for place, name in enumerate(OTHER_ERRORS, 2)}
    return set_against(factor * size, random, **others)


def test_planted_ratios_are_found_where_they_are():
    places = [("grid", 2, 0), ("main", 4, 0), ("main", 4, 1), ("second", 4, 0)]
    found = {f"{kind}-{k}-{seed}": planted(factor, number) for number, (factor, (kind, k, seed)) in
             enumerate(zip([3.0, 2.0, 2.2, 4.0], places, strict=True))}  # fmt: skip
    rows = [
        {"name": name, "kind": kind, "k": k, "seed": seed} for name, (kind, k, seed) in zip(found, places, strict=True)
    ]
    metrics = summary(pd.DataFrame(rows), found, SWEEP, [0, 1])
    own = metrics["pathological_ratio"]
    assert own.per_seed == pytest.approx([2.0, 2.2], rel=0.15)
    found = [own.control(name).value for name in OTHER_ERRORS]
    assert found == pytest.approx([2, 3, 4, 5], rel=0.1), "as planted"
    assert own.control("principal_errors").difference.ci_high < 0
    assert own.control("random_points").value == pytest.approx(1, rel=0.15)
    assert own.uncertainty.unit == "documents and seeds"
    second = metrics["pathological_ratio_second_layer"]
    assert (second.value, second.uncertainty.unit) == (pytest.approx(4, rel=0.15), "documents")
    assert metrics["pathological_ratio_k2"].value == pytest.approx(3, rel=0.15)


def test_the_control_strays_as_draws_do():
    """Over all draws, or averaged over the two halves, it would be 1 however much draws differ."""
    nulls = np.array([planted(2.0, seed).random_points.ratio for seed in range(300)])
    assert nulls.mean() == pytest.approx(1, abs=0.03)
    assert nulls.std() == pytest.approx(0.1 * (2 / (DRAWS // 2)) ** 0.5, rel=0.15)


def test_every_sae_and_draw_has_noise_of_its_own():
    seeds = {noise(name, draw) for name in ("a", "b", "late-a") for draw in range(DRAWS)}
    assert len(seeds) == 3 * DRAWS
    assert noise("a", 0) == noise("a", 0)


def test_documents_are_resampled_the_same_ones_for_all():
    kl, document = np.array([1.0, 2.0, 3.0, 4.0]), np.array([7, 7, 9, 7])
    assert by_document(kl, document).tolist() == [7.0, 3.0]
    flat = {name: np.ones(2) for name in OTHER_ERRORS}
    one = set_against(np.array([1.0, 9.0]), np.ones((DRAWS, 2)), **flat)
    found = over_documents([one])
    assert (found.value, found.ci_low, found.ci_high) == (5, 1, 9)
    sae = Sae(About("batch_topk"), "relu", torch.zeros(3, 4), torch.zeros(4), torch.zeros(4, 3), torch.zeros(3))
    nothing = set_against(np.zeros(2), np.zeros((DRAWS, 2)), **{name: np.zeros(2) for name in OTHER_ERRORS})
    with pytest.raises(UserError, match="perfect reconstruction"):
        row("perfect", sae, "grid", nothing)


def test_directions_have_the_covariance_of_the_activations_and_the_length_of_the_error():
    dice = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 3, generator=dice) @ torch.tensor([[3.0, 1, 0], [0, 1, 0], [0, 0, 0.1]])
    root = covariance_root(x)
    torch.testing.assert_close(root @ root.mT, x.T.cov(), atol=1e-3, rtol=1e-3)
    moved = at_same_distance(lambda x: x * 0.5, 0, root)(x) - x
    torch.testing.assert_close(moved.norm(dim=1), 0.5 * x.norm(dim=1))
    direction = moved / moved.norm(dim=1, keepdim=True)
    assert direction.square().mean(0)[0] > 0.6
    assert direction.square().mean(0)[2] < 0.02


def shrunk_and_turned(x):
    """A reconstruction that is shorter than x and off to one side."""
    return 0.8 * x + torch.tensor([0.0, 0, 0, 0, 0.5])


def test_points_of_the_same_norm_keep_norm_and_cosine_and_nothing_else():
    x = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1, 1, 1, 1])
    like, moved = shrunk_and_turned(x), at_same_norm(shrunk_and_turned, 0)(x)
    torch.testing.assert_close(moved.norm(dim=1), like.norm(dim=1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((moved - x).norm(dim=1), (like - x).norm(dim=1), rtol=1e-4, atol=1e-4)
    cosine = torch.cosine_similarity
    torch.testing.assert_close(cosine(moved, x), cosine(like, x), rtol=1e-4, atol=1e-4)
    across = [one - (one * x).sum(1, keepdim=True) / x.square().sum(1, keepdim=True) * x for one in (moved, like)]
    assert abs(float(cosine(*across).mean())) < 0.05, "the direction across x is drawn anew"
    assert float(cosine(at_same_norm(shrunk_and_turned, 1)(x), moved).mean()) < 0.999


def test_errors_of_other_tokens_are_errors_of_the_sae_and_never_ones_own():
    x = torch.randn(200, 7, generator=torch.Generator().manual_seed(0))

    def rounded(x):
        return (2 * x).round() / 2

    error = rounded(x) - x
    moved = error_of_another_token(rounded, 3)(x) - x
    torch.testing.assert_close(moved.norm(dim=1), error.norm(dim=1))
    near = torch.nn.functional.normalize(moved, dim=1) @ torch.nn.functional.normalize(error, dim=1).mT
    source = near.argmax(1)
    assert (near.max(1).values > 0.9999).all()
    assert len(source.unique()) == 200, "each error is used once"
    assert not (source == torch.arange(200)).any()
    assert not torch.equal(error_of_another_token(rounded, 4)(x) - x, moved)
