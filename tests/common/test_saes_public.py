"""Released SAEs by name: registry, both formats through a stand-in for the hub, hashes, centred models, errors."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from common.core.errors import UserError
from common.core.files import sha256
from common.data.models import registry
from common.saes import public
from common.saes.sae import About, Sae
from common.saes.saelens import load_saelens, save_saelens
from tests.hub import stand_in

REVISION = "0123456789abcdef0123456789abcdef01234567"
HOOK = "blocks.1.hook_resid_pre"
D, F = 6, 10


def sae(activation="relu", **more):
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(*shape, generator=generator) for shape in ((D, F), (F,), (F, D), (D,))]
    return Sae(About("standard", "gpt2-small", HOOK), activation, *tensors, **more)


def scope():
    return sae("jumprelu", threshold=torch.linspace(0, 1, F), centred=False)


def write_scope(folder: Path) -> None:
    folder.mkdir(parents=True)
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    np.savez(folder / "params.npz", **{name: getattr(scope(), name).numpy() for name in names})


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "repository"
    save_saelens(sae(), folder / HOOK)
    write_scope(folder / "layer_1" / "width")
    return folder


@pytest.fixture
def register(tmp_path, monkeypatch, repository):
    """A registry of the test's own: `jb` and `scope`, and ones that go wrong."""

    def entry(folder, form, **more):
        files = {path.name: sha256(path) for path in sorted((repository / folder).iterdir())}
        about = {"repository": "a/b", "revision": REVISION, "model": "gpt2", "hook": HOOK, "licence": "MIT"}
        more = {"size_mb": 1, "used_for": "tests", "files": files, **more}
        return {**about, "folder": folder, "format": form, **more}

    saes = {
        "jb": entry(HOOK, "saelens", centred=True),
        "scope": entry("layer_1/width", "gemma_scope"),
        "changed": entry("layer_1/width", "gemma_scope", files={"params.npz": "0" * 64}),
        "moved": entry("layer_1/width", "gemma_scope", revision="f" * 40),
    }
    path = tmp_path / "saes.yaml"
    path.write_text(yaml.safe_dump({"saes": saes}))
    monkeypatch.setattr(public, "SAES_FILE", path)
    monkeypatch.setattr(public, "FOLDER", tmp_path / "resources")
    return path


def through_hub(registry_file: Path, hub: str, names: list[str]) -> list[str]:
    """One line for each name: what was loaded, or the error."""
    script = (
        "import pathlib, sys; from common.saes import public; from common.core.errors import UserError\n"
        f"public.SAES_FILE = pathlib.Path({str(registry_file)!r})\n"
        f"public.FOLDER = pathlib.Path({str(registry_file.parent / 'resources')!r})\n"
        "for name in sys.argv[1:]:\n"
        "    try: public.describe(name=name)\n"
        "    except UserError as error: print(error)\n"
    )
    environment = os.environ | {"HUB": "1", "HF_ENDPOINT": hub, "HF_HOME": str(registry_file.parent / "cache")}
    command = [sys.executable, "-c", script, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip().splitlines()


def test_released_saes_load_by_name(register, repository, tmp_path):
    with stand_in("a/b", REVISION, repository) as hub:
        lines = through_hub(register, hub, ["jb", "scope", "changed", "moved"])
    assert lines[0] == f"jb: relu, {D} dimensions, {F} latents, {HOOK} of gpt2"
    assert lines[1].startswith("scope: jumprelu")
    assert "params.npz is damaged or was changed" in lines[2]
    assert lines[3].startswith("the hub did not give a/b/layer_1/width/params.npz")
    assert sorted(path.name for path in (tmp_path / "resources").iterdir()) == ["jb", "scope"]
    x = torch.randn(50, D, generator=torch.Generator().manual_seed(2)) + 1  # from here on without the hub
    one = public.load_public("jb")
    one.check_belongs("gpt2", HOOK)
    assert torch.allclose(one.encode(x), sae().encode(x - x.mean(1, keepdim=True)), atol=1e-5)
    assert not torch.allclose(one.encode(x), sae().encode(x), atol=0.1)
    other = public.load_public("scope")
    z = x @ scope().W_enc + scope().b_enc
    assert torch.allclose(other.encode(x), z.relu() * (z > scope().threshold), atol=1e-6)
    (tmp_path / "resources" / "jb" / "cfg.json").write_text("{}")
    with pytest.raises(UserError, match=r"cfg.json is damaged or was changed.*load it again with HUB=1"):
        public.load_public("jb")


def test_a_dictionary_that_is_shipped_needs_no_hub(register, repository, tmp_path, monkeypatch):
    saes = yaml.safe_load(register.read_text())["saes"]
    own = saes["jb"] | {"centred": False, "folder": "shipped", "model": "mine"}
    (tmp_path / "shipped").mkdir()
    for path in (repository / HOOK).iterdir():
        (tmp_path / "shipped" / path.name).write_bytes(path.read_bytes())
    register.write_text(yaml.safe_dump({"saes": {"own": own | {"repository": None, "revision": None}}}))
    monkeypatch.setattr(public, "ROOT", tmp_path)
    assert (public.shipped("mine", HOOK), public.shipped("mine", "other"), public.shipped("gpt2", HOOK)) == (
        "own",
        None,
        None,
    )
    public.load_public("own").check_belongs("mine", HOOK)
    (tmp_path / "shipped" / "cfg.json").write_text("{}")
    with pytest.raises(UserError, match=r"cfg.json is damaged or was changed.*git checkout shipped"):
        public.load_public("own")
    register.write_text(yaml.safe_dump({"saes": {"own": own | {"repository": None}}}))
    with pytest.raises(UserError, match="a repository on the hub and its revision go together"):
        public.load_public("own")


def test_centring_moves_into_the_encoder():
    x = torch.randn(50, D, generator=torch.Generator().manual_seed(2)) + 1
    for one in (sae(), replace(sae(), centred=False), sae("gated", r_mag=torch.ones(F) / 2, b_mag=torch.ones(F))):
        expected = one.encode(x - x.mean(1, keepdim=True))
        assert torch.allclose(public.of_centred(one).encode(x), expected, atol=1e-5)


def test_no_hub_and_unknown_names(register):
    with pytest.raises(UserError, match="a/b comes from a model hub, which is switched off"):
        public.load_public("scope")
    with pytest.raises(UserError, match=r"unknown SAE 'nope': config/saes.yaml has changed, jb, moved, scope"):
        public.load_public("nope")


def test_damaged_gemma_scope_files(tmp_path):
    with pytest.raises(UserError, match="cannot be read as a Gemma Scope SAE"):
        public.load_gemma_scope(tmp_path)
    (tmp_path / "params.npz").write_bytes(b"broken")
    with pytest.raises(UserError, match="cannot be read as a Gemma Scope SAE"):
        public.load_gemma_scope(tmp_path)
    np.savez(tmp_path / "params.npz", W_enc=np.array([{}], dtype=object))  # would need pickle
    with pytest.raises(UserError, match="cannot be read as a Gemma Scope SAE"):
        public.load_gemma_scope(tmp_path)


def test_registered_saes_are_pinned_and_name_known_hooks():
    found = public.checked(public.SaesFile, public.read_yaml(public.SAES_FILE), public.SAES_FILE).saes
    assert {"gpt2-res-jb-8", "gemma-scope-2b-res-16-65k"} <= found.keys()
    assert found["gpt2-res-jb-8"].model in registry()
    for one in found.values():
        layer = one.hook.split(".")[1]
        assert f".{layer}." in one.folder or f"layer_{layer}/" in one.folder


def test_folders_of_old_saelens_versions(tmp_path):
    save_saelens(sae(), tmp_path)
    old = {"d_in": D, "d_sae": F, "model_name": "gpt2-small", "hook_point": HOOK, "normalize_activations": False}
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    one = load_saelens(tmp_path)
    one.check_belongs("gpt2-small", HOOK)
    assert one.activation == "relu"
    old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    assert load_saelens(tmp_path).k == 3
