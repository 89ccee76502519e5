"""Step: writes the feature browser, one self-contained page per SAE.

What a page shows, and how: `common.saes.browser`.
"""

from pathlib import Path

from safetensors.torch import load_file

from common.core.errors import UserError
from common.core.files import write_text
from common.core.step import Files, run_step
from common.data.models import load_tokenizer
from common.interp.generation import load_writer
from common.saes.browser import SAMPLE, Texts, census, filled, output_map, page_data
from common.saes.index import read_index
from common.saes.stream import Activations

SHOWN = 10_000  # held-out tokens on a page
EFFECT = (
    "decoder row through the gain of the last norm (not its division by the token's norm) and the unembedding, in "
    "standard deviations over latents"
)


class BrowseFiles(Files):
    manifest: Path
    """of the language model"""
    index: Path
    activations: list[Path]
    """manifests of the training activations, one per hook"""
    held_out: Path
    template: Path
    """`browser.html` of `common/saes/`"""
    caption: Path
    """of the report, which shows the pages"""
    pages: list[Path]
    """their names without ending are names of SAEs"""


def browse(files: BrowseFiles) -> None:
    """Writes one page for each SAE asked for."""
    index = read_index(files.index)
    harvested = [Activations(path.parent) for path in files.activations]
    streams = {one.manifest.hook: one.first(SAMPLE) for one in harvested}
    stored = load_file(files.held_out)
    tokenizer, model = load_tokenizer(files.manifest.parent), load_writer(files.manifest.parent)
    unembedding, gain = output_map(model)
    for page in files.pages:
        sae = index.load(page.stem)
        if sae.about.hook not in streams:
            raise UserError(f"'{page.stem}' reads {sae.about.hook}, of which no activations were given")
        sae.check_belongs(files.manifest.parent.name, sae.about.hook)
        layer = sae.about.hook.split(".")[1]
        texts = Texts(*(stored[key] for key in ("tokens", "real", "used", "document", f"resid.{layer}"))).first(SHOWN)
        found = census(sae, streams[sae.about.hook])
        about = {
            "sae": page.stem,
            "model": sae.about.model,
            "hook": sae.about.hook,
            "architecture": sae.about.architecture,
            "effect": EFFECT,
        }
        content = page_data(sae, about, found, texts, lambda one: str(tokenizer.decode([one])), unembedding, gain)
        write_text(page, filled(files.template.read_text("utf-8"), content))
        print(f"{page.stem}: {sae.d_sae} latents, {page.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    run_step(browse)
