"""What is compared: latents, neurons, rotated neurons, latents of the untrained network, random rows.

A TopK latent fires on few tokens, a ReLU neuron on many. Neither must look better for its rate alone. So
`rate_matched_neurons` and `rotated_neurons` fire where they exceed the quantile that gives them the rate of a latent.
The busiest neuron has that of the busiest latent, and so on. Every kind keeps only units that fire on enough tokens.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.core.errors import UserError
from common.saes.index import Index
from common.saes.sae import Sae
from replications.monosemanticity.held_out import HeldOut
from replications.monosemanticity.model import Models, Reading, read

LATENTS = "latents"
ROTATION_SEED = 7_000


class Kind(NamedTuple):
    """Units of one kind: activations, directions among the neurons, and the model that they belong to."""

    activations: Float[Tensor, "token unit"]
    rows: Float[Tensor, "unit d_mlp"]
    reading: Reading


class Encoded(NamedTuple):
    """A dictionary and its latents on the held-out tokens."""

    sae: Sae
    latents: Float[Tensor, "token d_sae"]


class Subject(NamedTuple):
    """One model, the same model before training, and the dictionaries of both, named `<kind>-<width>`."""

    seed: int
    own: Reading
    before: Reading
    encoded: dict[str, Encoded]


def read_subject(models: Models, place: int, index: Index, text: HeldOut) -> Subject:
    """Runs one model and all of its dictionaries over the held-out text, once."""
    seed, encoded = models.seeds[place], {}
    own, before = (read(one.one(place), text.windows, models.shape) for one in (models, models.untrained()))
    for name, entry in index.entries.items():
        if name.endswith(f"-s{seed}"):
            sae = index.load(name)
            x = before.x if entry.kind == "untrained" else own.x
            encoded[name.removesuffix(f"-s{seed}")] = Encoded(sae, sae.encode(x))
    return Subject(seed, own, before, encoded)


def made_kinds(subject: Subject, width: int, text: HeldOut, least: int) -> dict[str, Kind]:
    """All kinds of unit of one model. UserError if a kind has no unit that fires often enough."""
    own, before = subject.own, subject.before
    trained, start, untrained = (subject.encoded[f"{kind}-{width}"] for kind in ("trained", "start", "untrained"))
    rates = trained.latents.gt(0).float().mean(0).numpy()
    turn, eye = rotation(own.x.shape[1], ROTATION_SEED + subject.seed), torch.eye(own.x.shape[1])
    kinds = {
        LATENTS: Kind(trained.latents, trained.sae.W_dec, own),
        "untrained_network": Kind(untrained.latents, untrained.sae.W_dec, before),
        "neurons": Kind(own.x, eye, own),
        "rate_matched_neurons": Kind(at_rates(own.x, rates), eye, own),
        "rotated_neurons": Kind(at_rates(own.x @ turn, rates), turn.mT, own),
        "random_rows": Kind(start.latents, start.sae.W_dec, own),
    }
    return {name: _living(name, kind, text, least) for name, kind in kinds.items()}


def living(activations: Float[Tensor, "token unit"], text: HeldOut, least: int) -> Bool[Tensor, " unit"]:
    """Units that fire often enough on both halves of the documents."""
    fires = activations > 0
    return (fires[text.scored].sum(0) >= least) & (fires[~text.scored].sum(0) >= least)


def _living(name: str, kind: Kind, text: HeldOut, least: int) -> Kind:
    alive = living(kind.activations, text, least)
    if not bool(alive.any()):
        raise UserError(f"none of the {name} fires {least} times on each half of the documents; lower 'least_firings'")
    return kind._replace(activations=kind.activations[:, alive], rows=kind.rows[alive])


def at_rates(x: Float[Tensor, "token unit"], rates: Float[np.ndarray, " rate"]) -> Float[Tensor, "token unit"]:
    """What each unit exceeds its own quantile by; rates are handed out by rank of P(x > 0)."""
    rank = np.argsort(np.argsort(-x.gt(0).float().mean(0).numpy(), kind="stable"), kind="stable")
    wanted = np.interp(rank / max(1, len(rank) - 1), np.linspace(0, 1, len(rates)), np.sort(rates)[::-1])
    columns = x.mT.contiguous().numpy()
    last = np.clip(len(x) - 1 - np.round(wanted * len(x)).astype(int), 0, len(x) - 2)
    bound = torch.tensor([np.partition(column, at)[at] for column, at in zip(columns, last, strict=True)])
    return (x - bound).relu()


def rotation(d: int, seed: int) -> Float[Tensor, "d d"]:
    """A random orthogonal matrix."""
    drawn = torch.randn(d, d, generator=torch.Generator().manual_seed(seed))
    q, r = torch.linalg.qr(drawn)
    found: Tensor = q * r.diagonal().sign()
    return found


def purity(activations: Float[Tensor, "token unit"], text: HeldOut, top: int) -> float:
    """Mean over units of the share of the commonest token among the tokens that excite a unit most."""
    tokens = text.token[activations.topk(min(top, len(activations)), dim=0).indices]
    commonest = tokens.mode(0).values
    return float((tokens == commonest).double().mean())


def left_start(trained: Sae, start: Sae) -> float:
    """Median cosine of decoder rows with what they were before training."""
    return float(torch.cosine_similarity(trained.W_dec, start.W_dec).median())
