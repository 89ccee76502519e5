"""The cheap forward pass against the full networks of common/toys and of TransformerLens; tasks and training sets."""

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from common.core.settings import load_replication
from common.core.step import RunInfo
from common.toys import transformer as toys
from common.toys.settings import Architecture
from replications.grokking.settings import Arms, TrainArm, Training
from replications.grokking.task import task
from replications.grokking.train import TrainFiles, curve_values, points, train
from replications.grokking.transformer import forward, forward_all, initial, losses, residual

PRIME, D_MODEL, HEADS = 13, 16, 2


def full_weights(weights):
    """The same network under the names of common/toys; `=` has a logit there, which is 0."""
    names = {"W_E": "embed.W_E", "W_pos": "pos_embed.W_pos", "W_U": "unembed.W_U"}
    names |= {f"W_{part}": f"blocks.0.attn.W_{part}" for part in "QKVO"}
    names |= {f"W_{part}": f"blocks.0.mlp.W_{part}" for part in ("in", "out")}
    found = {names[name]: value[None] for name, value in weights.items()}
    found["unembed.W_U"] = torch.nn.functional.pad(found["unembed.W_U"], (0, 1))
    return found


def sequences(pairs):
    return torch.cat([pairs, torch.full((len(pairs), 1), PRIME)], dim=1)


def bridge_of(full):
    """TransformerLens' native model without normalisation, with these weights."""
    cfg = TransformerBridgeConfig(
        n_layers=1, d_model=D_MODEL, n_heads=HEADS, d_head=D_MODEL // HEADS, d_vocab=PRIME + 1, n_ctx=3,
        d_mlp=4 * D_MODEL, act_fn="relu", normalization_type=None, attn_only=False,
        positional_embedding_type="standard", architecture="TransformerLensNative",
    )  # fmt: skip
    bridge = TransformerBridge.boot_native(cfg)
    found = {name: torch.zeros_like(value) for name, value in bridge.state_dict().items()}
    for name, every in full.items():
        value = every[0]
        if ".attn." in name:
            block, letter = name.split(".attn.W_")
            matrix = value.flatten(0, 1) if letter == "O" else value.movedim(0, 1).flatten(1)
            found[f"{block}.attn.{letter.lower()}.weight"] = matrix.T
        elif ".mlp." in name:
            found[name.replace("W_", "") + ".weight"] = value.T
        else:
            part = name.split(".")[0]
            found[f"{part}.weight"] = value.T if part == "unembed" else value
    bridge.load_state_dict(found)
    return bridge


@pytest.mark.parametrize("sharper", [1, 10, 100])  # at 100 patterns are one-hot
def test_forward_is_the_full_network_at_the_last_position(monkeypatch, sharper):
    monkeypatch.setattr(toys, "_normalise", lambda x: x)
    shape = Architecture(
        n_layers=1, keys="plain", positions="standard", mlp="relu", d_model=D_MODEL, n_heads=HEADS,
        d_head=D_MODEL // HEADS, d_vocab=PRIME + 1, n_ctx=3,
    )  # fmt: skip
    weights, pairs, cache = initial(PRIME, D_MODEL, HEADS, 0), task(PRIME, 0.5, 0).pairs, {}
    weights["W_Q"] *= sharper
    wanted = toys.forward(full_weights(weights), sequences(pairs)[None], shape, cache=cache)[0, :, -1]
    found = forward(weights, pairs)
    torch.testing.assert_close(found.logits, wanted[:, :-1], atol=1e-5, rtol=0)
    z = cache["blocks.0.attn.hook_z"][0]
    assert z[:, -1].flatten(1).shape == found.z.shape
    torch.testing.assert_close(found.z, z[:, -1].flatten(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(residual(weights, found), cache["blocks.0.hook_resid_post"][0, :, -1], atol=1e-5, rtol=0)


def test_scores_that_are_all_large_do_not_overflow():
    """All tokens share a coordinate, which alone feeds one key: every score is larger by the same 1,000 or so."""
    weights, pairs = initial(PRIME, D_MODEL, HEADS, 0), task(PRIME, 0.5, 0).pairs
    weights["W_E"][:, 0], weights["W_pos"][:, 0] = 20.0, 0.0
    weights["W_K"][:, :, 0], weights["W_Q"][:, 0, 0] = 0.0, 3.0
    wanted = forward(weights, pairs)
    weights["W_K"][:, 0, 0] = 3.0
    torch.testing.assert_close(forward(weights, pairs).z, wanted.z, atol=1e-2, rtol=0)


def test_stacked_networks_do_not_see_each_other():
    each, tasks = [initial(PRIME, D_MODEL, HEADS, seed) for seed in (0, 1)], [task(PRIME, 0.5, seed) for seed in (0, 1)]
    pairs = torch.stack([one.pairs[one.trained] for one in tasks])
    found = forward_all({name: torch.stack([one[name] for one in each]) for name in each[0]}, pairs)
    for weights, own, stacked in zip(each, pairs, found, strict=True):
        for one, other in zip(forward(weights, own), stacked, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_forward_is_that_of_transformer_lens():
    weights, pairs = initial(PRIME, D_MODEL, HEADS, 1), task(PRIME, 0.5, 0).pairs
    logits, cache = bridge_of(full_weights(weights)).run_with_cache(sequences(pairs))
    found = forward(weights, pairs)
    torch.testing.assert_close(found.logits, logits[:, -1, :-1], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.post, cache["blocks.0.mlp.hook_post"][:, -1], atol=1e-4, rtol=0)


def test_gradients_are_those_of_the_full_network(monkeypatch):
    monkeypatch.setattr(toys, "_normalise", lambda x: x)
    shape = Architecture(
        n_layers=1, keys="plain", positions="standard", mlp="relu", d_model=D_MODEL, n_heads=HEADS,
        d_head=D_MODEL // HEADS, d_vocab=PRIME + 1, n_ctx=3,
    )  # fmt: skip
    one = task(PRIME, 0.5, 0)
    weights = {name: value.requires_grad_() for name, value in initial(PRIME, D_MODEL, HEADS, 0).items()}
    cheap = losses(forward(weights, one.pairs).logits, one.answers).mean()
    logits = toys.forward(full_weights(weights), sequences(one.pairs)[None], shape)[0, :, -1, :-1]
    for found, wanted in zip(
        torch.autograd.grad(cheap, list(weights.values())),
        torch.autograd.grad(losses(logits, one.answers).mean(), list(weights.values())), strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-3)


def test_a_task_is_addition_on_nested_training_sets():
    small, large, noise = task(PRIME, 0.3, 5), task(PRIME, 0.6, 5), task(PRIME, 0.3, 5, random_answers=True)
    assert small.answers[7 * PRIME + 9] == (7 + 9) % PRIME
    assert int(small.trained.sum()) == round(0.3 * PRIME**2)
    assert bool((large.trained | ~small.trained).all())
    assert torch.equal(noise.trained, small.trained)
    assert float((noise.answers == small.answers).float().mean()) < 0.3


def test_new_pairs_have_no_mirror_among_the_trained():
    one = task(PRIME, 0.4, 3)
    trained = {tuple(pair) for pair in one.pairs[one.trained].tolist()}
    for (a, b), unseen in zip(one.pairs.tolist(), one.unseen.tolist(), strict=True):
        assert unseen == ((a, b) not in trained and (b, a) not in trained)


def test_curves_average_over_their_own_pairs():
    one = task(PRIME, 0.4, 3)
    right = torch.nn.functional.one_hot(one.answers, PRIME).float() * 100
    wrong = right.roll(1, dims=-1)
    logits = torch.where(one.trained[:, None], right, wrong)[None]
    found = {name: float(value) for name, value in curve_values(logits, [one]).items()}
    assert found["accuracy_train"] == 1
    assert found["accuracy_test"] == found["accuracy_unseen"] == 0
    assert found["loss_train"] < 1e-6
    assert found["loss_test"] == pytest.approx(100, rel=1e-3)


def test_points_are_dense_while_the_pairs_are_memorised():
    assert {0, 4, 96, 156, 200, 1000} <= set(points(1000, 50))
    assert 164 not in points(1000, 50)


def test_twins_differ_in_weight_decay_alone(tmp_path):
    settings = load_replication("grokking", "smoke")
    run = RunInfo(scale="smoke", seeds=[0, 1], device="cpu")
    arms = {"grokking": settings.arms.grokking, "no_decay": settings.arms.no_decay}
    arms["without"] = arms["grokking"].model_copy(update={"weight_decay": 0.0})
    for name, arm in arms.items():
        train(TrainFiles(models=tmp_path / name), TrainArm(arm=arm, training=settings.training), run)
    found = {name: load_file(tmp_path / name) for name in arms}
    assert found["grokking"]["snapshots"].tolist() == [0, 10, 20, 30, 40]
    W_E = {name: one["weights.W_E"] for name, one in found.items()}
    assert torch.equal(W_E["no_decay"], W_E["without"])
    assert torch.equal(W_E["no_decay"][0], W_E["grokking"][0])
    assert not torch.equal(W_E["no_decay"][-1], W_E["grokking"][-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n_heads": 3}, "do not divide"), ({"prime": 51}, "51 is not prime")],
)
def test_settings_that_do_not_fit_are_refused(change, message):
    good = load_replication("grokking", "smoke").training.model_dump()
    with pytest.raises(ValidationError, match=message):
        Training(**good | change)


@pytest.mark.parametrize(
    ("arm", "change", "message"),
    [
        ("grokking", {"snapshot_every": 15}, "snapshot_every"),
        ("no_decay", {"steps": 50}, "twins"),
        ("random_answers", {"fraction": 0.5}, "one share"),
        ("random_answers", {"steps": 20, "snapshot_every": 10}, "as many steps"),
    ],
)
def test_arms_that_are_no_twins_are_refused(arm, change, message):
    good = load_replication("grokking", "smoke").arms.model_dump()
    good[arm] |= change
    with pytest.raises(ValidationError, match=message):
        Arms(**good)
