"""Overlap of dictionaries: identical, permuted, partly shared and unrelated ones."""

import itertools

import pandas as pd
import pytest
import torch

from common.core.metrics import read_metrics
from common.core.settings import load_replication
from common.core.step import RunInfo
from common.saes.architectures.base import random_rows
from common.saes.index import Entry, write_index
from common.saes.metrics import cosines
from common.saes.sae import About, Sae
from common.saes.saelens import save_saelens
from replications.sparse_autoencoders import matching
from replications.sparse_autoencoders.latents_figures import overlap as draw_overlap
from replications.sparse_autoencoders.matching import compared, matched, random_like
from replications.sparse_autoencoders.overlap import OverlapFiles, correlation, overlap

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


def planted(folder, name, *, common, own, width=N, density=None):
    """A stored dictionary of `width` latents, of which `common` are the first ones of a fixed list."""
    W = torch.cat([rows(50, N)[:common], rows(own, width - common)])
    sae = Sae(About("batch_topk"), "relu", W.T.contiguous(), torch.zeros(width), W, torch.zeros(D))
    save_saelens(sae, folder / name, density=density)


def test_the_step_finds_what_was_planted(tmp_path, monkeypatch):
    """Two thirds of the latents are common to all seeds, and these fire more often; half of them at the width below.

    Two sparsities have four fifths in common, and a layer has everything in common with the SAE that began like it.
    """
    asked = []
    monkeypatch.setattr(matching, "compared", lambda one, other: asked.append(one) or compared(one, other))
    sweep = load_replication("sparse_autoencoders", "smoke").sweep
    half = N // 2
    sweep = sweep.model_copy(
        update={"widths": [half, N, 2 * N], "width": N, "sparsity": 3, "sparsities": [3, 5], "grid_seeds": 1}
    )
    density = torch.cat([torch.full((40,), 0.1), torch.full((20,), 0.001)]) * torch.linspace(1, 1.1, N)
    for seed in (0, 1, 2):
        planted(tmp_path, f"batch_topk-{N}-k3-s{seed}", common=40, own=seed, density=density)
        planted(tmp_path, f"batch_topk-{half}-k3-s{seed}", common=15, own=20 + seed, width=half)
        planted(tmp_path, f"late-{N}-k3-s{seed}", common=0 if seed else 40, own=seed if not seed else 77 + seed)
        for name, common in (("topk", 12), ("relu_bricken", 30)):
            planted(tmp_path, f"{name}-{N}-k3-s{seed}", common=common, own=60 + seed)
    planted(tmp_path, f"batch_topk-{N}-k5-s0", common=48, own=9)
    planted(tmp_path, f"batch_topk-{half}-k5-s0", common=0, own=8, width=half)
    names = [path.name for path in sorted(tmp_path.iterdir())]
    write_index(tmp_path / "index.json", [Entry(name=name) for name in names])
    tables = {"latents": tmp_path / "t.csv", "pairs": tmp_path / "p.csv"}
    overlap(
        OverlapFiles(index=tmp_path / "index.json", metrics=tmp_path / "metrics.json", **tables), sweep,
        RunInfo(scale="smoke", seeds=[0, 1, 2], device="cpu"),
    )  # fmt: skip
    # in both directions at the central width, once below it, for other sparsities and for two architectures, each with
    # its null; three layers
    assert len(asked) == 2 * (6 + 3 + 2 + 2 + 6) + 3, "a pair was matched twice"
    found = read_metrics(tmp_path / "metrics.json")
    assert found["overlap"].value == pytest.approx(2 / 3, abs=0.02)
    assert found["overlap"].control("random_directions").value < 0.05
    late = found["overlap"].control("later_layer").per_seed
    assert max(late[:2]) < 0.05, "the dictionary of the later layer must be that of another seed"
    assert late[2] == pytest.approx(2 / 3, abs=0.02)  # seed 2 is compared with that of seed 0
    assert found["rate_correlation"].value > 0.4
    assert abs(found["rate_correlation"].control("permuted_densities").value) < 0.3
    assert found[f"overlap_width_{N}"].value == pytest.approx(found["overlap"].value)
    assert found[f"overlap_width_{half}"].value == pytest.approx(0.5, abs=0.02)
    assert found[f"overlap_width_{half}"].control("random_directions").difference.ci_low > 0.4
    assert f"overlap_width_{2 * N}" not in found
    assert (found["overlap_sparsity"].ci_low, found["overlap_sparsity"].ci_high) == pytest.approx((0, 2 / 3), abs=0.02)
    assert found["overlap_seeds_and_sparsity"].value == pytest.approx(2 / 3, abs=0.02)
    assert found["overlap_seeds_and_sparsity"].n == 2
    assert (found["overlap_topk"].value, found["overlap_l1"].value) == pytest.approx((0.2, 0.5), abs=0.02)
    assert found["overlap_l1_minus_topk"].value == pytest.approx(0.3, abs=0.03)
    null = found["overlap_l1_minus_topk"].control("random_directions")
    assert abs(null.value) < 0.05
    assert null.difference.ci_low > 0.2
    assert "not a confidence interval" in found["overlap_sparsity"].formula
    assert len(pd.read_csv(tmp_path / "t.csv")) == 3 * N
    table = pd.read_csv(tmp_path / "p.csv")
    assert table.groupby("what").size().to_dict() == {
        "seeds": 6, "seeds and sparsity": 2, "sparsity": 2, "seeds of relu_bricken": 3, "seeds of topk": 3,
    }  # fmt: skip
    figure, data = draw_overlap(pd.read_csv(tmp_path / "t.csv"), table)
    assert len(figure.axes) == 4
    assert set(data["panel"]) == {"latents", "pairs"}
