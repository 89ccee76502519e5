"""A trained cross-layer transcoder: the same numbers as in training, its file, bad input."""

import pytest
import torch

from common.core.errors import UserError
from common.saes.architectures import ARCHITECTURES
from common.saes.architectures.base import Batch, Context
from common.saes.cross_layer import CrossLayerTranscoder, load_cross_layer
from common.saes.recipe import Recipe, Training
from common.saes.trainer import train

LAYERS, D, F = 3, 4, 20
RECIPE = Recipe(architecture="cross_layer", d_sae=F, sparsity=3.0, layers=LAYERS)
SETTINGS = Training(steps=40, batch=64, learning_rate=0.01, warmup=2, dead_after=10**6)
MIX = torch.randn(LAYERS * D, LAYERS * D, generator=torch.Generator().manual_seed(99)) / D


def stream(step, source):
    x = torch.randn(1, 64, LAYERS * D, generator=torch.Generator().manual_seed(step))
    return Batch(x, (x @ MIX).relu())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    [one] = train([RECIPE], stream, SETTINGS, tmp_path_factory.mktemp("c") / "checkpoint")
    assert one.sae is None
    return one


def test_it_predicts_what_training_predicted(trained, monkeypatch):
    batch = stream(10**6, "")
    seen = {}
    module = "common.saes.architectures.cross_layer.squared_error"
    monkeypatch.setattr(module, lambda y, found: seen.update(found=found) or (y - found).square().sum(-1).mean(-1))
    weights = {key: value[None] for key, value in trained.weights.items()}
    context = Context([RECIPE], [3.0], trained.progress, trained.progress.silent > 0, 0.05)
    ARCHITECTURES["cross_layer"].losses(weights, batch, context)
    one = CrossLayerTranscoder.of(trained.weights, RECIPE)
    latents = one.encode(batch.x[0])
    assert latents.shape == (64, LAYERS, F)
    assert (latents != 0).sum(-1).max() == 3
    assert torch.allclose(one.decode(latents), seen["found"][0], atol=1e-5)
    y = batch.y[0]
    assert (y - one.decode(latents)).square().sum() < 0.8 * (y - y.mean(0)).square().sum()


def test_weights_that_write_backwards_are_cut_off(trained):
    weights = {**trained.weights, "W_dec": torch.ones_like(trained.weights["W_dec"])}
    W_dec = CrossLayerTranscoder.of(weights, RECIPE).W_dec.unflatten(0, (LAYERS, F)).unflatten(-1, (LAYERS, D))
    for source in range(LAYERS):
        for target in range(LAYERS):
            assert bool((W_dec[source, :, target] == (target >= source)).all())


def test_scales_of_training_are_folded_in(trained):
    x = stream(7, "").x[0]
    one = CrossLayerTranscoder.of(trained.weights, RECIPE)
    raw = CrossLayerTranscoder.of(trained.weights, RECIPE, scale=0.25, scale_out=0.5)
    assert torch.allclose(raw.encode(4 * x), one.encode(x), atol=1e-5)
    assert torch.allclose(raw.decode(raw.encode(4 * x)), 2 * one.decode(one.encode(x)), atol=1e-5)


def test_it_comes_back_from_its_file(trained, tmp_path):
    one = CrossLayerTranscoder.of(trained.weights, RECIPE)
    one.save(tmp_path / "clt.safetensors")
    again = load_cross_layer(tmp_path / "clt.safetensors")
    assert all(torch.equal(getattr(one, name), getattr(again, name)) for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    assert again.k == 3
    (tmp_path / "damaged").write_bytes(b"nothing")
    for name in ("absent", "damaged"):
        with pytest.raises(UserError, match=f"{name} holds no cross-layer transcoder; train it again"):
            load_cross_layer(tmp_path / name)


def test_bad_input_is_named(trained):
    one, x = CrossLayerTranscoder.of(trained.weights, RECIPE), stream(7, "").x[0]
    with pytest.raises(UserError, match="reads 12 dimensions; these activations have 11"):
        one.encode(x[:, :11])
    with pytest.raises(UserError, match="hold NaN or infinity"):
        one.encode(x * float("nan"))
    with pytest.raises(UserError, match="topk is no cross-layer transcoder"):
        CrossLayerTranscoder.of(trained.weights, Recipe(architecture="topk", d_sae=F, sparsity=3.0))
