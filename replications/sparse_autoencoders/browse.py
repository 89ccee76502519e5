"""Step: writes the feature browser, one self-contained page per SAE.

The page holds its data as JSON and a short script without any library (`browser.html`, next to this file); it opens
from disk and asks nothing of a network. Text of the corpus reaches the page as text nodes only.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from common.cli import run
from common.errors import UserError
from common.files import read_json, write_text
from common.models import load_tokenizer
from common.saes.saelens import load_saelens
from common.saes.stream import Activations
from common.steering import load_writer
from replications.sparse_autoencoders.browser_data import Texts, census, page_data

MARK = "__DATA__"
SHOWN = 10_000  # held-out tokens on a page
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def browse(
    *, manifest: Path, index: Path, activations: list[Path], held_out: Path, template: Path, pages: list[Path]
) -> None:
    """Writes one page for each of `pages`, whose names without ending are names of SAEs.

    Args:
        manifest: of the language model.
        index: `index.json` of the trained SAEs, whose folders lie beside it.
        activations: manifests of the training activations, one per hook.
        held_out: windows with their residual stream.
        template: the HTML file with the script.
    """
    listed = {one["name"]: one for one in read_json(index)}
    streams = {read_json(path)["hook"]: path.parent for path in activations}
    stored = load_file(held_out)
    tokenizer, model = load_tokenizer(manifest.parent), load_writer(manifest.parent)
    norm = getattr(model.base_model, "norm", None) or getattr(model.base_model, "ln_f", None)
    unembedding = model.get_output_embeddings().weight.detach().float()
    gain = torch.ones(unembedding.shape[1]) if norm is None else norm.weight.detach().float()
    for page in pages:
        if page.stem not in listed:
            raise UserError(f"no SAE '{page.stem}' in {index.parent}; there are {', '.join([*listed][:6])}, ...")
        sae = load_saelens(index.parent / page.stem)
        if sae.about.hook not in streams:
            raise UserError(f"'{page.stem}' reads {sae.about.hook}, of which no activations were given")
        sae.check_belongs(manifest.parent.name, sae.about.hook)
        layer = sae.about.hook.split(".")[1]
        texts = Texts(*(stored[key] for key in ("tokens", "real", "used", "document", f"resid.{layer}"))).first(SHOWN)
        found = census(sae, Activations(streams[sae.about.hook]).x)
        about = {
            "sae": page.stem,
            "model": sae.about.model,
            "hook": sae.about.hook,
            "architecture": sae.about.architecture,
        }
        content = page_data(sae, about, found, texts, lambda one: str(tokenizer.decode([one])), unembedding, gain)
        write_text(page, filled(template.read_text("utf-8"), content))
        print(f"{page.stem}: {sae.d_sae} latents, {page.stat().st_size / 1e6:.1f} MB", flush=True)


def filled(template: str, content: dict[str, Any]) -> str:
    """The page. What could end the script element or start a tag is written as an escape of JSON."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in UNSAFE.items():
        text = text.replace(character, escape)
    before, after = template.split(MARK)
    return before + text + after


if __name__ == "__main__":
    run(browse)
