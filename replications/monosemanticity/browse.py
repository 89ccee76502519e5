"""Step: writes the example page, every latent of one dictionary in a feature browser (`common.saes.browser`).

Bricken et al. 2023 publish such pages. Here each latent also carries the tokens on which it fires and how well these
predict it (`explain.py`).
"""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.files import write_text
from common.core.step import Files, run_step
from common.saes.browser import SAMPLE, Texts, census, filled, page_data
from common.saes.sae import Sae
from common.saes.saelens import load_saelens
from replications.monosemanticity.dictionaries import harvest
from replications.monosemanticity.explain import distinguishing_tokens, explained
from replications.monosemanticity.held_out import HeldOut, read_held_out, read_words, visible
from replications.monosemanticity.model import HOOK, load_models, read
from replications.monosemanticity.settings import Measure
from replications.monosemanticity.units import living

SHOWN = 10_000  # held-out tokens on the page
WORDS = 8
EFFECT = (
    "decoder row through the output matrix of the MLP and the unembedding (not the last norm's division), in standard "
    "deviations over latents"
)


class BrowseFiles(Files):
    tokens: Path
    vocabulary: Path
    models: Path
    index: Path
    template: Path
    """`browser.html` of `common/saes/`"""
    caption: Path
    page: Path
    """named after a dictionary on the first model"""


def browse(files: BrowseFiles, settings: Measure) -> None:
    """Writes the page of one dictionary; firings are counted on at most `SAMPLE` training activations."""
    trained, words, text = load_models(files.models), read_words(files.vocabulary), read_held_out(files.tokens)
    page, counted_tokens = files.page, min(settings.dictionaries.tokens, SAMPLE)
    sae = load_saelens(files.index.parent / page.stem)
    stored = load_file(files.tokens)
    about = {
        "sae": page.stem,
        "model": f"a one-layer transformer, seed {trained.seeds[0]}",
        "hook": HOOK,
        "architecture": sae.about.architecture,
        "effect": EFFECT,
    }
    reading = read(trained.one(0), text.windows, trained.shape)
    to_logits = (reading.to_middle @ reading.to_logits).mT.contiguous()
    counted = census(sae, harvest(trained, 0, stored["train"].long(), counted_tokens, "cpu"))
    texts = shown(stored["document"].long(), text, reading.x)
    content = page_data(sae, about, counted, texts, words.__getitem__, to_logits, torch.ones(sae.d_in))
    content["notes"] = notes(sae, reading.x, text, words, settings.measures.least_firings)
    write_text(page, filled(files.template.read_text("utf-8"), content))
    print(f"{page.stem}: {sae.d_sae} latents, {page.stat().st_size / 1e6:.1f} MB", flush=True)


def shown(document: Tensor, text: HeldOut, x: Float[Tensor, "token d_mlp"]) -> Texts:
    """The windows of the page; both ends of each are text without activations."""
    used = torch.zeros_like(text.windows, dtype=torch.bool)
    used[:, 1:-1] = True
    resid = torch.zeros(*text.windows.shape, x.shape[1])
    resid[:, 1:-1] = rearrange(x, "(window pos) d_mlp -> window pos d_mlp", pos=text.wide)
    return Texts(text.windows, torch.ones_like(used), used, document, resid).first(SHOWN)


def notes(sae: Sae, x: Float[Tensor, "token d_mlp"], text: HeldOut, words: list[str], least: int) -> list[str]:
    """For each latent its tokens, and how well they predict it where both halves of the documents have firings."""
    activations = sae.encode(x)
    score, alive = explained(activations, text).all, living(activations, text, least)
    return [
        "fires on the tokens: "
        + "  ".join(visible(one) for one in distinguishing_tokens(activations[:, unit] > 0, text, words, WORDS))
        + (f" (correlation with prediction {score[unit]:.2f})" if alive[unit] else " (fires too rarely to be scored)")
        for unit in range(sae.d_sae)
    ]


if __name__ == "__main__":
    run_step(browse)
