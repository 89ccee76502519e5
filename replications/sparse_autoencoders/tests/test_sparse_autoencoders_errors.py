"""Errors of SAEs against random errors of their size: planted ratios, the control, documents as the unit."""

import numpy as np
import pandas as pd
import pytest
import torch

from common.core.errors import UserError
from common.core.files import write_json
from common.saes.sae import About, Sae
from common.saes.saelens import save_saelens
from replications.sparse_autoencoders.measure_errors import (
    DRAWS,
    by_document,
    compared,
    covariance_root,
    excess,
    noise,
    over_documents,
    row,
    set_against,
    summary,
)
from replications.sparse_autoencoders.settings import Sweep
from replications.sparse_autoencoders.substitution import at_same_distance

SWEEP = Sweep.model_validate(
    {
        "widths": [8, 16], "sparsities": [2, 4], "grid_seeds": 1, "width": 16, "sparsity": 4, "architectures": [],
        "control_seeds": 2,
        "training": {"steps": 1, "batch": 2, "learning_rate": 0.1, "warmup": 0, "dead_after": 1},
    }
)  # fmt: skip


def planted(factor, seed, documents=12):
    """An SAE whose error does `factor` times the damage of random ones, which differ by a tenth between draws."""
    dice = np.random.default_rng(seed)
    size = dice.uniform(1, 3, documents)
    random = size * (1 + 0.1 * dice.standard_normal((DRAWS, 1)))
    return set_against(factor * size, random, 2 * size)


def judged(factors):
    places = [("grid", 2, 0), ("grid", 4, 0), ("seed", 4, 1), ("late", 4, 0), ("late", 4, 1)]
    found = {f"{kind}-{k}-{seed}": planted(factor, number) for number, (factor, (kind, k, seed)) in
             enumerate(zip(factors, places, strict=True))}  # fmt: skip
    rows = [
        {"name": name, "kind": kind, "k": k, "seed": seed, "ratio": found[name].effect.ratio,
         "null": found[name].null.ratio, "shaped": found[name].shaped.ratio}
        for name, (kind, k, seed) in zip(found, places, strict=True)
    ]  # fmt: skip
    return summary(pd.DataFrame(rows), found, SWEEP, [0, 1])


def test_planted_ratios_are_found_where_they_are():
    found = judged([3.0, 2.0, 2.2, 4.0, 4.4])
    assert found["pathological_ratio"].per_seed == pytest.approx([2.0, 2.2], rel=0.15)
    assert found["pathological_ratio_shaped"].per_seed == pytest.approx([1.0, 1.1])
    assert found["pathological_ratio_late"].per_seed == pytest.approx([4.0, 4.4], rel=0.15)
    assert found["pathological_ratio_k2"].value == pytest.approx(3, rel=0.15)
    assert found["pathological_share"].value == 1
    assert found["pathological_share_null"].value == 0
    assert found["pathological_share_difference"].ci_low == 1
    few = judged([3.0, 2.0, 1.2, 1.2, 1.2])
    assert few["pathological_share"].value == pytest.approx(0.4)
    assert few["pathological_share_difference"].value == pytest.approx(0.4)


def test_the_control_strays_as_draws_do():
    """Over all draws, or averaged over the two halves, it would be 1 however much draws differ."""
    nulls = np.array([planted(2.0, seed).null.ratio for seed in range(300)])
    assert nulls.mean() == pytest.approx(1, abs=0.03)
    assert nulls.std() == pytest.approx(0.1 * (2 / (DRAWS // 2)) ** 0.5, rel=0.15)


def test_every_sae_and_draw_has_noise_of_its_own():
    seeds = {noise(name, draw) for name in ("a", "b", "late-a") for draw in range(DRAWS)}
    assert len(seeds) == 3 * DRAWS
    assert noise("a", 0) == noise("a", 0)


def test_documents_are_resampled_the_same_ones_for_all():
    kl, document = np.array([1.0, 2.0, 3.0, 4.0]), np.array([7, 7, 9, 7])
    assert by_document(kl, document).tolist() == [7.0, 3.0]
    one = set_against(np.array([1.0, 9.0]), np.ones((DRAWS, 2)), np.ones(2))
    found = over_documents([one.effect], lambda ratios: ratios[0], "x")
    assert (found.value, found.ci_low, found.ci_high, found.n) == (5, 1, 9, 2)
    twice = over_documents([one.effect, one.effect], excess, "x")
    assert (twice.value, twice.ci_low, twice.ci_high) == (0, 0, 0)
    sae = Sae(About("batch_topk"), "relu", torch.zeros(3, 4), torch.zeros(4), torch.zeros(4, 3), torch.zeros(3))
    nothing = set_against(np.zeros(2), np.zeros((DRAWS, 2)), np.zeros(2))
    with pytest.raises(UserError, match="perfect reconstruction"):
        row("perfect", sae, "grid", nothing)
    with pytest.raises(UserError, match="take more held-out windows"):
        over_documents([set_against(np.array([1.0, 0]), np.tile([1.0, 0], (DRAWS, 1)), np.ones(2)).effect], excess, "x")


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


def test_compared_are_the_batch_topk_saes_of_the_central_width(tmp_path):
    def listed(folder, names):
        for name, _kind, width in names:
            sae = Sae(About("batch_topk"), "relu", torch.zeros(3, width), torch.zeros(width), torch.zeros(width, 3),
                      torch.zeros(3))  # fmt: skip
            save_saelens(sae, folder / name)
        rows = [{"name": name, "kind": kind, "recipe": {"d_sae": width}} for name, kind, width in names]
        write_json(folder / "index.json", rows)
        return folder / "index.json"

    own = [("a", "grid", 16), ("b", "grid", 8), ("c", "seed", 16), ("d", "frozen", 16), ("e", "late", 16)]
    more = [("f", "soft", 16), ("g", "late", 16), ("h", "architecture seed", 16), ("i", "width", 8)]
    saes, kinds = compared(listed(tmp_path / "saes", own), listed(tmp_path / "more", more), SWEEP)
    assert kinds == {"a": "grid", "c": "seed", "e": "late", "g": "late"}
    assert all(sae.d_sae == 16 for sae in saes.values())
