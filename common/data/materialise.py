"""Step: turns a registered model into a Hugging Face folder with safetensors, tokenizer and a manifest of hashes.

Four sources, one result. `package`: a GGUF file inside an installed package is de-quantised to float32. `hub`: the
files that the registry lists, at a pinned revision, each checked against its SHA-256. `trained` and `local`: a folder,
copied. Nothing is unpickled and no code from a model is run.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

HUB = os.environ.get("HUB") == "1"
os.environ["HF_HUB_OFFLINE"] = "0" if HUB else "1"  # before any import that reads it

from common.core.errors import UserError  # noqa: E402
from common.core.files import TEMPORARY_SUFFIX, sha256, write_json  # noqa: E402
from common.core.settings import Strict  # noqa: E402
from common.core.step import Files, run_step  # noqa: E402
from common.data.models import (  # noqa: E402
    Manifest,
    ModelEntry,
    check_file,
    check_weights,
    entry,
    own_folder,
    verify_folder,
)

KEPT = (".safetensors", ".json", ".txt", ".jinja", ".model")


class MaterialiseFiles(Files):
    manifest: Path
    """of the folder, written last"""


class Model(Strict):
    """A registered model. The entry makes a changed one be made anew."""

    name: str
    entry: ModelEntry


def materialise_model(files: MaterialiseFiles, settings: Model) -> None:
    """Writes the folder of a registered model; see `materialise`."""
    materialise(settings.name, files.manifest)


def materialise(name: str, out: Path) -> None:
    """Writes the folder of `out` (a `manifest.json`) for the registered model `name`.

    Raises:
        UserError: unknown model, missing package or folder, wrong hash, unreachable hub, too little disk space.
    """
    model = entry(name)
    target = out.parent
    with _alone(target):
        if out.exists():  # another run has just made it
            verify_folder(target)
        else:
            _make(name, model, out)


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Waits until no other run, of another scale perhaps, makes the same model."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _make(name: str, model: ModelEntry, out: Path) -> None:
    target = out.parent
    temporary = target.with_name(f".{target.name}{TEMPORARY_SUFFIX}")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a kill
    temporary.mkdir(parents=True)
    try:
        _need_space(temporary, model.size_mb)
        makers = {"package": _package, "hub": copy_from_hub, "trained": _folder, "local": _folder}
        origin, processing = makers[model.source](model, temporary)
        check_weights(name, temporary)
        files = {path.name: sha256(path) for path in sorted(temporary.iterdir())}
        manifest = Manifest(
            name=name, source=model.source, origin=origin, licence=model.licence, processing=processing, files=files
        )
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    write_json(out, manifest.model_dump())


def _need_space(folder: Path, size_mb: int) -> None:
    free = shutil.disk_usage(folder).free / 1e6
    if free < size_mb:
        raise UserError(
            f"the disk is too full: {folder.parent} has {free:.0f} MB free and the model needs {size_mb} MB; "
            "free some space and run `make resume`"
        )


def _package(model: ModelEntry, folder: Path) -> tuple[str, str]:
    """De-quantises a GGUF file. transformers marks the loaded model as quantised and refuses to save it, hence the
    copy of its state into a fresh float32 model."""
    spec = util.find_spec(str(model.package))
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"package {model.package} is not installed; run `make clean-env` and then `make`")
    package = Path(spec.submodule_search_locations[0])
    distribution = str(model.package).replace("_", "-")
    if (found := metadata.version(distribution)) != model.version:
        raise UserError(
            f"{distribution} {found} is installed, the registry names {model.version}; run `make clean-env`"
        )
    [(file, expected)] = model.files.items()
    check_file(package / file, expected, remedy="run `make clean-env` and then `make`")

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quantised = AutoModelForCausalLM.from_pretrained(package, gguf_file=file, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(package, gguf_file=file).save_pretrained(folder)
    return f"{distribution} {model.version}: {file}", "4-bit weights de-quantised to float32, otherwise as stored"


def copy_from_hub(model: ModelEntry, folder: Path) -> tuple[str, str]:
    """Copies the files of an entry, each checked against its SHA-256; says where they are from and what was done.

    Raises:
        UserError: the hub is switched off, out of reach or gated, or a file is not the pinned one.
    """
    if not HUB:
        raise UserError(
            f"{model.repository} comes from a model hub, which is switched off; "
            "run `make HUB=1 ...` on a machine that reaches a hub, or leave the model out"
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
    from transformers import AutoConfig, AutoTokenizer

    assert model.repository
    assert model.revision
    for file, expected in model.files.items():
        try:
            cached = hf_hub_download(model.repository, file, revision=model.revision)
        except GatedRepoError:
            raise UserError(
                f"{model.repository} is gated: accept its licence on the hub and set HF_TOKEN, or leave the model out"
            ) from None
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UserError(
                f"the hub did not give {model.repository}/{file} at {model.revision[:12]} ({type(error).__name__}); "
                "check the network, or run without HUB=1"
            ) from None
        check_file(Path(cached), expected, remedy="delete it from the hub cache and run again")
        shutil.copyfile(cached, folder / file)
    if model.config is not None:
        settings = dict(model.config)
        AutoConfig.for_model(settings.pop("model_type"), **settings).save_pretrained(folder)
        if not (folder / "tokenizer.json").exists():
            AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return f"{model.repository}@{model.revision}", "weights as stored"


def _folder(model: ModelEntry, folder: Path) -> tuple[str, str]:
    origin = own_folder(model)
    for file, expected in model.files.items():
        check_file(origin / file, expected, remedy="correct config/models.yaml or restore the file")
    for path in sorted(origin.iterdir()):
        if path.suffix in KEPT and path.name != "manifest.json":
            shutil.copyfile(path, folder / path.name)
    return str(model.folder), "weights as stored"


if __name__ == "__main__":
    run_step(materialise_model)
