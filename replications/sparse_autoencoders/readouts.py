"""What is read off an activation: latents, random latents of matched density, principal components, coordinates.

A random dictionary has rows with the mean and covariance of the SAE's decoder rows (`matching.random_like`), and for
each latent a threshold at which it fires as often as that latent does: everything of the SAE but the directions. It
serves as the untrained SAE too.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.saes.harvest import OUTLIER, batched, check_hook, kept_tokens, run_to_hook
from common.saes.metrics import principal
from common.saes.sae import About, Sae
from replications.sparse_autoencoders.matching import random_like
from replications.sparse_autoencoders.texts import Padded

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Read = Callable[[Float[Tensor, "*n d_model"]], Float[Tensor, "*n feature"]]
CHUNK = 64  # windows
NEAR = 20  # latents of the nearest densities among which `density_matched` draws


def random_sae(sae: Sae, x: Float[Tensor, "token d_model"], seed: int) -> Sae:
    """Random unit rows, firing on `x` as often as the latents of `sae` do."""
    rows, _ = random_like((sae.W_dec, sae.W_enc.mT), seed)
    rows = rows / rows.norm(dim=1, keepdim=True)
    mean = x.mean(0)
    fires = (sae.encode(x) > 0).sum(0)
    ordered = torch.from_numpy(np.sort(((x - mean) @ rows.mT).mT.numpy(), axis=1))  # numpy sorts four times as fast
    ordered = torch.cat([ordered[:, :1] - 1, ordered], 1)
    threshold = torch.where(fires > 0, ordered.gather(1, len(x) - fires[:, None])[:, 0], torch.inf).clamp(min=0)
    bias = torch.zeros(len(rows))
    return Sae(About("random"), "jumprelu", rows.mT.contiguous(), bias, rows, mean, threshold=threshold)


def components(x: Float[Tensor, "token d_model"]) -> Read:
    """Scores of all principal components."""
    mean, axes = principal(x)
    return lambda activations: (activations - mean) @ axes


def coordinates(x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
    """The neurons of the residual stream: its coordinates as they are."""
    return x


@torch.inference_mode()
def residual(
    bridge: "TransformerBridge", windows: Padded, hook: str, special: list[int], batch: int, device: str
) -> tuple[Float[Tensor, "window pos d_model"], Bool[Tensor, "window pos"]]:
    """The residual stream at a hook in float32, and which positions SAEs are trained on (see `common.saes.harvest`)."""
    layers = {hook: check_hook(bridge, hook)}
    parts = []
    for rows in batched(len(windows.tokens), batch):
        tokens, real = windows.tokens[rows].to(device), windows.real[rows].to(device)
        parts.append(run_to_hook(bridge, tokens, real, layers)[hook].float().cpu())
    resid = torch.cat(parts)
    used = windows.real & ~torch.stack(list(kept_tokens(windows.tokens, windows.real, special).values())).any(0)
    norm = resid.norm(dim=-1)
    return resid, used & (norm <= OUTLIER * norm[used].median())


@torch.inference_mode()
def pooled(
    read: Read, resid: Float[Tensor, "window pos d_model"], masks: list[Bool[Tensor, "window pos"]]
) -> list[Float[Tensor, "window feature"]]:
    """Means of what is read over the tokens of each mask; 0 where a mask is empty."""
    found: list[list[Tensor]] = [[] for _ in masks]
    for rows in batched(len(resid), CHUNK):
        values = read(resid[rows])
        for place, mask in enumerate(masks):
            weight = mask[rows].float()
            weight = weight / weight.sum(1, keepdim=True).clamp(min=1)
            found[place].append(torch.einsum("wpf,wp->wf", values, weight))
    return [torch.cat(parts) for parts in found]


def density_matched(
    densities: Float[Tensor, " d_sae"], chosen: Int[np.ndarray, " n"], dice: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """For each chosen latent another one that fires about as often; no latent twice, as long as there are enough."""
    density = densities.numpy()
    taken = set(chosen.tolist())
    found = []
    for latent in chosen.tolist():
        order = np.argsort(np.abs(density - density[latent]), kind="stable")
        free = [one for one in order.tolist() if one not in taken and density[one] > 0]
        found.append(int(dice.choice((free or order.tolist())[:NEAR])))
        taken.add(found[-1])
    return np.array(found)
