"""Architectures: gradients against their formulas, sparse path against dense, folding, clamping, bad input."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from common.core.errors import UserError
from common.saes.architectures import ARCHITECTURES
from common.saes.architectures.auxiliary import auxiliary_loss
from common.saes.architectures.base import Batch, Context, Progress, pre_activations, squared_error, stacked, variance
from common.saes.architectures.cross_layer import causal
from common.saes.architectures.jumprelu import count, jump
from common.saes.architectures.matryoshka import prefixes
from common.saes.recipe import Recipe
from common.saes.sae import About, Sae
from common.saes.saelens import config_of
from common.saes.sparse import HEIGHT, SAMPLE, largest, likely_level, pattern_at, top_of_batch, top_per_token

D, F, B = 12, 40, 64


def recipe(name, seed=0, k=4, layers=1):
    return Recipe(architecture=name, d_sae=F, sparsity=float(k), seed=seed, layers=layers)


def data(instances=1, seed=0, d=D):
    x = torch.randn(instances, B, d, generator=torch.Generator().manual_seed(seed)) / d**0.5
    return Batch(x, x)


def started(name, batch, members=2, layers=1):
    recipes = [recipe(name, seed, k=4 + seed, layers=layers) for seed in range(members)]
    architecture = ARCHITECTURES[name]
    weights = stacked([architecture.initial(one, batch, torch.Generator().manual_seed(one.seed)) for one in recipes])
    progress = Progress(
        torch.zeros(members, F * layers, dtype=torch.long),
        torch.full((members,), 0.1),
        torch.zeros(members),
        torch.zeros(members, dtype=torch.float64),
    )
    dead = torch.zeros(members, F * layers, dtype=torch.bool)
    return recipes, weights, Context(recipes, [one.sparsity for one in recipes], progress, dead, 0.2)


def test_jumprelu_gradients_are_the_papers():
    z = torch.tensor([0.95, 1.04, 1.3, 0.2], requires_grad=True)
    threshold = torch.tensor([1.0, 1.0, 1.0, 1.0], requires_grad=True)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    to_z, to_threshold = torch.autograd.grad((jump(z, threshold, 0.2) * weight).sum(), [z, threshold])
    assert torch.allclose(to_z, torch.tensor([0.0, 2.0, 3.0, 0.0]))  # no estimate reaches z
    assert torch.allclose(to_threshold, torch.tensor([-5.0, -10.0, 0.0, 0.0]))  # -(theta / eps) K
    counted = (count(z, threshold, 0.2) * weight).sum()
    [to_threshold] = torch.autograd.grad(counted, [threshold])
    assert torch.allclose(to_threshold, torch.tensor([-5.0, -10.0, 0.0, 0.0]))  # -(1 / eps) K


def dense_losses(name, weights, batch, context):
    """The same loss, dense and literal, through autograd."""
    architecture = ARCHITECTURES[name]
    centred = name not in ("transcoder", "skip_transcoder")
    z = pre_activations(weights, batch, centred=centred)
    if name != "topk":
        index, _ = top_of_batch(z.detach(), context.k)
    else:
        index = top_per_token(z.detach(), context.k)
    mask = torch.zeros(z.numel()).scatter(0, index, 1.0).reshape(z.shape)
    latents = z * mask
    ends = prefixes(F) if name == "matryoshka" else [F]
    errors = []
    for end in ends:
        found = latents[..., :end] @ weights["W_dec"][:, :end] + weights["b_dec"][:, None]
        if name == "skip_transcoder":
            found = found + batch.x @ weights["W_skip"].mT
        errors.append(squared_error(batch.y, found))
    assert architecture.beta1 == 0.9
    return torch.stack(errors).mean(0) / variance(batch.y)


@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka", "transcoder", "skip_transcoder"])
@pytest.mark.parametrize("shared", [True, False])
def test_sparse_path_equals_dense_path(name, shared):
    batch = data(1 if shared else 2)
    batch = Batch(batch.x, batch.x.flip(1)) if "transcoder" in name else batch
    _, weights, context = started(name, Batch(batch.x[:1], batch.y[:1]))
    generator = torch.Generator().manual_seed(5)
    weights = {key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in weights.items()}
    weights = {key: value.requires_grad_() for key, value in weights.items()}
    fast = ARCHITECTURES[name].losses(weights, batch, context)
    slow = dense_losses(name, weights, batch, context)
    assert torch.allclose(fast.loss, slow, rtol=1e-4)
    gradients = [torch.autograd.grad(one.sum(), list(weights.values())) for one in (fast.loss, slow)]
    for key, left, right in zip(weights, *gradients, strict=True):
        assert torch.allclose(left, right, rtol=1e-4, atol=1e-6), key
    touched = gradients[0][list(weights).index("W_enc")].abs().sum(-1) > 0
    assert torch.equal(touched, fast.fired > 0)  # unselected latents get no gradient


@pytest.mark.parametrize("uneven", [0.1, 1.0, 5.0])
def test_selections_keep_the_largest_also_where_some_tokens_mislead(uneven):
    n = 4 * SAMPLE
    z = torch.randn(2, n, 20, generator=torch.Generator().manual_seed(1))
    z[:, ::4] *= uneven  # the tokens that suggest the smallest value kept
    assert (int((z[0] > likely_level(z[0], 3.0)).sum()) >= 3 * n) == (uneven < 2), "the last case is misled"
    literal = [torch.zeros(n, 20, dtype=torch.bool) for _ in range(2)]
    for member, k in enumerate((3, 5)):
        order = z[member].flatten().argsort(descending=True)[: k * n]
        literal[member].view(-1)[order] = True
        literal[member] &= z[member] > 0
    expected = torch.stack(literal).flatten().nonzero()[:, 0]
    index, smallest = top_of_batch(z, [3.0, 5.0])
    assert torch.equal(index.sort().values, expected)
    assert bool(((index // 20).diff() >= 0).all()), "row by row"
    assert smallest[0] == z[0][literal[0]].min()
    for k in ([2.0, 4.0], [3.0, 3.0]):
        index = top_per_token(z, k)
        assert torch.bincount(index // 20).tolist() == [int(k[0])] * n + [int(k[1])] * n
        assert bool(((index // 20).diff() >= 0).all()), "row by row"
        for member, one in enumerate(k):
            own = z.flatten()[index].split([n * int(of) for of in k])[member].reshape(n, -1)
            assert torch.equal(own.sort(descending=True).values, z[member].topk(int(one)).values)


@pytest.mark.parametrize("shift", [2.5, 100.0])
def test_fewer_positive_entries_than_wanted(shift):
    z = torch.randn(1, 3 * SAMPLE, 20, generator=torch.Generator().manual_seed(1)) - shift
    index, smallest = top_of_batch(z, [6.0])
    assert torch.equal(index.sort().values, (z.flatten() > 0).nonzero()[:, 0])
    assert torch.equal(top_per_token(z, [6.0]).sort().values, index.sort().values)
    assert float(smallest) == (float(z[z > 0].min()) if shift < 50 else 0)


def test_less_than_one_entry_in_the_tokens_that_are_looked_at():
    z = torch.rand(1, 3 * SAMPLE, 20, generator=torch.Generator().manual_seed(1))
    index, _ = top_of_batch(z, [0.02])
    assert index.tolist() == [int(z.argmax())]


@pytest.mark.parametrize("d_sae", [2**15 - 1, 2**15, 2**16])
def test_patterns_of_many_latents(d_sae):
    """Two members; the smallest width still has its latents in 16 bits."""
    z = torch.randn(2, 5, d_sae, generator=torch.Generator().manual_seed(1))
    pattern = pattern_at(top_per_token(z, [3.0, 3.0]), z.shape)
    kept = torch.zeros_like(z).scatter(-1, z.topk(3).indices, 1.0)
    assert torch.equal(pattern.counts(), kept.sum(1).long())
    assert bool((pattern.cols[pattern.by_latent].diff() >= 0).all())
    assert pattern.l0().tolist() == [3.0, 3.0]


@pytest.mark.parametrize("width", [20 * HEIGHT, 20 * HEIGHT + 1, 5 * HEIGHT])
def test_candidates_from_columns_hold_the_largest(width):
    z = torch.randn(2, 30, width, generator=torch.Generator().manual_seed(1))
    z[:, :3] = z[:, :3].sort(dim=-1).values  # the largest side by side
    z[:, 3:6, ::20] += 5  # and all in one column
    values, index = largest(z, 6)
    expected = z.topk(6)
    assert torch.equal(values, expected.values)
    assert torch.equal(index, expected.indices)


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"transcoder", "skip_transcoder", "cross_layer"}))
def test_every_sae_starts_tied_and_exports_what_it_trains(name):
    batch = data()
    recipes, weights, context = started(name, batch)
    if name == "matching_pursuit":
        assert "W_enc" not in weights
    elif name == "relu_april":
        assert torch.equal(weights["W_enc"], weights["W_dec"])
    else:  # one factor for all rows of a member
        factor = weights["W_enc"] / weights["W_dec"]
        assert torch.allclose(factor, factor[:, :1, :1].expand_as(factor), rtol=1e-4)
    norm = 0.1 if name == "relu_april" else 1.0
    assert torch.allclose(weights["W_dec"].norm(dim=-1), torch.tensor(norm))
    one = {key: value[1] for key, value in weights.items()}
    progress = Progress(*(getattr(context.progress, key)[1:] for key in vars(context.progress)))
    if name in ("batch_topk", "matryoshka"):
        _, smallest = top_of_batch(pre_activations(weights, batch), context.k)
        progress.threshold.copy_(smallest[1:] * (1 - 1e-6))
    sae = ARCHITECTURES[name].export(one, recipes[1], progress)
    losses = ARCHITECTURES[name].losses(weights, batch, context)
    error = (batch.x[0] - sae.reconstruct(batch.x[0])).square().sum(-1).mean()
    assert torch.allclose(error, losses.error[1], rtol=1e-4)
    if name != "matching_pursuit":  # which counts rounds, and may choose a latent twice
        assert (sae.encode(batch.x[0]) != 0).sum() == losses.fired[1].sum()


def test_auxiliary_loss_trains_dead_latents_only():
    batch = data()
    recipes, weights, context = started("topk", batch)
    weights["b_enc"][:, ::5] = -9.0  # never selected
    losses = ARCHITECTURES["topk"].losses(weights, batch, context)
    weights["b_enc"][:, ::5] = -0.2
    assert losses.fired[:, ::5].sum() == 0
    dead = torch.zeros(2, F, dtype=torch.bool)
    dead[0, ::5] = True
    losses = ARCHITECTURES["topk"].losses(weights, batch, context)
    weights = {key: value.requires_grad_() for key, value in weights.items()}
    with_dead = ARCHITECTURES["topk"].losses(weights, batch, context._replace(dead=dead))
    more = with_dead.loss.sum() - ARCHITECTURES["topk"].losses(weights, batch, context).loss.sum()
    [gradient] = torch.autograd.grad(more, [weights["W_dec"]])
    assert (gradient[0][dead[0]].abs().sum(-1) > 0).any()
    assert gradient[0][~dead[0]].abs().max() < 1e-6
    assert with_dead.loss[0] > losses.loss[0]
    assert torch.allclose(with_dead.loss[1], losses.loss[1])
    off = [one.model_copy(update={"auxiliary": False}) for one in recipes]
    without = ARCHITECTURES["topk"].losses(weights, batch, context._replace(dead=dead, recipes=off))
    assert torch.allclose(without.loss, losses.loss)


def test_gated_frozen_path_does_not_train_the_decoder():
    batch = data()
    _, weights, context = started("gated", batch)
    weights = {key: value.requires_grad_() for key, value in weights.items()}
    losses = ARCHITECTURES["gated"].losses(weights, batch, context)
    [to_decoder] = torch.autograd.grad(losses.loss.sum(), [weights["W_dec"]], retain_graph=True)
    shared = pre_activations(weights, batch)
    latents = (shared > 0) * shared.relu()
    main = squared_error(batch.y, latents @ weights["W_dec"] + weights["b_dec"][:, None])
    [expected] = torch.autograd.grad(main.sum(), [weights["W_dec"]])
    assert torch.allclose(to_decoder, expected, rtol=1e-4, atol=1e-7)


def test_cross_layer_latents_write_to_later_layers_only():
    allowed = causal(3, 2, 6, torch.device("cpu"))
    assert allowed[0].tolist() == [1, 1, 1, 1, 1, 1]
    assert allowed[2].tolist() == [0, 0, 1, 1, 1, 1]
    assert allowed[5].tolist() == [0, 0, 0, 0, 1, 1]
    batch = data(d=3 * 4)
    _, weights, context = started("cross_layer", batch, layers=3)
    weights = {key: value.requires_grad_() for key, value in weights.items()}
    losses = ARCHITECTURES["cross_layer"].losses(weights, batch, context)
    assert losses.l0.tolist() == pytest.approx([12.0, 15.0], abs=0.5)  # k in each of 3 layers
    [gradient] = torch.autograd.grad(losses.loss.sum(), [weights["W_dec"]])
    assert gradient[:, 2 * F :, :8].abs().max() == 0
    assert gradient[:, :F].abs().max() > 0


def sae(**more):
    generator = torch.Generator().manual_seed(3)
    W_dec = torch.randn(F, D, generator=generator)
    threshold = torch.full((F,), 0.3)
    return Sae(
        About("batch_topk", "m", "blocks.1.hook_resid_pre"), "jumprelu", W_dec.mT.contiguous() / D, torch.zeros(F),
        W_dec, torch.randn(D, generator=generator), threshold=threshold, **more,
    )  # fmt: skip


def test_folding_leaves_latents_and_scales_reconstructions():
    x = torch.randn(50, D, generator=torch.Generator().manual_seed(4))
    one, folded = sae(), sae().folded(0.25)
    assert torch.allclose(folded.encode(4 * x), one.encode(x), atol=1e-5)
    assert torch.allclose(folded.reconstruct(4 * x), 4 * one.reconstruct(x), atol=1e-4)
    pursuit = replace(one.unit_decoder(), activation="matching_pursuit", k=2)
    with pytest.raises(UserError, match="matching pursuit needs decoder rows of norm 1"):
        pursuit.folded(0.25)
    unit = one.unit_decoder()
    assert torch.allclose(unit.W_dec.norm(dim=1), torch.ones(F), atol=1e-5)
    assert torch.allclose(unit.reconstruct(x), one.reconstruct(x), atol=1e-4)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="exceeds the number of latents"):
        Recipe(architecture="topk", d_sae=4, sparsity=5.0)
    with pytest.raises(UserError, match="needs 1 <= k <= 40"):
        Sae(**{**vars(sae()), "activation": "topk", "k": 41})
    with pytest.raises(UserError, match="threshold"):
        Sae(**{**vars(sae()), "threshold": None})
    for name, value, sentence in (
        (
            "b_dec",
            torch.zeros(D - 1),
            r"tensor 'b_dec' has the shape \[11\], but an SAE with 12 dimensions and 40 latents",
        ),
        ("threshold", torch.zeros(1), r"tensor 'threshold' has the shape \[1\], .* needs \[40\]"),
        ("W_skip", torch.zeros(D, 2), r"tensor 'W_skip' has the shape \[12, 2\], .* needs \[12, 12\]"),
        ("W_dec", torch.zeros(F - 1, D), r"encoder \[12, 40\] and decoder \[39, 12\] do not fit"),
    ):
        with pytest.raises(UserError, match=sentence):  # around the shape checks that only tests switch on
            Sae.__post_init__(SimpleNamespace(**{**vars(sae()), name: value}))
    with pytest.raises(UserError, match="another model or another place"):
        sae().encode(torch.zeros(3, D + 1))
    with pytest.raises(UserError, match="NaN"):
        sae().encode(torch.full((3, D), float("nan")))
    with pytest.raises(UserError, match="belongs to blocks"):
        sae().check_belongs("m", "blocks.2.hook_resid_pre")


def transcoder(skip, d_out=5):
    generator = torch.Generator().manual_seed(8)
    W_skip = torch.randn(d_out, D, generator=generator) if skip else None
    return Sae(
        About("transcoder", "m", "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"), "relu",
        torch.randn(D, F, generator=generator), torch.zeros(F), torch.randn(F, d_out, generator=generator),
        torch.zeros(d_out), W_skip=W_skip, centred=False,
    )  # fmt: skip


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("d_out", [5, D])
def test_a_transcoder_is_told_from_an_autoencoder(skip, d_out):
    """Also where what it reads and what it writes have one width."""
    assert transcoder(skip, d_out).transcodes
    assert not sae().transcodes


def test_recipes_that_cannot_be_trained_as_they_say_are_refused():
    good = {"architecture": "cross_layer", "d_sae": 8, "sparsity": 2.0, "layers": 2}
    Recipe(**good)
    for change, sentence in (
        ({"layers": 1}, "cross_layer needs at least 2 layers"),
        ({"architecture": "topk"}, "all other architectures have 1"),
        ({"sparsity": 2.5}, "keeps a whole number of latents, at least 1, so sparsity cannot be 2.5"),
        ({"architecture": "topk", "layers": 1, "sparsity": 0.5}, "sparsity cannot be 0.5"),
        ({"sparsity": 9.0}, "sparsity 9 exceeds the number of latents 8"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Recipe(**{**good, **change})
    Recipe(architecture="batch_topk", d_sae=8, sparsity=0.5)  # a mean over tokens


def test_jumprelu_starts_at_the_l0_aimed_at_and_its_kernel_covers_some_values():
    """Neither depends on the scale of the data: a fixed bandwidth of 0.05 exceeds most values in 576 dimensions."""
    for scale in (1.0, 0.01):
        batch = data(seed=3)
        batch = Batch(batch.x * scale, batch.y * scale)
        recipes, weights, context = started("jumprelu", batch)
        losses = ARCHITECTURES["jumprelu"].losses(weights, batch, context._replace(bandwidth=0.5))
        assert losses.l0.tolist() == pytest.approx([one.sparsity for one in recipes], rel=0.1)
        z = pre_activations(weights, batch)
        threshold = weights["threshold"][:, None]
        near = ((z - threshold).abs() < 0.25 * threshold).double().mean((1, 2))
        assert near.min() > 0.02
        assert near.max() < 0.4


def test_the_price_of_active_latents_is_ramped():
    batch = data()
    for name in ("relu_bricken", "relu_april", "gated", "jumprelu"):
        _, weights, context = started(name, batch)
        weights["b_enc"] += 0.05  # L0 is not the one aimed at
        free, half, whole = (
            ARCHITECTURES[name].losses(weights, batch, context._replace(price=price)).loss for price in (0.0, 0.5, 1.0)
        )
        assert (whole > free).all(), name
        assert torch.allclose(half, (free + whole) / 2, rtol=1e-5), name


def slow_auxiliary(weights, batch, error, dead, keep):
    """AuxK of one member, latent by latent."""
    z = (batch.x[0] - weights["b_dec"]) @ weights["W_enc"][dead].mT + weights["b_enc"][dead]
    guess = torch.zeros_like(error)
    for token, row in enumerate(z):
        for place in row.topk(min(keep, len(row))).indices.tolist():
            guess[token] += row[place].relu() * weights["W_dec"][dead][place]
    return (error - guess).square().sum() / (error - error.mean(0)).square().sum()


def test_auxiliary_loss_of_members_with_unequal_dead_latents():
    batch = data()
    _, weights, context = started("batch_topk", batch, members=3)
    dead = torch.zeros(3, F, dtype=torch.bool)
    dead[0, [2, 3, 11, 12, 17, 25, 30, 31]] = True
    dead[2, 5] = True
    error = torch.randn(3, B, D, generator=torch.Generator().manual_seed(4))
    found = auxiliary_loss(weights, batch, error, context._replace(dead=dead))
    for member in (0, 2):
        own = {key: value[member] for key, value in weights.items()}
        slow = slow_auxiliary(own, batch, error[member], dead[member].nonzero()[:, 0], D // 2)
        assert found[member] == pytest.approx(float(slow), rel=1e-4)
    assert found[1] == 0


def test_layers_of_a_cross_layer_transcoder_weigh_alike_and_its_dead_latents_learn():
    """Where the last layer writes a hundred times as much, an error of the first is still a third of the loss."""
    batch = data(d=3 * 4)
    large = Batch(batch.x, batch.y * torch.tensor([1.0, 1, 100]).repeat_interleave(4))
    _, weights, context = started("cross_layer", large, layers=3)
    assert torch.allclose(ARCHITECTURES["cross_layer"].losses(weights, large, context).loss, torch.ones(2), atol=0.02)
    moved = weights["b_dec"].clone()  # W_dec is 0 and b_dec the mean; now the first layer misses twice its variance
    moved[:, :4] += (large.y[0, :, :4].var(0, correction=0).sum() / 4).sqrt()
    loss = ARCHITECTURES["cross_layer"].losses({**weights, "b_dec": moved}, large, context).loss
    assert torch.allclose(loss, torch.full((2,), 4 / 3), atol=0.02)
    weights = {key: value.requires_grad_() for key, value in weights.items()}
    dead = torch.zeros(2, 3 * F, dtype=torch.bool)
    dead[0, F : F + 6] = True
    weights["W_dec"].data.normal_(generator=torch.Generator().manual_seed(0))
    plain = ARCHITECTURES["cross_layer"].losses(weights, large, context).loss
    with_dead = ARCHITECTURES["cross_layer"].losses(weights, large, context._replace(dead=dead)).loss
    [gradient] = torch.autograd.grad((with_dead - plain).sum(), [weights["W_dec"]])
    assert gradient[0, F : F + 6, 4:].abs().min() > 0
    assert gradient[0, F : F + 6, :4].abs().max() == 0  # never backwards
    assert gradient[1].abs().max() == 0
    assert gradient[0, :F].abs().max() < 1e-6


def test_matching_pursuit_is_the_loop_of_the_paper():
    batch = data()
    recipes, weights, context = started("matching_pursuit", batch)
    losses = ARCHITECTURES["matching_pursuit"].losses(weights, batch, context)
    for member, recipe_ in enumerate(recipes):
        rows, left = weights["W_dec"][member], batch.x[0] - weights["b_dec"][member]
        fires = torch.zeros(B, F, dtype=torch.bool)
        for token in range(B):
            for _ in range(int(recipe_.sparsity)):
                inner = rows @ left[token]
                best = int(inner.argmax())
                left[token] -= inner[best].relu() * rows[best]
                fires[token, best] = True
        assert losses.error[member] == pytest.approx(float(left.square().sum(1).mean()), rel=1e-4)
        own = {key: value[member] for key, value in weights.items()}
        sae = ARCHITECTURES["matching_pursuit"].export(own, recipe_, context.progress)
        assert torch.allclose(batch.x[0] - sae.reconstruct(batch.x[0]), left, atol=1e-5)
        assert torch.equal(sae.encode(batch.x[0]) > 0, fires)
    weights = {key: value.requires_grad_() for key, value in weights.items()}
    loss = ARCHITECTURES["matching_pursuit"].losses(weights, batch, context).loss
    [gradient] = torch.autograd.grad(loss.sum(), [weights["W_dec"]])
    assert torch.equal(gradient.abs().sum(-1) > 0, losses.fired > 0)
    with pytest.raises(UserError, match="no matching pursuit SAE"):
        config_of(sae)
