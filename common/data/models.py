"""Language models: the registry `config/models.yaml`, and the one function through which every step loads a model.

`common.data.materialise` turns any registered model into a folder `resources/models/<name>/` with safetensors,
tokenizer and `manifest.json` (SHA-256 of each file). `load_model` checks these hashes at every load, then boots the
folder in TransformerLens' `TransformerBridge`. Weights are used as stored: no LayerNorm folding, no centring. Special
tokens are never added; a test counts them. By default the bridge would prepend token 1 to SmolLM2's raw text:
`load_model` switches that off, and `encode` does so for tokenizers.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from common.core.errors import UserError
from common.core.files import read_json, read_yaml, sha256
from common.core.settings import ROOT, Strict, checked

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MODELS_FILE = ROOT / "config" / "models.yaml"


class ModelEntry(Strict):
    """One model of the registry."""

    source: Literal["package", "hub", "trained", "local"]
    package: str | None = Field(None, description="package: import name of the installed package that holds the file")
    version: str | None = Field(None, description="package: the locked version")
    repository: str | None = Field(None, description="hub: owner/name")
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = Field(None, description="hub: commit, 40 hex")
    folder: str | None = Field(None, description="trained, local: Hugging Face folder; relative to the project")
    config: dict[str, Any] | None = Field(None, description="hub: the architecture, where no hashed config.json exists")
    files: dict[str, Sha256] = Field(default_factory=dict, description="file name -> SHA-256, checked before any use")
    licence: str
    size_mb: Annotated[int, Field(gt=0)] = Field(description="disk space of the materialised folder")
    chat_template: str
    used_for: str

    @model_validator(mode="after")
    def _complete(self) -> "ModelEntry":
        needed = {"package": ("package", "version", "files"), "hub": ("repository", "revision", "files")}
        for key in needed.get(self.source, ("folder",)):
            if not getattr(self, key):
                raise ValueError(f"a model with source '{self.source}' needs the key '{key}'")
        return self


class ModelsFile(Strict):
    """The content of `config/models.yaml`."""

    models: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")], ModelEntry]


class Manifest(Strict):
    """`manifest.json` of a materialised model."""

    name: str
    source: str
    origin: str
    licence: str
    processing: str
    files: dict[str, Sha256]


def registry() -> dict[str, ModelEntry]:
    """All registered models by name. UserError if the registry breaks its schema."""
    return checked(ModelsFile, read_yaml(MODELS_FILE), MODELS_FILE).models


def entry(name: str) -> ModelEntry:
    """One registered model. UserError naming the known ones."""
    known = registry()
    if name not in known:
        raise UserError(f"unknown model '{name}': config/models.yaml has {', '.join(known)}")
    return known[name]


def folder_files(model: ModelEntry) -> list[str]:
    """The files that a `trained` or `local` model is made from, so that a new training makes the model anew."""
    return [f"{model.folder}/config.json", f"{model.folder}/model.safetensors"] if model.folder else []


def own_folder(model: ModelEntry) -> Path:
    """The folder of a `trained` or `local` model. UserError if it is no Hugging Face folder."""
    folder = ROOT / str(model.folder)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{model.folder} is no Hugging Face folder (config.json is missing); correct config/models.yaml"
        )
    return folder


def check_weights(name: str, folder: Path) -> None:
    """UserError unless the folder of the model `name` holds weights in a format that is read."""
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"model '{name}' has no .safetensors file; convert its weights, pickled ones are not read")


def verify_folder(folder: Path) -> Manifest:
    """Checks every file of a materialised model against its manifest. UserError naming the first bad file."""
    path = folder / "manifest.json"
    manifest = checked(Manifest, read_json(path), path)
    for name, expected in manifest.files.items():
        check_file(folder / name, expected, remedy=f"delete {folder} and run `make resume`")
    return manifest


def check_file(path: Path, expected: str, *, remedy: str) -> None:
    """UserError unless `path` exists and has the expected SHA-256."""
    if not path.is_file():
        raise UserError(f"{path} is missing; {remedy}")
    stat = path.stat()
    if (found := _sha256(path, stat.st_mtime_ns, stat.st_size)) != expected:
        raise UserError(
            f"{path} is damaged or was changed: its SHA-256 is {found[:12]}..., expected {expected[:12]}...; {remedy}"
        )


@functools.cache
def _sha256(path: Path, _time: int, _size: int) -> str:
    """Of a file of this time and size, read once in a process: weights take half a second."""
    return sha256(path)


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a materialised model. Encode with `encode`, which keeps special tokens off."""
    from transformers import AutoTokenizer

    verify_folder(folder)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of raw text or of text that a chat template has already been applied to: no special token is added."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def encode_all(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    """As `encode`, for many texts in one call, which takes two thirds of the time."""
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return ids


def answer_text(tokenizer: "PreTrainedTokenizerBase", tokens: list[int]) -> str:
    """The text up to the first special token."""
    special = set(tokenizer.all_special_ids)
    end = next((place for place, token in enumerate(tokens) if token in special), len(tokens))
    return str(tokenizer.decode(tokens[:end])).strip()


def chat_prompt(tokenizer: "PreTrainedTokenizerBase", message: str) -> str:
    """One user message in the model's chat format, up to where the answer begins.

    There is no system message. SmolLM2's template would add one of its own, so the prompt is rendered with an empty
    system block, and that block is cut off. The token that begins every text (Llama 3) stays. A template that knows no
    system block, or writes it into the user's turn (Gemma), is left alone.
    """
    from jinja2 import TemplateError

    def render(messages: list[dict[str, str]], answer: bool) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer))

    user = {"role": "user", "content": message}
    block = {"role": "system", "content": ""}
    alone, first = render([user], True), tokenizer.bos_token or ""
    try:
        cut = render([block, user], True).removeprefix(render([block], False))
    except TemplateError:
        return alone
    if not alone.endswith(cut):
        return alone
    return first + cut if alone.startswith(first) and not cut.startswith(first) else cut


def fast_dtype() -> "torch.dtype":
    """bfloat16 where the processor or GPU computes in it, otherwise float32."""
    import torch

    if torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def load_model(folder: Path, *, device: str = "cpu", dtype: "torch.dtype | None" = None) -> "TransformerBridge":
    """Boots a materialised model, weights as stored, in evaluation mode.

    Args:
        folder: the directory of `manifest.json`.
        device: "cpu" or "cuda".
        dtype: torch.float32 (default) or, for harvesting and generation only, torch.bfloat16.

    Raises:
        UserError: a file is missing or its hash differs from the manifest.
    """
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    manifest = verify_folder(folder)
    chosen = dtype or torch.float32
    bridge = TransformerBridge.boot_transformers(str(folder), device=device, dtype=chosen)
    bridge.eval()
    bridge.cfg.default_prepend_bos = False
    print(f"loaded {manifest.name} ({manifest.processing}; {str(chosen).removeprefix('torch.')} on {device})")
    return bridge
