"""Natural absorption: classes of tokens with frequent and rare members, and what the latents of a class miss.

A class is a set of vocabulary entries: words that begin with one letter, keywords of Python, digits. For each class:

- *Probe*: a linear discriminant with the covariance of all tokens, its threshold the one of best F1. Only classes with
  F1 above 0.6 on the other half of the documents are used (as in SAEBench).
- *Main latents*: greedily the latents whose union detects the class best, as long as F1 rises by 0.03 (SAEBench: the
  split set of k-sparse probes).
- *Full absorption* (Chanin et al. 2024; SAEBench): on a token that the probe finds, all main latents are 0 while the
  latent that projects most on the probe has a cosine of at least 0.025 with it and carries at least 0.4 of the token's
  projection (counted from b_dec, where the SAE begins).
- *Recall* of the main latents on frequent members (the most frequent ones, half of the class's tokens) and on the rest.

The null is a random class of the same size: each member replaced by an entry of about the same frequency. Its members
share nothing, so its latents are those of single tokens; hardly any probe finds it, so it counts where the class does.
"""

import keyword
import re
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.saes.sae import Sae

RIDGE = 1e-2  # of the median variance, added to the covariance of the discriminant
LEAST_F1 = 0.6
JUMP, MOST = 0.03, 10
LEAST_COSINE, LEAST_SHARE = 0.025, 0.4
CANDIDATES = 12  # latents that a greedy step looks at


class Half(NamedTuple):
    """Activations with their vocabulary entries."""

    x: Float[Tensor, "token d_model"]
    token: Int[Tensor, " token"]


class Direction(NamedTuple):
    """A probe: weight . (x - mean) > threshold."""

    weight: Float[Tensor, " d_model"]
    threshold: float


class Found(NamedTuple):
    """What one class gave."""

    tokens: int
    f1: float
    main: int
    recall: float
    frequent: float
    rare: float
    absorbed: float


def classes(vocabulary: list[str]) -> dict[str, set[int]]:
    """The natural classes: entries of a vocabulary as text, with their leading space."""
    found: dict[str, set[int]] = {f"letter {letter}": set() for letter in "abcdefghijklmnopqrstuvwxyz"}
    found |= {"keyword": set(), "digit": set()}
    for number, text in enumerate(vocabulary):
        word = text.strip()
        if word in keyword.kwlist:
            found["keyword"].add(number)
        if len(word) == 1 and word in "0123456789":
            found["digit"].add(number)
        elif re.fullmatch(r"[A-Za-z]{2,}", word):
            found[f"letter {word[0].lower()}"].add(number)
    return found


def random_class(members: list[int], count: Int[Tensor, " vocabulary"], dice: np.random.Generator) -> set[int]:
    """Other entries, each drawn among those nearest in frequency to one member; none twice."""
    counts = count.numpy()
    entries = np.flatnonzero(counts)
    order = entries[np.lexsort((dice.random(len(entries)), -counts[entries]))]  # equal frequencies in random order
    taken, found = set(members), set()
    for member in dice.permutation(members).tolist():
        at = int(np.searchsorted(-counts[order], -counts[member], side="left"))
        chosen = next(one for step in range(len(order)) for one in _both(order, at, step) if one not in taken)
        taken.add(chosen)
        found.add(chosen)
    return found


def _both(order: Int[np.ndarray, " entry"], at: int, step: int) -> list[int]:
    """The entries `step` places after and before one."""
    return [int(order[place]) for place in {at + step, at - step} if 0 <= place < len(order)]


class Discriminants:
    """Linear discriminants that share the mean and the covariance of one half."""

    def __init__(self, half: Half) -> None:
        x = half.x.double()
        self.mean = x.mean(0)
        centred = x - self.mean
        covariance = centred.mT @ centred / len(x)
        ridge = RIDGE * covariance.diagonal().median() * torch.eye(len(covariance), dtype=torch.float64)
        self.factor = torch.linalg.cholesky(covariance + ridge)

    def fit(self, half: Half, inside: Bool[Tensor, " token"]) -> Direction:
        """The direction of one class, with the threshold of best F1 on this half."""
        difference = half.x[inside].double().mean(0) - self.mean
        weight = torch.cholesky_solve(difference[:, None], self.factor)[:, 0]
        weight = (weight / weight.norm()).float()
        scores, order = self.scores(half.x, weight).sort(descending=True)
        hits = inside[order].double().cumsum(0)
        best = int((2 * hits / (torch.arange(1, len(hits) + 1) + hits[-1])).argmax())
        return Direction(weight, float(scores[best]))

    def scores(self, x: Float[Tensor, "token d_model"], weight: Float[Tensor, " d_model"]) -> Float[Tensor, " token"]:
        """Projections from the mean."""
        return x @ weight - float(self.mean @ weight.double())


def f1(said: Bool[Tensor, "*n token"], inside: Bool[Tensor, " token"]) -> Float[Tensor, "*n"]:
    """F1 of detectors, one for each row."""
    hits = (said & inside).sum(-1).double()
    return 2 * hits / (said.sum(-1) + inside.sum()).clamp(min=1)


def main_latents(
    on: Bool[Tensor, "token d_sae"], fires: Int[Tensor, " d_sae"], inside: Bool[Tensor, " token"]
) -> list[int]:
    """The latents whose union detects the class; `fires` counts the tokens of each latent."""
    hits = on[inside].sum(0).double()
    alone = 2 * hits / (fires + inside.sum()).clamp(min=1)
    candidates = alone.argsort(descending=True, stable=True)[:CANDIDATES].tolist()
    chosen, union, reached = candidates[:1], on[:, candidates[0]], float(alone[candidates[0]])
    while len(chosen) < MOST:
        left = [one for one in candidates if one not in chosen]
        scores = f1((on[:, left] | union[:, None]).mT, inside)
        if not left or float(scores.max()) < reached + JUMP:
            break
        best = left[int(scores.argmax())]
        chosen, union, reached = [*chosen, best], union | on[:, best], float(scores.max())
    return chosen


def absorbed(
    latents: Float[Tensor, "token d_sae"], x: Float[Tensor, "token d_model"], sae: Sae, weight: Tensor, main: list[int]
) -> Bool[Tensor, " token"]:
    """Whether another latent carries the class where all main latents are 0."""
    cosine = sae.W_dec @ weight / sae.W_dec.norm(dim=1).clamp(min=1e-30)
    silent = (latents[:, main] == 0).all(1)
    projections = latents * (sae.W_dec @ weight)
    projections[:, main] = 0
    most, at = projections.max(1)
    whole = (x - sae.b_dec) @ weight
    found: Tensor = silent & (cosine[at] >= LEAST_COSINE) & (whole > 0) & (most >= LEAST_SHARE * whole)
    return found


class Class(NamedTuple):
    """One class on both halves, with its probe."""

    inside: Bool[Tensor, " fit"]
    later: Bool[Tensor, " test"]
    probe: Direction
    said: Bool[Tensor, " test"]


def prepared(members: set[int], fit: Half, test: Half, discriminants: Discriminants, least: int) -> Class | None:
    """Where the members occur, and the probe; None if there are too few of them."""
    known = torch.tensor(sorted(members))
    inside, later = torch.isin(fit.token, known), torch.isin(test.token, known)
    if min(int(inside.sum()), int(later.sum())) < least:
        return None
    probe = discriminants.fit(fit, inside)
    return Class(inside, later, probe, discriminants.scores(test.x, probe.weight) > probe.threshold)


class Coded(NamedTuple):
    """What the latents of an SAE do on both halves."""

    sae: Sae
    on: Bool[Tensor, "fit d_sae"]
    fires: Int[Tensor, " d_sae"]
    latents: Float[Tensor, "test d_sae"]


def coded(sae: Sae, fit: Half, test: Half) -> Coded:
    """Latents of both halves."""
    on = sae.encode(fit.x) > 0
    return Coded(sae, on, on.sum(0), sae.encode(test.x))


def measured(one: Class, code: Coded, fit: Half, test: Half) -> Found:
    """What the latents of one class catch and miss."""
    inside, later, probe, said = one
    sae, on, counts, latents = code
    main = main_latents(on, counts, inside)
    hit = later & said
    fires = (latents[:, main] > 0).any(1)
    common = torch.isin(test.token, frequent(fit.token[inside]))

    def share(rows: Tensor) -> float:
        return float(fires[rows].double().mean()) if bool(rows.any()) else float("nan")

    rows = hit.nonzero()[:, 0]
    missed = absorbed(latents[rows], test.x[rows], sae, probe.weight, main) if len(rows) else torch.zeros(1)
    return Found(
        int(later.sum()),
        float(f1(said, later)),
        len(main),
        share(hit),
        share(hit & common),
        share(hit & ~common),
        float(missed.double().mean()),
    )


def frequent(token: Int[Tensor, " token"]) -> Int[Tensor, " entry"]:
    """The fewest entries that make up half of these tokens."""
    entries, count = torch.unique(token, return_counts=True)
    order = count.argsort(descending=True, stable=True)
    before = count[order].cumsum(0) - count[order]
    found: Tensor = entries[order][before < 0.5 * len(token)]
    return found
