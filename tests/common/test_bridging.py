"""Trained models as TransformerLens models: the same logits, the same hook names, the same effect of an edit."""

import pytest
import torch

from common.core.errors import UserError
from common.toys.settings import Architecture
from common.toys.transformer import Ablation, forward, initial_weights
from tests.bridging import InstanceModel, load_in_bridge

BASE = {"n_layers": 2, "keys": "plain", "mlp": "none", "d_model": 16, "n_heads": 2, "d_head": 8, "d_vocab": 11,
        "n_ctx": 10}  # fmt: skip
TOKENS = torch.randint(11, (4, 10), generator=torch.Generator().manual_seed(0))
EVERY = [
    {"positions": "standard"},
    {"positions": "rotary"},
    {"positions": "rotary", "mlp": "relu"},
    {"positions": "shortformer"},
    {"positions": "shortformer", "keys": "smeared"},
    {"positions": "rotary", "keys": "smeared"},
]


def made(changes):
    shape = Architecture(**{**BASE, **changes})
    weights = initial_weights(shape, [3, 4])
    for name in weights:
        if name.endswith("smear"):
            weights[name] = torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(1))
    return shape, weights


@pytest.mark.parametrize("changes", EVERY)
@pytest.mark.parametrize("instance", [0, 1])
def test_the_adapter_has_the_logits_of_the_fused_model(changes, instance):
    shape, weights = made(changes)
    expected = forward(weights, TOKENS.expand(2, -1, -1), shape)[instance]
    torch.testing.assert_close(InstanceModel(weights, shape, instance)(TOKENS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("changes", EVERY[:3])
def test_the_native_model_has_the_same_logits_and_the_same_cache(changes):
    shape, weights = made(changes)
    bridge, adapter = load_in_bridge(weights, shape, 1), InstanceModel(weights, shape, 1)
    logits, cache = bridge.run_with_cache(TOKENS)
    ours, own = adapter.run_with_cache(TOKENS)
    torch.testing.assert_close(ours, logits, atol=1e-4, rtol=0)
    assert len(own) >= 15
    for name, value in own.items():
        torch.testing.assert_close(value.expand_as(cache[name]), cache[name], atol=1e-4, rtol=0, msg=name)
    edit = [("blocks.0.attn.hook_z", lambda value, hook: value * 0)]
    torch.testing.assert_close(
        adapter.run_with_hooks(TOKENS, fwd_hooks=edit), bridge.run_with_hooks(TOKENS, fwd_hooks=edit), atol=1e-4, rtol=0
    )
    assert not torch.allclose(adapter.run_with_hooks(TOKENS, fwd_hooks=edit), ours, atol=1e-2)


@pytest.mark.parametrize("changes", EVERY[3:5])
def test_hooks_of_the_adapter_act_as_our_own_ablation(changes):
    shape, weights = made(changes)
    keep = torch.ones(2, 2, 2)
    keep[:, 0, 1] = 0

    def remove(value, hook):
        value = value.clone()
        value[:, :, 1] = 0
        return value

    edited = InstanceModel(weights, shape, 1).run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.attn.hook_z", remove)])
    expected = forward(weights, TOKENS.expand(2, -1, -1), shape, ablation=Ablation(keep, {}))[1]
    torch.testing.assert_close(edited, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("changes", EVERY[3:5])
def test_what_the_native_model_lacks_is_refused(changes):
    shape, weights = made(changes)
    with pytest.raises(UserError, match="no shortformer positions and no smeared keys"):
        load_in_bridge(weights, shape)


def test_rotary_positions_are_relative():
    shape, weights = made({"positions": "rotary", "n_layers": 1})
    cache, shifted = {}, {}
    forward(weights, torch.tensor([[[7, 7, 7, 1, 2, 3]]]).expand(2, -1, -1), shape, cache=cache)
    forward(weights, torch.tensor([[[1, 2, 3]]]).expand(2, -1, -1), shape, cache=shifted)
    late, early = (one["blocks.0.attn.hook_pattern"] for one in (cache, shifted))
    inside = late[..., 3:, 3:] / late[..., 3:, 3:].sum(-1, keepdim=True)
    torch.testing.assert_close(inside, early, atol=1e-5, rtol=0)


def test_rotary_positions_need_an_even_head():
    with pytest.raises(ValueError, match="d_head must be even"):
        Architecture(**{**BASE, "positions": "rotary", "d_head": 7})
