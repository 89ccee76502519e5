"""What a reconstruction is worth on held-out activations, as far as no language model is needed for it."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.statistics import over_clusters
from common.saes.harvest import CORPUS
from common.saes.metrics import FORMULAS, principal
from common.saes.sae import Sae
from common.saes.stream import Activations
from replications.sparse_autoencoders.baselines import AT_ONCE
from replications.sparse_autoencoders.substitution import HeldOut

Sums = tuple[Float[np.ndarray, " token"], Float[np.ndarray, " token"]]
"""Squared error and squared distance from the mean, token by token."""
CORPORA = ("python_docs", "self_chat")  # as `collect` reads them
TRAIN_SAMPLE = 8192  # activations of the first training steps, on which the gap to held-out ones is measured
TOP = 3  # principal components without which fvu is stated again


class Judge:
    """Rows of the table; what does not depend on the reconstruction is computed once. Sums are float64."""

    def __init__(self, held: HeldOut, data: Activations) -> None:
        self.x, self.documents = held.activations(), held.documents()
        trained = data._order(0, 0)[:TRAIN_SAMPLE]  # a short run does not come to all of the stream
        self.seen, self.seen_documents = data.rows(trained), data.document[trained].numpy()
        self.axes = principal(self.x)[1][:, :TOP].double()
        away = self.x.double() - self.x.double().mean(0)
        self.below = away.square().sum(1).numpy()
        self.rest = self.below.sum() - float((away @ self.axes).square().sum())
        seen = self.seen.double()
        self.seen_total = float((seen - seen.mean(0)).square().sum())

    def sae(self, sae: Sae) -> tuple[dict[str, Any], Sums]:
        """A row of the table, and numerators and denominators of fvu per token."""
        parts = []
        fires = torch.zeros(sae.d_sae)
        for x in torch.split(self.x, AT_ONCE):
            latents = sae.encode(x)
            parts.append(sae.decode(latents, x))
            fires += (latents != 0).sum(0)
        found = torch.cat(parts)
        row, sums = self.reconstruction(found)
        again = torch.cat([sae.reconstruct(x) for x in torch.split(self.seen, AT_ONCE)])
        apart = (self.seen - again).double()
        row |= by_corpus("fvu", self.x, self.x - found, self.documents)
        row |= by_corpus("fvu_train", self.seen, apart, self.seen_documents)
        return {
            "architecture": sae.about.architecture,
            "width": sae.d_sae,
            "k": sae.about.sparsity,
            "seed": sae.about.seed,
            "l0": float(fires.double().sum()) / len(self.x),
            **row,
            "fvu_train": dot(apart, apart) / self.seen_total,
            "dead": float((fires == 0).float().mean()),
        }, sums

    def reconstruction(self, found: Float[Tensor, "token d_model"]) -> tuple[dict[str, float], Sums]:
        """Quality of a reconstruction, with an interval over documents."""
        x, found = self.x.double(), found.double()
        error = x - found
        above = error.square().sum(1).numpy()
        fvu = over_clusters(above, self.documents, unit="share", formula=FORMULAS["fvu"], denominators=self.below)
        rest = above.sum() - float((error @ self.axes).square().sum())
        cross = dot(x, found)
        row = {"fvu": fvu.value, "fvu_low": fvu.ci_low, "fvu_high": fvu.ci_high}
        row |= {"mse": float(above.mean()), "cosine": float(torch.cosine_similarity(x, found).mean())}
        row |= {"fvu_without_top": rest / self.rest, "gamma": dot(found, found) / cross if cross else 0.0}
        return row, (above, self.below)


def by_corpus(
    name: str, x: Float[Tensor, "token d_model"], error: Float[Tensor, "token d_model"], documents: np.ndarray
) -> dict[str, float]:
    """fvu on the tokens of each corpus, about the mean of that corpus; a corpus with fewer than two tokens is left
    out."""
    found = {}
    for place, corpus in enumerate(CORPORA):
        here = torch.from_numpy(documents // CORPUS == place)
        if int(here.sum()) > 1:
            part, missed = x[here].double(), error[here].double()
            away = part - part.mean(0)
            found[f"{name}_{corpus}"] = dot(missed, missed) / dot(away, away)
    return found


def dot(one: Float[Tensor, "token d_model"], other: Float[Tensor, "token d_model"]) -> float:
    """Sum of products."""
    return float(torch.dot(one.flatten(), other.flatten()))
