"""Mean head outputs over the ABC prompts of each template: what stands in for a head that is knocked out."""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from common.interp.decoder import Decoder
from replications.ioi_circuit.batches import Batch, by_template
from replications.ioi_circuit.dataset import Prompt

Means = dict[int, Float[Tensor, "layer pos head d_head"]]
"""By template."""


def template_means(decoder: Decoder, prompts: list[Prompt], most: int | None = None) -> Means:
    """Means over the ABC partners of all prompts of each template, or of the first `most`."""
    means = {}
    for group in by_template(prompts):
        batch = Batch(group[:most], decoder.W_O[0].device.type)
        cache = decoder.forward(batch.tokens("abc"), batch.mask, keep=True)
        means[group[0].template] = torch.stack([z.mean(0) for z in cache.z])
    return means


def read_means(activations: Path, device: str, *, few: bool = False) -> Means:
    """Mean head outputs over the ABC prompts of each template, or over the first few of them."""
    prefix = "mean_few." if few else "mean."
    with safe_open(activations, framework="pt") as stored:
        names = [name for name in stored.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {int(name.removeprefix(prefix)): stored.get_tensor(name).to(device) for name in names}
