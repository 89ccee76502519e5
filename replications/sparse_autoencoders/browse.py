"""Step: writes the feature browser, one self-contained page per SAE.

What a page shows, and how: `common.saes.browser`.
"""

from pathlib import Path

from safetensors.torch import load_file

from common.core.errors import UserError
from common.core.files import read_json, write_text
from common.core.step import run
from common.data.models import load_tokenizer
from common.interp.generation import load_writer
from common.saes.browser import SAMPLE, Texts, census, filled, output_map, page_data
from common.saes.saelens import load_saelens
from common.saes.stream import Activations

SHOWN = 10_000  # held-out tokens on a page
EFFECT = (
    "decoder row through the gain of the last norm (not its division by the token's norm) and the unembedding, in "
    "standard deviations over latents"
)


def browse(
    *, manifest: Path, index: Path, activations: list[Path], held_out: Path, template: Path, pages: list[Path]
) -> None:
    """Writes one page for each of `pages`, whose names without ending are names of SAEs.

    Args:
        manifest: of the language model.
        index: `index.json` of the trained SAEs, whose folders lie beside it.
        activations: manifests of the training activations, one per hook.
        held_out: windows with their residual stream.
        template: `browser.html` of `common/saes/`.
    """
    listed = {one["name"]: one for one in read_json(index)}
    harvested = [Activations(path.parent) for path in activations]
    streams = {one.manifest.hook: one.first(SAMPLE) for one in harvested}
    stored = load_file(held_out)
    tokenizer, model = load_tokenizer(manifest.parent), load_writer(manifest.parent)
    unembedding, gain = output_map(model)
    for page in pages:
        if page.stem not in listed:
            raise UserError(f"no SAE '{page.stem}' in {index.parent}; there are {', '.join([*listed][:6])}, ...")
        sae = load_saelens(index.parent / page.stem)
        if sae.about.hook not in streams:
            raise UserError(f"'{page.stem}' reads {sae.about.hook}, of which no activations were given")
        sae.check_belongs(manifest.parent.name, sae.about.hook)
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
        write_text(page, filled(template.read_text("utf-8"), content))
        print(f"{page.stem}: {sae.d_sae} latents, {page.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    run(browse)
