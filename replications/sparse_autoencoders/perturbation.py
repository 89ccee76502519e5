"""Targeted probe perturbation (TPP; Karvonen et al. 2024, 2025): do the latents of a class carry that class alone?

For each class one probe on the mean residual stream of a window, class against the rest. The n latents of a class are
those of largest |(difference of class means) x (decoder row . probe weight)| on the training windows. Setting them to
zero with the error term kept takes sum f_i W_dec_i away from the mean, as means over tokens are linear. With the fall
of accuracy dAcc(j | i) of probe j when the latents of class i are gone,

    TPP = mean_i dAcc(i | i) - mean_{j != i} dAcc(j | i).

One floor takes, for every chosen latent, one of the latents that fire about as often; another one takes coordinates
of the residual stream, chosen in the same way and set to their mean. The reference takes the one direction that the
class's own probe reads.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from replications.sparse_autoencoders.probing import Halves, balanced, fitted

PENALTY = 0.01
NEAR = 20  # latents of the nearest densities among which the floor draws


class Pooled(NamedTuple):
    """Mean activations and mean latents of windows, with the decoder rows."""

    x: Float[Tensor, "window d_model"]
    latents: Float[Tensor, "window d_sae"]
    W_dec: Float[Tensor, "d_sae d_model"]
    density: Float[Tensor, " d_sae"]


def as_coordinates(data: Pooled, split: Halves) -> Pooled:
    """Coordinates in the place of latents: what they differ by from their mean over the training windows."""
    width = data.x.shape[1]
    return Pooled(data.x, data.x - data.x[split.train].mean(0), torch.eye(width), torch.ones(width))


def as_probes(data: Pooled, found: "dict[str, Probe]", split: Halves) -> Pooled:
    """One latent for each class: the direction that its probe reads."""
    rows = torch.from_numpy(np.stack([one.weight for one in found.values()])).float()
    rows = rows / rows.norm(dim=1, keepdim=True)
    return Pooled(data.x, (data.x - data.x[split.train].mean(0)) @ rows.mT, rows, torch.ones(len(rows)))


class Probe(NamedTuple):
    """One class against the rest, in activation units."""

    weight: Float[np.ndarray, " d_model"]
    bias: float
    label: np.ndarray


def probes(x: Float[Tensor, "window d_model"], classes: list[str], split: Halves) -> dict[str, Probe]:
    """A probe for each class, fitted on the training windows."""
    found = {}
    for name in sorted(set(classes)):
        label = np.array([one == name for one in classes])
        probe, mean, scale = fitted(x.numpy()[split.train], label[split.train], PENALTY)
        weight = probe.coef_[0] / scale
        found[name] = Probe(weight, float(probe.intercept_[0] - weight @ mean), label)
    return found


def aligned(data: Pooled, probe: Probe, split: Halves, n: int) -> Int[np.ndarray, " n"]:
    """The n latents that move the probe most between its class and the rest, either way."""
    latents, label = data.latents.numpy()[split.train], probe.label[split.train]
    difference = latents[label].mean(0) - latents[~label].mean(0)
    effect = np.abs(difference * (data.W_dec.numpy() @ probe.weight))
    return np.argsort(-effect, kind="stable")[:n]


def matched(
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


def falls(
    data: Pooled, found: dict[str, Probe], sets: dict[str, Int[np.ndarray, " n"]], split: Halves
) -> Float[np.ndarray, "ablated probed"]:
    """dAcc(probed | ablated) on the test windows."""
    x, latents, W_dec = data.x.numpy()[split.test], data.latents.numpy()[split.test], data.W_dec.numpy()
    clean = {name: accuracy(x, probe, split) for name, probe in found.items()}
    rows = []
    for chosen in sets.values():
        less = x - latents[:, chosen] @ W_dec[chosen]
        rows.append([clean[name] - accuracy(less, probe, split) for name, probe in found.items()])
    return np.array(rows)


def accuracy(x: Float[np.ndarray, "test d_model"], probe: Probe, split: Halves) -> float:
    """Balanced accuracy of a probe."""
    return balanced(x @ probe.weight + probe.bias > 0, probe.label[split.test])


def tpp(fall: Float[np.ndarray, "ablated probed"]) -> float:
    """Own fall minus fall of the others."""
    own = np.eye(len(fall), dtype=bool)
    return float(fall[own].mean() - fall[~own].mean())
