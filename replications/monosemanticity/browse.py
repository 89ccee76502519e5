"""Step: writes the example page, every latent of one dictionary in a feature browser (`common.saes.browser`).

Bricken et al. 2023 publish such pages. Here each latent also carries its token set and how well that told its contexts
(`explain.py`); the set is made on half of the held-out documents and scored on the other half, while contexts come
from both.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.files import read_json, write_text
from common.core.step import Files, run_step
from common.saes.browser import SAMPLE, Texts, census, filled, page_data
from common.saes.sae import Sae
from common.saes.saelens import load_saelens
from replications.monosemanticity.dictionaries import harvest
from replications.monosemanticity.explain import explain, explanation_text, scored
from replications.monosemanticity.model import HOOK, activations, load_models
from replications.monosemanticity.settings import Measure, Measures
from replications.monosemanticity.units import Text, read_text, sparse

SHOWN = 10_000  # held-out tokens on the page
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
    stored, trained, words = load_file(files.tokens), load_models(files.models), read_json(files.vocabulary)
    page, measures, counted_tokens = files.page, settings.measures, min(settings.dictionaries.tokens, SAMPLE)
    sae = load_saelens(files.index.parent / page.stem)
    weights, windows = trained.one(0), stored["held_out"].long()
    resid = activations(weights, windows, trained.shape)
    used = torch.ones_like(windows, dtype=torch.bool)
    used[:, 0] = False
    texts = Texts(windows, torch.ones_like(used), used, stored["document"].long(), resid).first(SHOWN)
    about = {
        "sae": page.stem,
        "model": f"a one-layer transformer, seed {trained.seeds[0]}",
        "hook": HOOK,
        "architecture": sae.about.architecture,
        "effect": EFFECT,
    }
    to_logits = (weights["blocks.0.mlp.W_out"][0] @ weights["unembed.W_U"][0]).mT.contiguous()
    counted = census(sae, harvest(trained, 0, stored["train"].long(), counted_tokens, "cpu"))
    content = page_data(sae, about, counted, texts, words.__getitem__, to_logits, torch.ones(sae.d_in))
    text = read_text(stored["held_out"], stored["document"])
    content["notes"] = notes(sae, resid[:, 1:].flatten(0, 1), text, words, measures)
    write_text(page, filled(files.template.read_text("utf-8"), content))
    print(f"{page.stem}: {sae.d_sae} latents, {page.stat().st_size / 1e6:.1f} MB", flush=True)


def notes(sae: Sae, x: Float[Tensor, "token d_mlp"], text: Text, words: list[str], measures: Measures) -> list[str]:
    """For each latent its explanation, and the score of that where both halves of the documents have firings."""
    firings = sparse(lambda part: sae.encode(x[part]), len(x))
    found = explain(firings, text, len(words), measures.set_size)
    detection, _ = scored(found, firings, text, measures.context)
    score = detection.accuracy(np.ones((detection.alarms.shape[1], 1), np.float32))[:, 0]
    rare = np.minimum(firings.counts(text.scored), firings.counts(~text.scored)) < measures.least_firings
    return [
        f"explained by the tokens: {explanation_text(found, latent, words, measures.set_size)} "
        + ("(fires too rarely to be scored)" if rare[latent] else f"(detection {score[latent]:.2f})")
        for latent in range(sae.d_sae)
    ]


if __name__ == "__main__":
    run_step(browse)
