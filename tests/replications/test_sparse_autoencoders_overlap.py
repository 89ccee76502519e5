"""Overlap of dictionaries: identical, permuted, partly shared and unrelated ones."""

import itertools

import pandas as pd
import pytest
import torch

from common.config import load_replication
from common.files import write_json
from common.records import read_metrics
from common.saes.architectures.base import random_rows
from common.saes.metrics import cosines
from common.saes.sae import About, Sae
from common.saes.saelens import save_saelens
from replications.sparse_autoencoders.overlap import compared, correlation, matched, overlap, random_like

N, D = 60, 40


def rows(seed, count=N):
    return random_rows(count, D, torch.Generator().manual_seed(seed))


def test_a_dictionary_shares_everything_with_itself_in_any_order():
    one = rows(0)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    cosine, shared = compared((one, one), (one[order], one[order]))
    assert bool(shared.all())
    assert torch.allclose(cosine, torch.ones(N))
    assert torch.equal(matched(cosines(one, one[order])), order.argsort())


def test_the_matching_is_the_best_of_all():
    similarity = torch.rand(5, 5, generator=torch.Generator().manual_seed(2))
    best = max(itertools.permutations(range(5)), key=lambda p: float(similarity[range(5), list(p)].sum()))
    assert matched(similarity).tolist() == list(best)
    assert sorted(matched(similarity[:, :3]).tolist())[:2] == [-1, -1]


def test_encoder_and_threshold_must_agree_too():
    one = rows(0)
    swapped = one.clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    _, shared = compared((one, one), (one, swapped))
    assert (~shared).nonzero()[:, 0].tolist() == [0, 1]
    turned = one.clone()
    turned[3] = rows(9, 1)[0]
    cosine, shared = compared((one, one), (turned, turned))
    assert not shared[3]
    assert cosine[3] < 0.7
    assert int(shared.sum()) == N - 1
    _, smaller = compared((one, one), (one[:20], one[:20]))
    assert smaller.tolist() == [True] * 20 + [False] * 40


def test_random_directions_have_the_covariance_and_no_latents():
    spread = rows(0, 4000) * torch.linspace(0.2, 2, D) + 0.1
    unit = spread / spread.norm(dim=1, keepdim=True)
    drawn, encoder = random_like((unit, unit), 0)
    assert encoder is drawn
    assert torch.allclose(drawn.T.cov(), unit.T.cov(), atol=0.01)
    assert torch.allclose(drawn.mean(0), unit.mean(0), atol=0.02)
    assert float(compared((rows(0), rows(0)), random_like((rows(1), rows(1)), 3))[1].double().mean()) < 0.05


def test_correlation_with_firing_rates():
    assert correlation(torch.arange(5.0), torch.tensor([1.0, 2, 3, 5, 4])) == pytest.approx(0.9)
    assert correlation(torch.ones(5), torch.arange(5.0)) == 0


def test_the_step_finds_what_was_planted(tmp_path):
    """Two thirds of the latents are common to all seeds, and these fire more often."""
    sweep = load_replication("sparse_autoencoders", "smoke").sweep
    sweep = sweep.model_copy(update={"width": N, "sparsity": 3})
    write_json(tmp_path / "index.json", [])
    for seed in (0, 1, 2):
        W = torch.cat([rows(50, 40), rows(seed, 20)])
        sae = Sae(About("batch_topk"), "relu", W.T.contiguous(), torch.zeros(N), W, torch.zeros(D))
        density = torch.cat([torch.full((40,), 0.1), torch.full((20,), 0.001)]) * torch.linspace(1, 1.1, N)
        save_saelens(sae, tmp_path / f"batch_topk-{N}-k3-s{seed}", density=density)
    W = rows(77)
    save_saelens(
        Sae(About("batch_topk"), "relu", W.T.contiguous(), torch.zeros(N), W, torch.zeros(D)),
        tmp_path / f"late-{N}-k3-s0",
    )
    overlap(
        index=tmp_path / "index.json", sweep=sweep, seeds=[0, 1, 2], metrics=tmp_path / "metrics.json",
        table=tmp_path / "t.csv",
    )  # fmt: skip
    found = read_metrics(tmp_path / "metrics.json")
    assert found["overlap"].value == pytest.approx(2 / 3, abs=0.02)
    assert found["overlap_random"].value < 0.05
    assert found["overlap_late"].value < 0.05
    assert found["rate_correlation"].value > 0.4
    assert abs(found["rate_correlation_permuted"].value) < 0.3
    assert len(pd.read_csv(tmp_path / "t.csv")) == 3 * N
