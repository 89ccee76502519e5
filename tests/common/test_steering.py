"""Interventions: identities on tensors, and generation against one prompt at a time with TransformerLens hooks."""

from dataclasses import replace

import pytest
import torch

from common.core.errors import UserError
from common.interp.generation import Sampler, edited, generate, layer_and_place, load_writer, reread
from common.saes.sae import About, Sae
from common.saes.steering import Steering

D, F = 6, 10
HOOK = "blocks.12.hook_resid_pre"


def sae(d=D, f=F, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(f, d, generator=generator) / d**0.5
    about = About("batch_topk", model="m", hook=HOOK)
    return Sae(
        about, "jumprelu", weights.T.contiguous(), torch.zeros(f), weights, torch.zeros(d), torch.full((f,), 0.1)
    )


@pytest.fixture
def x():
    return torch.randn(4, 3, D, generator=torch.Generator().manual_seed(1))


def test_clamp_with_the_error_kept_is_an_addition_of_equal_change(x):
    dictionary, latent = sae(), torch.tensor([0, 3, 3, 9])
    clamped = Steering("clamp", torch.tensor([2.0, -1.0, 0.0, 5.0]), sae=dictionary, latent=latent)
    found = clamped(x)
    for row in range(4):
        change = clamped.strength[row] - dictionary.encode(x[row])[:, latent[row]]
        norm = dictionary.W_dec[latent[row]].norm()
        for position in range(3):
            add = Steering(
                "add", change[position, None] * norm, direction=dictionary.W_dec[latent[row]][None] / norm
            )  # fmt: skip
            assert torch.allclose(found[row, position], add(x[row : row + 1, position : position + 1])[0, 0], atol=1e-5)
        latents = dictionary.encode(x[row])
        latents[:, latent[row]] = clamped.strength[row]
        error = x[row] - dictionary.reconstruct(x[row])
        assert torch.allclose(found[row], dictionary.decode(latents) + error, atol=1e-5)
        assert error.abs().max() > 0.1  # without it the answer would be another


def test_a_latent_clamped_to_its_own_value_changes_nothing(x):
    own = sae().encode(x)[..., 2]
    for position in range(3):
        at = x[:, position : position + 1]
        assert torch.allclose(Steering("clamp", own[:, position], sae=sae(), latent=torch.full((4,), 2))(at), at)


def test_inactive_rows_are_left_alone_and_dtype_is_kept(x):
    active = torch.tensor([True, False, True, False])
    steering = Steering("clamp", torch.full((4,), 4.0), sae=sae(), latent=torch.zeros(4).long(), active=active)
    found = steering(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found[1], x[1].bfloat16())
    assert not torch.equal(found[0], x[0].bfloat16())


def test_bad_interventions_are_refused():
    with pytest.raises(UserError, match="NaN or infinite"):
        Steering("add", torch.tensor([float("inf")]), direction=torch.ones(1, D))
    with pytest.raises(UserError, match="latents 0 to 9; 10 is not one"):
        Steering("clamp", torch.ones(1), sae=sae(), latent=torch.tensor([10]))
    with pytest.raises(UserError, match="needs a direction"):
        Steering("add", torch.ones(1))
    with pytest.raises(UserError, match="needs an SAE"):
        Steering("clamp", torch.ones(1), direction=torch.ones(1, D))
    transcoder = replace(sae(), about=About("batch_topk", "m", HOOK, "blocks.12.hook_mlp_out"))
    with pytest.raises(UserError, match="a transcoder writes elsewhere; take an SAE"):
        Steering("clamp", torch.zeros(1), sae=transcoder, latent=torch.tensor([0]))
    with pytest.raises(UserError, match="cannot steer at"):
        layer_and_place("blocks.1.attn.hook_z")
    with pytest.raises(UserError, match="temperature"):
        Sampler(float("nan"), torch.zeros(1).long(), 0, [])


def test_noise_belongs_to_the_stream_and_not_to_the_batch():
    logits = torch.zeros(4, 50)
    together = Sampler(1.0, torch.tensor([7, 8, 7, 9]), 0, [3])(logits.clone(), 5)[:, 0]
    assert together[0] == together[2]
    assert int(Sampler(1.0, torch.tensor([8]), 0, [3])(logits[:1].clone(), 5)) == int(together[1])
    assert int(Sampler(1.0, torch.tensor([8]), 1, [3])(logits[:1].clone(), 5)) != int(together[1])
    drawn = [int(Sampler(1.0, torch.tensor([s]), 0, [3])(logits[:1].clone(), 0)) for s in range(400)]
    assert 3 not in drawn
    assert len(set(drawn)) == 49


@pytest.fixture(scope="module")
def writer(model_folder):
    return load_writer(model_folder, dtype=torch.float32)


PROMPTS = [[0, 504, 1203], [0, 28120, 905, 260, 1132], [0, 345]]


@pytest.mark.model
def test_a_batch_equals_one_prompt_and_one_multiplier_at_a_time_with_hooks(writer, model_folder):
    """Greedy texts of four rows (three prompts, different strengths) under each intervention: a cache of keys and
    values against a hooked bridge without one."""
    from common.data.models import load_model

    bridge, rows = load_model(model_folder), torch.tensor([0, 1, 2, 0])
    v = torch.nn.functional.normalize(torch.randn(4, 576, generator=torch.Generator().manual_seed(0)), dim=1)
    dictionary = sae(576, 40)
    strength = torch.tensor([20.0, 40.0, -30.0, 60.0])
    places = {"add": HOOK, "clamp": "blocks.5.hook_mlp_out"}
    texts = {}
    for kind, hook in places.items():
        steering = Steering(kind, strength, direction=v, sae=dictionary, latent=torch.arange(4))
        greedy = Sampler(0.0, rows, 0, [])
        found = generate(writer, PROMPTS, rows, hook, steering, 3, greedy)
        for row in range(4):
            ids, start = torch.tensor([PROMPTS[rows[row]]]), len(PROMPTS[rows[row]]) - 1
            own = {"direction": v[[row]], "sae": dictionary, "latent": torch.tensor([row])}
            one = Steering(kind, strength[[row]], **own)

            def edit(value, hook, one=one, start=start):
                return torch.cat([value[:, :start], one(value[:, start:])], 1)

            whole = torch.cat([ids, found[row : row + 1, :-1]], 1)
            with torch.no_grad():
                logits = bridge.run_with_hooks(whole, fwd_hooks=[(hook, edit)])[0, start:]
            assert torch.equal(logits.argmax(-1), found[row]), (kind, row)
        texts[kind] = found
    unsteered = generate(writer, PROMPTS, rows, HOOK, None, 3, Sampler(0.0, rows, 0, []))
    assert not any(torch.equal(found, unsteered) for found in texts.values()), "every intervention changes a text"
    assert torch.equal(unsteered[0], unsteered[3])
    assert not torch.equal(unsteered[0], unsteered[1])


@pytest.mark.model
def test_steering_the_whole_prompt_and_places_of_the_model(writer):
    rows = torch.tensor([1, 1])
    seen = []
    with torch.inference_mode():
        for place in ("resid_pre", "attn_out", "mlp_out", "resid_post"):
            with edited(writer, f"blocks.3.hook_{place}", lambda x: seen.append(x) or x):
                writer.base_model(input_ids=torch.tensor(PROMPTS[1:2]))
    before, attention, mlp, after = seen
    assert torch.allclose(before + attention + mlp, after, atol=1e-4)
    v = torch.nn.functional.normalize(torch.randn(2, 576, generator=torch.Generator().manual_seed(3)), dim=1)
    steering = Steering("add", torch.tensor([0.0, 300.0]), direction=v)
    greedy = Sampler(0.0, rows, 0, [])
    plain = generate(writer, PROMPTS, rows[:1], HOOK, None, 4, Sampler(0.0, rows[:1], 0, []))
    everywhere = generate(writer, PROMPTS, rows, HOOK, steering, 4, greedy, whole_prompt=True)
    late = generate(writer, PROMPTS, rows, HOOK, steering, 4, greedy)
    assert torch.equal(everywhere[0], plain[0])
    assert torch.equal(late[0], plain[0])
    assert not torch.equal(everywhere[1], late[1])
    with pytest.raises(UserError, match="no place"), edited(writer, "blocks.99.hook_resid_pre", lambda x: x):
        pass


@pytest.mark.model
def test_rereading_gives_the_log_probabilities_and_activations_of_a_plain_pass(writer):
    rows = torch.tensor([2, 1])
    written = torch.tensor([[11, 12, 13], [900, 901, 902]])
    nats, mean = reread(writer, PROMPTS, rows, written, "blocks.20.hook_resid_pre")
    for row in range(2):
        ids = torch.tensor([PROMPTS[rows[row]] + written[row].tolist()])
        seen = []
        with torch.no_grad(), edited(writer, "blocks.20.hook_resid_pre", lambda x, seen=seen: seen.append(x) or x):
            logits = writer(input_ids=ids).logits[0]
        expected = -logits.log_softmax(-1)[-4:-1].gather(1, written[row, :, None])[:, 0]
        assert torch.allclose(nats[row], expected, atol=2e-3)
        assert torch.allclose(mean[row], seen[0][0, -3:].mean(0), atol=2e-3)


@pytest.mark.model
def test_clamp_and_addition_of_equal_change_give_the_same_logits(writer):
    """To 1e-4 of a logit, the tolerance that was set beforehand. And not if the error of the SAE is dropped."""
    dictionary, ids, latent = sae(576, 40), torch.tensor(PROMPTS[1:2]), torch.tensor([7])

    def logits(edit):
        with torch.inference_mode(), edited(writer, HOOK, lambda x: torch.cat([x[:, :-1], edit(x[:, -1:])], 1)):
            return writer(input_ids=ids).logits[0, -1]

    seen = []
    plain = logits(lambda x: seen.append(x) or x)
    v, value = dictionary.W_dec[latent], torch.tensor([40.0])
    change = value - dictionary.encode(seen[0])[0, 0, latent]
    added = logits(Steering("add", change * v.norm(), direction=v / v.norm()))
    clamp = Steering("clamp", value, sae=dictionary, latent=latent)
    kept = logits(clamp)
    dropped = logits(lambda x: clamp(x) - x + dictionary.reconstruct(x))
    assert (added - kept).abs().max() < 1e-4
    assert (added - plain).abs().max() > 0.1
    assert (added - dropped).abs().max() > 0.1
