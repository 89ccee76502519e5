"""Activation shards and SAELens folders: round trips, damage, order of epochs, refusals."""

import json
from pathlib import Path

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file, save_file

from common.core.errors import UserError
from common.core.files import sha256
from common.saes import stream
from common.saes.sae import About, Sae
from common.saes.saelens import load_saelens, save_saelens
from common.saes.stream import Activations, write_shards

D, F = 6, 10
GOLDEN = Path(__file__).parent / "golden"
ABOUT = {"model": "m", "hook": "blocks.1.hook_resid_pre", "corpora": ["c"], "dropped": {"first position": 3}}


def written(folder, n=100):
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(0)) * 5
    write_shards(folder, x, torch.arange(n), torch.arange(n) + 7, about=ABOUT)
    return x


def test_shards_hold_every_activation_once_in_a_new_order(tmp_path):
    x = written(tmp_path)
    stored = Activations(tmp_path)
    assert not torch.equal(stored.x, x)
    assert torch.equal(stored.x, x[stored.document])
    assert torch.equal(stored.token_id, stored.document + 7)
    scaled = stored.x * stored.manifest.scale
    assert scaled.square().sum(1).mean() == pytest.approx(1, rel=1e-5)


def test_batches_are_a_function_of_the_step_and_cover_an_epoch(tmp_path):
    written(tmp_path)
    one, other = Activations(tmp_path), Activations(tmp_path)
    epoch = torch.cat([one.batch(step, 25) for step in range(4)])
    assert torch.allclose(epoch.sort(0).values, (one.x * one.manifest.scale).sort(0).values)
    assert torch.equal(one.batch(6, 25), other.batch(6, 25))  # no state: any step can be asked for first
    assert not torch.equal(one.batch(0, 25), one.batch(4, 25))
    with pytest.raises(UserError, match="do not fill one batch"):
        one.batch(0, 101)


def test_a_batch_is_gathered_from_many_shards_without_reading_all(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "SHARD_TOKENS", 13)
    written(tmp_path)
    stored = Activations(tmp_path)
    assert len(stored.parts) == 8
    batches = [stored.batch(step, 24, seed=5) for step in range(6)]
    assert not {"x", "document", "token_id"} & vars(stored).keys()  # nothing was put together
    order = torch.randperm(100, generator=torch.Generator().manual_seed(5 * 1_000_003))
    for step in range(4):
        rows = order[24 * step : 24 * (step + 1)]
        assert torch.equal(batches[step], stored.x[rows].float() * stored.manifest.scale)
    assert torch.equal(stored.first(30), stored.x[:30].float())
    assert len(stored.first(1000)) == 100


def test_damaged_shards_are_refused(tmp_path):
    written(tmp_path)
    [shard] = tmp_path.glob("shard-*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="is damaged"):
        Activations(tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match="is missing"):
        Activations(tmp_path)
    x = torch.zeros(100, D + 1)
    save_file({"activations": x, "document": torch.arange(100), "token_id": torch.arange(100)}, shard)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["shards"][shard.name] = sha256(shard)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="has width 7, not 6"):
        Activations(tmp_path)
    with pytest.raises(UserError, match="hold NaN"):
        write_shards(
            tmp_path, torch.full((4, D), float("nan")), torch.zeros(4).long(), torch.zeros(4).long(), about=ABOUT
        )


def sae(activation, **more):
    generator = torch.Generator().manual_seed(1)
    about = About("batch_topk", "m", "blocks.1.hook_resid_pre", seed=3, sparsity=2.0)
    tensors = [torch.randn(*shape, generator=generator) for shape in ((D, F), (F,), (F, D), (D,))]
    return Sae(about, activation, *tensors, **more)


KINDS = {
    "relu": lambda: sae("relu"),
    "april": lambda: sae("relu", centred=False),
    "topk": lambda: sae("topk", k=3),
    "jumprelu": lambda: sae("jumprelu", threshold=torch.linspace(0, 1, F)),
    "gated": lambda: sae("gated", r_mag=torch.linspace(-1, 1, F), b_mag=torch.linspace(0, 1, F)),
    "skip": lambda: sae("jumprelu", threshold=torch.ones(F), W_skip=torch.eye(D), centred=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_saelens_folder_round_trip(tmp_path, kind):
    one = KINDS[kind]()
    save_saelens(one, tmp_path, density=torch.linspace(0, 1, F))
    other = load_saelens(tmp_path)
    x = torch.randn(40, D, generator=torch.Generator().manual_seed(2))
    assert torch.equal(other.encode(x), one.encode(x))
    assert torch.equal(other.reconstruct(x), one.reconstruct(x))
    assert other.about == one.about
    written = load_file(tmp_path / "sparsity.safetensors")["sparsity"]  # log10, as SAELens has it
    assert torch.allclose(10**written, torch.linspace(0, 1, F), atol=1e-6)


def edited(folder, change):
    content = json.loads((folder / "cfg.json").read_text())
    content.update(change)
    (folder / "cfg.json").write_text(json.dumps(content))


def test_saelens_folders_that_would_load_wrongly_are_refused(tmp_path):
    save_saelens(KINDS["jumprelu"](), tmp_path)
    weights = tmp_path / "sae_weights.safetensors"
    tensors = load_file(weights)
    save_file({key: value for key, value in tensors.items() if key != "threshold"}, weights)
    with pytest.raises(UserError, match="would act as a plain ReLU"):
        load_saelens(tmp_path)
    save_file(tensors, weights)
    edited(tmp_path, {"normalize_activations": "layer_norm"})
    with pytest.raises(UserError, match="normalised by 'layer_norm'"):
        load_saelens(tmp_path)
    edited(tmp_path, {"normalize_activations": "expected_average_only_in"})
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.5}')
    x = torch.randn(5, D)
    assert torch.allclose(load_saelens(tmp_path).encode(2 * x), KINDS["jumprelu"]().encode(x), atol=1e-5)
    edited(tmp_path, {"normalize_activations": "none", "architecture": "temporal"})
    with pytest.raises(UserError, match="architecture 'temporal'"):
        load_saelens(tmp_path)
    edited(tmp_path, {"architecture": "jumprelu", "d_sae": 11})
    with pytest.raises(UserError, match=r"cfg.json says"):
        load_saelens(tmp_path)
    weights.write_bytes(b"broken")
    with pytest.raises(UserError, match="is damaged"):
        load_saelens(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="SAELens folder"):
        load_saelens(tmp_path)


def test_malformed_saelens_folders_are_one_sentence(tmp_path, monkeypatch):
    """Each names the folder and what is wrong. The shape checks that only tests switch on are off, as for users."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)

    def refused(sentence):
        with pytest.raises(UserError, match=sentence) as caught:
            load_saelens(tmp_path)
        assert str(tmp_path) in str(caught.value)

    config, weights = tmp_path / "cfg.json", tmp_path / "sae_weights.safetensors"
    save_saelens(KINDS["topk"](), tmp_path, density=torch.ones(F))
    text, tensors = config.read_text(), load_file(weights)
    for broken in ("{", "[]", "\xff"):
        config.write_text(broken, encoding="latin-1")
        refused(r"cfg.json is damaged; fetch or train")
    config.unlink()
    refused(r"cfg.json does not exist; is .+ a SAELens folder")
    for key in ("d_in", "d_sae"):
        config.write_text(json.dumps({name: value for name, value in json.loads(text).items() if name != key}))
        refused(rf"cfg.json must say '{key}' \(found None\)")
    for key, value in {"d_in": "6", "metadata": None, "architecture": ["topk"]}.items():
        config.write_text(json.dumps(json.loads(text) | {key: value}))
        refused(rf"cfg.json must say '{key}'")
    config.write_text(json.dumps(json.loads(text) | {"k": "3"}))
    refused("does not say k")
    config.write_text(json.dumps(json.loads(text) | {"k": 0}))
    refused("needs 1 <= k <= 10")
    config.write_text(text)
    for key in ("W_enc", "W_dec", "b_dec", "b_enc"):
        save_file({name: value for name, value in tensors.items() if name != key}, weights)
        refused(f"safetensors lacks the tensor '{key}'")
    for key, value, said in (
        ("b_enc", torch.zeros(F - 1), r"'b_enc' has the shape \[9\]"),
        ("b_dec", torch.zeros(D, 1), r"'b_dec' has the shape \[6, 1\]"),
        ("W_dec", torch.zeros(F), "are no matrices"),
        ("W_dec", torch.zeros(F, D, 1), "are no matrices"),
        ("W_dec", torch.zeros(F, D + 1), "do not fit"),
        ("W_enc", torch.zeros(F), "cfg.json says"),
        ("scaling_factor", torch.ones(F + 1), "not one finite number per latent"),
    ):
        save_file(tensors | {key: value}, weights)
        refused(said)
    save_file(tensors, weights)
    edited(tmp_path, {"normalize_activations": "expected_average_only_in"})
    (tmp_path / "activation_scaler.json").write_text('{"factor": 0.5}')
    refused("which the folder does not describe")


def test_log_threshold_and_decoder_norm_of_saelens(tmp_path):
    one = KINDS["jumprelu"]()
    save_saelens(one, tmp_path)
    weights = tmp_path / "sae_weights.safetensors"
    tensors = load_file(weights)
    tensors["log_threshold"] = (tensors.pop("threshold") + 1e-9).log()
    save_file(tensors, weights)
    x = torch.randn(30, D, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(load_saelens(tmp_path).encode(x), one.encode(x), atol=1e-5)
    top = KINDS["topk"]()
    save_saelens(top, tmp_path)
    edited(tmp_path, {"rescale_acts_by_decoder_norm": True})
    norms = top.W_dec.norm(dim=1)
    z = top.pre_activations(x) * norms  # SAELens selects on, and returns, pre-activation times decoder norm
    values, index = z.topk(3)
    expected = torch.zeros_like(z).scatter(1, index, values.relu())
    found = load_saelens(tmp_path)
    assert torch.allclose(found.encode(x), expected, atol=1e-5)
    assert torch.allclose(found.reconstruct(x), (expected / norms) @ top.W_dec + top.b_dec, atol=1e-5)


def test_k_is_read_wherever_a_folder_says_it_and_asked_for_where_none_does(tmp_path):
    one = KINDS["topk"]()
    save_saelens(one, tmp_path)
    written = json.loads((tmp_path / "cfg.json").read_text())
    old = {key: value for key, value in written.items() if key not in ("architecture", "k")}
    x = torch.randn(10, D, generator=torch.Generator().manual_seed(2))
    for where in ({"activation_fn_kwargs": {"k": 3}}, {"k": 3}):
        (tmp_path / "cfg.json").write_text(json.dumps({**old, "activation_fn_str": "topk", **where}))
        assert torch.equal(load_saelens(tmp_path).encode(x), one.encode(x))
    for nowhere in ({"activation_fn_str": "topk"}, {"activation_fn": "topk", "activation_fn_kwargs": None},
                    {"architecture": "topk"}):  # fmt: skip
        (tmp_path / "cfg.json").write_text(json.dumps({**old, **nowhere}))
        with pytest.raises(UserError, match="does not say k"):
            load_saelens(tmp_path)


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_folders_written_by_saelens_give_its_numbers(name):
    """Golden folders of sae-lens 6.54.12, made by tests/interop/make_golden.py."""
    expected = load_file(GOLDEN / name / "expected.safetensors")
    one = load_saelens(GOLDEN / name)
    assert torch.allclose(one.encode(expected["x"]), expected["latents"], atol=1e-5)
    assert torch.allclose(one.reconstruct(expected["x"]), expected["out"], atol=1e-5)
    assert (one.about.model, one.about.hook) == ("golden", "blocks.1.hook_resid_pre")
    assert (expected["latents"] != 0).any()
