"""Step: a released SAE in the place of the dictionaries of `sparse_autoencoders`, for a hub model that has one.

Writes a folder of SAELens form for the registered SAE, the same for every seed, an index of them, and the activations
of the training texts on which its latents' largest values and densities are measured. Texts begin with the token that
begins raw text, since released models were trained with it; that position is dropped.
"""

import shutil
from pathlib import Path

import torch

from common.core.errors import UserError
from common.core.files import write_json
from common.core.step import Files, RunInfo, run_step
from common.data.models import fast_dtype, load_model, load_tokenizer
from common.saes.harvest import Windows, check_hook, harvest, windows
from common.saes.public import load_public
from common.saes.saelens import save_saelens
from common.saes.stream import write_shards
from replications.feature_steering.concepts import start
from replications.feature_steering.settings import Released

TOKENS, WINDOW, BATCH = (200_000, 50_000), 128, 32  # of documentation and of chat; tokens of a text; texts in a pass


class ReleaseFiles(Files):
    manifest: Path
    docs: Path
    chat: Path
    registry: Path
    """`config/saes.yaml`: an edit there runs this step again"""
    index: Path
    activations: Path
    """manifest of the shards"""


def release(files: ReleaseFiles, settings: Released, run: RunInfo) -> None:
    """Writes the folders of the SAE beside `index`, and shards of activations beside `activations`.

    Raises:
        UserError: the SAE is of another model, or cannot be had.
    """
    model, sae = files.manifest.parent, settings.sae
    found, tokenizer = load_public(sae, model=model.name), load_tokenizer(model)
    found.check_belongs(model.name, found.about.hook)
    bridge = load_model(model, device=run.device, dtype=fast_dtype())
    check_hook(bridge, found.about.hook)
    if found.d_in != bridge.cfg.d_model:
        raise UserError(f"SAE {sae} reads {found.d_in} dimensions and {model.name} has {bridge.cfg.d_model}")
    texts = begun(
        windows([files.docs.parent, files.chat.parent], "train", tokenizer, WINDOW, list(TOKENS)), start(tokenizer)
    )
    special, hook = sorted(set(tokenizer.all_special_ids)), found.about.hook
    kept = harvest(bridge, texts, [hook], special, BATCH, run.device)[hook]
    about = {
        "model": model.name,
        "hook": hook,
        "corpora": [files.docs.parent.name, files.chat.parent.name],
        "dropped": kept.dropped,
    }
    write_shards(files.activations.parent, kept.x, kept.document, kept.token_id, about=about)
    names = [f"{sae}-s{seed}" for seed in run.seeds]
    for name in names:
        folder = files.index.parent / name
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder, ignore_errors=True)
        if name == names[0]:
            save_saelens(found, folder)
        else:
            folder.symlink_to(names[0])
    write_json(files.index, [{"name": name} for name in names])


def begun(texts: Windows, first: int) -> Windows:
    """The same windows behind the token `first`."""
    column = torch.full((len(texts.tokens), 1), first)
    real = torch.cat([torch.ones_like(column, dtype=torch.bool), texts.real], 1)
    return Windows(torch.cat([column, texts.tokens], 1), real, texts.document)


if __name__ == "__main__":
    run_step(release)
