"""Released SAEs by name: the registry `config/saes.yaml`, and the function that loads one.

The dictionary of the embedded model lies in this repository (`shipped`). Others come from a hub:

    HUB=1 python -m common.saes.public --name gpt2-res-jb-8

fetches the files at the pinned revision into `resources/saes/<name>/`; from then on `load_public(name)` needs no hub.
Every file is checked against its SHA-256 at every load. Two formats are read: SAELens folders, and the `params.npz` of
Gemma Scope (Lieberum et al. 2024), JumpReLU SAEs without - b_dec in the encoder.

The GPT-2 SAEs were trained on a model whose writing weights were centred, so that its residual stream has mean 0 over
d_model (Bloom 2024). SAELens loads that model with `center_writing_weights`. Models here keep their weights as stored;
`of_centred` puts the subtraction of the mean into the encoder instead.
"""

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from common.core.errors import UserError
from common.core.files import TEMPORARY_SUFFIX, read_yaml
from common.core.settings import ROOT, Strict, checked
from common.core.step import run
from common.data.materialise import copy_from_hub
from common.data.models import ModelEntry, Sha256, check_file
from common.saes.sae import About, Sae
from common.saes.saelens import load_saelens

SAES_FILE = ROOT / "config" / "saes.yaml"
FOLDER = ROOT / "resources" / "saes"


class SaeEntry(Strict):
    """One released SAE."""

    repository: str | None = Field(None, description="owner/name on the hub; null: this repository ships the files")
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = Field(None, description="commit, 40 hex")
    folder: str = Field(description="where the files lie in the repository, or below the root of this one")
    format: Literal["saelens", "gemma_scope"]
    files: Annotated[dict[str, Sha256], Field(min_length=1)] = Field(description="file name -> SHA-256")
    model: str = Field(description="the model it was trained on, by its name in config/models.yaml if it is there")
    used_with: list[str] = Field(default_factory=list, description="models fine-tuned from it, which it serves as well")
    hook: str = Field(description="TransformerLens name of the activation it reads")
    centred: bool = Field(False, description="trained on a model with centred writing weights: mean 0 over d_model")
    licence: str
    size_mb: Annotated[int, Field(gt=0)]
    used_for: str = Field(description="what it is there for, and where its hashes come from")

    @model_validator(mode="after")
    def _placed(self) -> "SaeEntry":
        if (self.repository is None) != (self.revision is None):
            raise ValueError("a repository on the hub and its revision go together; give both or neither")
        return self


class SaesFile(Strict):
    """The content of `config/saes.yaml`."""

    saes: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")], SaeEntry]


def entry(name: str) -> SaeEntry:
    """One registered SAE. UserError naming the known ones."""
    known = checked(SaesFile, read_yaml(SAES_FILE), SAES_FILE).saes
    if name not in known:
        raise UserError(f"unknown SAE '{name}': config/saes.yaml has {', '.join(known)}")
    return known[name]


def shipped(model: str, hook: str) -> str | None:
    """The name of the dictionary that this repository ships for a model and hook, if there is one."""
    known = checked(SaesFile, read_yaml(SAES_FILE), SAES_FILE).saes.items()
    return next(
        (name for name, one in known if one.repository is None and (one.model, one.hook) == (model, hook)), None
    )


def load_public(name: str, device: str = "cpu", *, model: str = "") -> Sae:
    """A registered SAE, fetched first if it is not there yet; it belongs to `model` if that is one it serves as well.

    Raises:
        UserError: unknown name, a hub that is switched off or out of reach, a wrong hash, a damaged file.
    """
    one = entry(name)
    if one.repository is None:
        folder, remedy = ROOT / one.folder, f"restore it with `git checkout {one.folder}`"
    else:
        folder = FOLDER / name
        remedy = f"delete {folder} and load it again with HUB=1"
        if not folder.exists():
            _fetch(one, folder)
    for file, expected in one.files.items():
        check_file(folder / file, expected, remedy=remedy)
    sae = load_saelens(folder) if one.format == "saelens" else load_gemma_scope(folder)
    owner = model if model in one.used_with else one.model
    sae = replace(sae, about=replace(sae.about, model=owner, hook=one.hook))
    return (of_centred(sae) if one.centred else sae).to(device)


def load_gemma_scope(folder: Path) -> Sae:
    """Reads `params.npz`. UserError if it is missing, damaged or incomplete."""
    path = folder / "params.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
            W_enc, b_enc, W_dec, b_dec, threshold = (torch.from_numpy(stored[name]).float() for name in names)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a Gemma Scope SAE ({error}); fetch it again") from None
    return Sae(About("jumprelu"), "jumprelu", W_enc, b_enc, W_dec, b_dec, threshold, centred=False)


def of_centred(sae: Sae) -> Sae:
    """The same latents for a residual stream whose mean over d_model was not taken off. What is reconstructed is still
    the centred stream: take the mean off before comparing, as for a fraction of variance unexplained."""
    shift = sae.b_dec.mean() * sae.W_enc.sum(0) if sae.centred else 0.0
    b_mag = None if sae.b_mag is None or sae.r_mag is None else sae.b_mag - shift * sae.r_mag.exp()
    return replace(sae, W_enc=sae.W_enc - sae.W_enc.mean(0), b_enc=sae.b_enc - shift, b_mag=b_mag)


def _fetch(one: SaeEntry, folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}{TEMPORARY_SUFFIX}")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / one.folder).mkdir(parents=True)
    try:
        files = {f"{one.folder}/{file}": expected for file, expected in one.files.items()}
        about = one.model_dump(include={"repository", "revision", "licence", "size_mb", "used_for"})
        copy_from_hub(ModelEntry(**about, source="hub", files=files, chat_template="none"), temporary)
        (temporary / one.folder).rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def describe(*, name: str) -> None:
    """Fetches a registered SAE and says what it is."""
    sae = load_public(name)
    print(
        f"{name}: {sae.activation}, {sae.d_in} dimensions, {sae.d_sae} latents, {sae.about.hook} of {sae.about.model}"
    )


if __name__ == "__main__":
    run(describe)
