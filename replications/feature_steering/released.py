"""Step: a SAE of `config/saes.yaml` in the place of the dictionaries of `sparse_autoencoders`.

For the embedded model it is the reference dictionary, which this repository ships, for a hub model a released one.
Writes a folder of SAELens form, the same for every seed, and an index of them.
"""

import shutil
from pathlib import Path

from common.core.errors import UserError
from common.core.step import Files, RunInfo, run_step
from common.data.models import load_model
from common.saes.harvest import check_hook
from common.saes.index import Entry, write_index
from common.saes.public import entry, load_public
from common.saes.saelens import save_saelens
from replications.feature_steering.settings import Released


class ReleaseFiles(Files):
    manifest: Path
    registry: Path
    """`config/saes.yaml`: an edit there runs this step again"""
    index: Path


def release(files: ReleaseFiles, settings: Released, run: RunInfo) -> None:
    """Writes the folders of the SAE beside `index`.

    Raises:
        UserError: the SAE is of another model, or cannot be had.
    """
    model, sae = files.manifest.parent, settings.sae
    found = load_public(sae, model=model.name)
    found.check_belongs(model.name, found.about.hook)
    if entry(sae).repository is not None:
        bridge = load_model(model, device=run.device)
        check_hook(bridge, found.about.hook)
        if found.d_in != bridge.cfg.d_model:
            raise UserError(f"SAE {sae} reads {found.d_in} dimensions and {model.name} has {bridge.cfg.d_model}")
    names = [f"{sae}-s{seed}" for seed in run.seeds]
    for name in names:
        folder = files.index.parent / name
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder, ignore_errors=True)
        if name == names[0]:
            save_saelens(found, folder)
        else:
            folder.symlink_to(names[0])
    write_index(files.index, [Entry(name=name) for name in names])


if __name__ == "__main__":
    run_step(release)
