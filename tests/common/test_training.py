"""The training engine and its transformer: identities, literal versions, resuming, and refusals."""

import math

import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from common.core.errors import UserError
from common.toys.settings import Architecture, Optimisation
from common.toys.training import FINITE, Job, _check, identity, train
from common.toys.transformer import Ablation, forward, initial_weights, smear, token_losses

SETTINGS = Optimisation(
    steps=12, batch=4, learning_rate=0.01, warmup=3, beta1=0.9, beta2=0.98, weight_decay=0.1, clip=0.5
)
BASE = {"n_layers": 2, "keys": "plain", "positions": "shortformer", "mlp": "none", "d_model": 16, "n_heads": 2,
        "d_head": 8, "d_vocab": 11, "n_ctx": 10}  # fmt: skip


def shape(**changes):
    return Architecture(**{**BASE, **changes})


def tokens(instances=2, batch=4, seed=0):
    return torch.randint(11, (instances, batch, 10), generator=torch.Generator().manual_seed(seed))


def job(seeds=(0, 1), rates=None, fail_at=None, name="test"):
    one = shape()

    def loss(weights, step):
        if step == fail_at:
            raise KeyboardInterrupt
        batch = torch.stack([tokens(1, seed=1000 * seed + step)[0] for seed in seeds])
        return token_losses(forward(weights, batch, one), batch).mean((1, 2))

    def measure(weights):
        return {"norm": weights["embed.W_E"].flatten(1).norm(dim=1)}

    rates = torch.ones(len(seeds)) if rates is None else rates
    return Job(name, initial_weights(one, list(seeds)), loss, measure, [0, 4, 8, 12], [0, 6, 12], rates, 80)


def same(a, b):
    assert torch.equal(a.losses, b.losses)
    for one, two in ((a.snapshots, b.snapshots), (a.measured, b.measured)):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_killed_run_resumes_bit_exactly(tmp_path, monkeypatch):
    whole = train(job(), SETTINGS, folder=tmp_path)
    monkeypatch.setattr("common.toys.training.CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(job(fail_at=7), SETTINGS, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    same(train(job(), SETTINGS, folder=tmp_path), whole)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_used_and_a_broken_one_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("common.toys.training.CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(job(fail_at=7), SETTINGS, folder=tmp_path)
    [path] = tmp_path.iterdir()
    good = path.read_bytes()
    train(job(), SETTINGS, folder=tmp_path)
    assert "resuming at step 7" in capsys.readouterr().out
    path.write_bytes(good[:100])
    same(train(job(), SETTINGS, folder=tmp_path), train(job(), SETTINGS, folder=tmp_path))
    assert "cannot be read; starting afresh" in capsys.readouterr().out


def test_another_job_has_another_checkpoint():
    assert identity(job(), SETTINGS) == identity(job(), SETTINGS)
    others = [
        (job(seeds=(0, 2)), SETTINGS),
        (job(name="other"), SETTINGS),
        (job(rates=torch.tensor([1.0, 2.0])), SETTINGS),
    ]
    others.append((job(), SETTINGS.model_copy(update={"clip": 1.0})))
    assert len({identity(*other) for other in [(job(), SETTINGS), *others]}) == 5


def test_instances_are_independent():
    """A seed trained alone ends where it ends beside another one."""
    both, alone = train(job((0, 1)), SETTINGS), train(job((1,)), SETTINGS)
    for name, value in alone.snapshots.items():
        torch.testing.assert_close(both.snapshots[name][:, 1:], value, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(both.snapshots["embed.W_E"][-1, 0], both.snapshots["embed.W_E"][-1, 1])


def test_engine_equals_torch_adamw_with_clipping_and_warmup():
    one = job((3,))
    ours = train(one, SETTINGS)
    weights = {name: value.clone().requires_grad_() for name, value in one.weights.items()}
    optimiser = torch.optim.AdamW(weights.values(), lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / 4))
    for step in range(12):
        optimiser.zero_grad()
        one.loss(weights, step).sum().backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 0.5)
        optimiser.step()
        schedule.step()
    for name, value in weights.items():
        torch.testing.assert_close(ours.snapshots[name][-1], value, atol=2e-5, rtol=1e-4)


def test_rates_are_per_instance():
    halted = train(job(rates=torch.tensor([1.0, 0.0])), SETTINGS).snapshots["embed.W_E"]
    assert torch.equal(halted[0, 1], halted[-1, 1])
    assert not torch.equal(halted[0, 0], halted[-1, 0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(bad, tmp_path):
    good = job()

    def loss(weights, step):
        return good.loss(weights, step) + torch.tensor([0.0, bad if step == 5 else 0.0])

    with pytest.raises(UserError, match="instance 1 is not finite at step 5"):
        train(good._replace(loss=loss), SETTINGS, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_of_several_instances_that_break_the_first_is_named():
    _check(job(), torch.tensor([FINITE, FINITE]))
    with pytest.raises(UserError, match="instance 1 is not finite at step 4"):
        _check(job(), torch.tensor([7.0, 4.0]))


@pytest.mark.parametrize(
    "changes", [{}, {"keys": "smeared"}, {"positions": "standard"}, {"mlp": "relu"}, {"n_layers": 1}]
)
def test_fused_attention_equals_the_literal_one(changes):
    one = shape(**changes)
    weights = initial_weights(one, [0, 1])
    cache = {}
    torch.testing.assert_close(
        forward(weights, tokens(), one), forward(weights, tokens(), one, cache=cache), atol=1e-4, rtol=0
    )
    pattern = cache["blocks.0.attn.hook_pattern"]
    torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
    assert not bool(pattern.triu(1).any())


def test_the_future_is_not_seen():
    one = shape(keys="smeared")
    weights, a = initial_weights(one, [0, 1]), tokens()
    b = a.clone()
    b[..., 6:] = (b[..., 6:] + 1) % 11
    torch.testing.assert_close(forward(weights, a, one)[:, :, :6], forward(weights, b, one)[:, :, :6])


def test_smear_frozen_open_is_the_plain_model_bit_for_bit():
    one, plain = shape(keys="smeared"), shape()
    weights = initial_weights(plain, [0, 1])
    for layer in range(2):
        weights[f"blocks.{layer}.attn.smear"] = torch.full((2, 2), math.inf)
    assert torch.equal(forward(weights, tokens(), one), forward(weights, tokens(), plain))


def test_smear_is_the_mix_of_two_keys():
    k = torch.randn(1, 1, 1, 3, 2)
    for back in (1, 2):
        mixed = smear(k, torch.tensor([[math.log(3)]]), back)  # sigmoid = 3/4
        assert torch.equal(mixed[..., :back, :], k[..., :back, :])
        torch.testing.assert_close(mixed[..., 2, :], 0.75 * k[..., 2, :] + 0.25 * k[..., 2 - back, :])


def test_identity_ablations_change_nothing_and_a_removed_head_writes_nothing():
    one = shape()
    weights, cache = initial_weights(one, [0, 1]), {}
    clean = forward(weights, tokens(), one, cache=cache)
    ones = torch.ones(2, 2, 2)
    assert torch.equal(forward(weights, tokens(), one, ablation=Ablation(ones, {})), clean)
    assert torch.equal(forward(weights, tokens(), one, ablation=Ablation(ones, cache)), clean)
    removed = {name: value.clone() for name, value in weights.items()}
    removed["blocks.1.attn.W_O"][:, 0] = 0
    keep = ones.clone()
    keep[:, 1, 0] = 0
    torch.testing.assert_close(
        forward(weights, tokens(), one, ablation=Ablation(keep, {})), forward(removed, tokens(), one)
    )


def test_pattern_preserving_ablation_leaves_later_patterns_alone():
    one = shape()
    weights, cache, full, kept = initial_weights(one, [0, 1]), {}, {}, {}
    forward(weights, tokens(), one, cache=cache)
    keep = torch.ones(2, 2, 2)
    keep[:, 0] = 0
    forward(weights, tokens(), one, cache=full, ablation=Ablation(keep, {}))
    forward(weights, tokens(), one, cache=kept, ablation=Ablation(keep, cache))
    name = "blocks.1.attn.hook_pattern"
    assert torch.equal(kept[name], cache[name])
    assert not torch.allclose(full[name], cache[name], atol=1e-3)


@pytest.mark.parametrize(("positions", "mlp"), [("standard", "none"), ("standard", "relu")])
def test_logits_equal_transformer_lens(positions, mlp):
    """Standard positions load in the bridge's native model with the same logits."""
    one = shape(positions=positions, mlp=mlp)
    weights = initial_weights(one, [5])
    cfg = TransformerBridgeConfig(
        n_layers=2, d_model=16, n_heads=2, d_head=8, d_vocab=11, n_ctx=10, d_mlp=64, act_fn="relu",
        normalization_type="LNPre", attn_only=mlp == "none", positional_embedding_type="standard",
        architecture="TransformerLensNative",
    )  # fmt: skip
    bridge = TransformerBridge.boot_native(cfg)
    bridge.load_state_dict(native_weights(weights, bridge.state_dict()))
    logits, cache = bridge.run_with_cache(tokens(1)[0])
    ours = {}
    torch.testing.assert_close(forward(weights, tokens(1), one, cache=ours)[0], logits, atol=1e-4, rtol=0)
    for layer in range(2):
        name = f"blocks.{layer}.attn.hook_pattern"
        torch.testing.assert_close(ours[name][0], cache[name], atol=1e-5, rtol=0)
        torch.testing.assert_close(
            ours[f"blocks.{layer}.attn.hook_z"][0], cache[f"blocks.{layer}.attn.hook_z"], atol=1e-4, rtol=0
        )


def native_weights(weights, like):
    """The first instance's weights under the bridge's names: matrices transposed, heads side by side, no biases."""
    found = {name: torch.zeros_like(value) for name, value in like.items()}
    found["embed.weight"] = weights["embed.W_E"][0]
    found["pos_embed.weight"] = weights["pos_embed.W_pos"][0]
    found["unembed.weight"] = weights["unembed.W_U"][0].T
    for name, value in weights.items():
        if ".attn." in name:
            block, letter = name.split(".attn.W_")
            one = value[0].flatten(0, 1) if letter == "O" else value[0].movedim(0, 1).flatten(1)
            found[f"{block}.attn.{letter.lower()}.weight"] = one.T
        elif ".mlp." in name:
            found[name.replace("W_", "") + ".weight"] = value[0].T
    return found


def test_zero_layers_are_refused():
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        shape(n_layers=0)
