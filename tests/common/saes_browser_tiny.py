"""A tiny SAE with planted latents and hostile text, for the tests of the feature browser."""

import torch

from common.saes.browser import Texts, census, page_data
from common.saes.sae import About, Sae

WORDS = ["the", " cat", "</script><script>window.hacked = 1</script>", " <b>dog</b>", "\n", " &amp;", '"]}', " end"]
D = len(WORDS)
ABOUT = {
    "sae": "tiny-<i>k1</i>", "model": "m", "hook": "blocks.1.hook_resid_pre", "architecture": "topk",
    "effect": "decoder row <i>times</i> unembedding",
}  # fmt: skip


def tiny_sae() -> Sae:
    """Latent i fires on token i with its value; latent 8 fires on tokens 0 and 1, half as much; latent 9 never."""
    rows = torch.cat([torch.eye(D), torch.eye(D)[:2].sum(0, keepdim=True) / 2, -torch.eye(D)[:1]])
    return Sae(About("relu"), "relu", rows.T.contiguous(), torch.zeros(D + 2), rows.clone(), torch.zeros(D))


def tiny_texts() -> Texts:
    """Three windows of two documents; one-hot activations, stronger in later windows."""
    tokens = torch.tensor([[0, 1, 2, 3, 4, 5], [6, 7, 0, 1, 0, 0], [2, 3, 2, 1, 0, 7]])
    real = torch.ones_like(tokens, dtype=torch.bool)
    real[1, 4:] = False
    used = real.clone()
    used[:, 0] = False
    resid = torch.nn.functional.one_hot(tokens, D).float() * torch.tensor([1.0, 2.0, 4.0])[:, None, None]
    return Texts(tokens, real, used, torch.tensor([3, 3, 4]), resid)


def tiny_data() -> dict:
    sae, texts = tiny_sae(), tiny_texts()
    found = census(sae, texts.resid[texts.used])
    data = page_data(sae, ABOUT, found, texts, WORDS.__getitem__, torch.eye(D), torch.ones(D))
    return {**data, "raised": [row[:1] for row in data["raised"]]}  # so that a search does not find every latent
