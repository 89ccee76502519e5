"""What the loss becomes when the MLP's activations are replaced by reconstructions.

Bricken et al. 2023 state the loss recovered against an MLP that is ablated to zero. Replacements that know no features
are fitted on the documents that are not judged. They are as many principal components or largest neurons as a token has
latents, the mean activation, and random rows. Random rows are a dictionary before its first step, rescaled to fit. The
mean activation at each token or pair of tokens of the training text knows nothing but these.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from common.saes.metrics import fvu, l0, principal
from common.saes.sae import Sae
from replications.monosemanticity.explain import PairTable
from replications.monosemanticity.held_out import HeldOut
from replications.monosemanticity.model import Reading
from replications.monosemanticity.units import Encoded

Row = dict[str, Any]
CONTROLS = {
    "token_means": "token",
    "pair_means": "pair",
    "principal_components": "components",
    "largest_neurons": "neurons",
    "mean_activation": "mean",
}
FLOOR = 0.02  # nats, least cost of an ablation


def losses_by_way(
    reading: Reading, encoded: Mapping[str, Encoded], k: int, text: HeldOut, table: PairTable
) -> list[Row]:
    """One row per way, on the judged documents: cross-entropy, variance unexplained, L0, latents that never fire.

    `encoded` are named `<kind>-<width>`; those of the kind `start` are rescaled. `table`: mean activations.
    """
    fit, judged = reading.x[~text.scored], text.scored
    x = reading.x[judged]
    mean, axes = principal(fit)
    previous, token = text.previous[judged], text.token[judged]
    found: dict[str, Float[Tensor, "token d_mlp"]] = {
        "clean": x,
        "zero": torch.zeros_like(x),
        "mean": mean.expand_as(x),
        "components": (x - mean) @ axes[:, :k] @ axes[:, :k].mT + mean,
        "neurons": largest(x, mean, k),
        "token": table.at(previous, token, pairs=False),
        "pair": table.at(previous, token),
    }
    about: dict[str, Row] = {}
    for name, (sae, latents) in encoded.items():
        found[name] = sae.decode(latents[judged])
        if name.startswith("start"):
            found[name] = sae.b_dec + scale(sae, latents[~judged], fit) * (found[name] - sae.b_dec)
        dead = float((latents[judged] == 0).all(0).double().mean())
        about[name] = {"width": sae.d_sae, "l0": l0(latents[judged]), "dead": dead}
    part = reading._replace(middle=reading.middle[judged])
    return [
        {"name": name, "ce": float(part.losses(own, text.following[judged]).mean()), "fvu": fvu(x, own)}
        | about.get(name, {})
        for name, own in found.items()
    ]


def largest(x: Float[Tensor, "token d_mlp"], mean: Float[Tensor, " d_mlp"], k: int) -> Float[Tensor, "token d_mlp"]:
    """Keeps the k neurons farthest from their mean."""
    apart = x - mean
    kept = apart.abs().topk(min(k, x.shape[1]), dim=1).indices
    return mean + torch.zeros_like(x).scatter(1, kept, apart.gather(1, kept))


def scale(sae: Sae, latents: Float[Tensor, "token d_sae"], x: Float[Tensor, "token d_mlp"]) -> float:
    """The factor on the distance from b_dec with which reconstructions fit best."""
    apart = sae.decode(latents) - sae.b_dec
    return float((apart * (x - sae.b_dec)).sum() / apart.square().sum().clamp(min=1e-12))


def recovered(rows: list[Row], name: str, ablation: str = "zero") -> float:
    """(CE ablated - CE replaced) / (CE ablated - CE clean); models that are hardly trained may lose nothing."""
    ce = {str(row["name"]): float(row["ce"]) for row in rows}
    return (ce[ablation] - ce[name]) / max(ce[ablation] - ce["clean"], FLOOR)
