"""Families of latents across widths, for the figure: a latent, its children in the next dictionary, and theirs."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.saes.sae import Sae
from replications.monosemanticity.explain import explain, wording
from replications.monosemanticity.structure import nesting, together
from replications.monosemanticity.units import Text, sparse

NEAR, INSIDE = 0.5, 0.5  # decoder cosine with the parent, and share of firings inside its firings, of a child
FAMILIES, CHILDREN = 4, 4  # shown
WORDS = 4  # of a label


class Level(NamedTuple):
    """One dictionary and where its latents fire on the held-out tokens."""

    sae: Sae
    fires: Bool[Tensor, "token d_sae"]


class Link(NamedTuple):
    """Children of each latent of the narrower of two dictionaries, the busiest first, and how well each one fits."""

    children: list[list[int]]
    cosine: Float[np.ndarray, " wide"]
    inside: Float[np.ndarray, " wide"]


def families_of(
    levels: list[Level], x: Float[Tensor, "token d_mlp"], text: Text, words: list[str], size: int
) -> list[dict[str, Any]]:
    """The largest families, one row per member: width, latent, parent, fit, firings, and the tokens that explain it."""
    labels = [labels_of(level.sae, x, text, words, size) for level in levels]
    links = [linked(narrow, wide) for narrow, wide in pairwise(levels)]
    roots = sorted(range(levels[0].sae.d_sae), key=lambda root: (-members(links, 0, root), root))[:FAMILIES]
    rows: list[dict[str, Any]] = []
    for family, root in enumerate(roots):
        todo = [(0, root, -1)]
        while todo:
            place, latent, parent = todo.pop(0)
            fit = links[place - 1] if place else None
            rows.append(
                {
                    "family": family + 1,
                    "width": levels[place].sae.d_sae,
                    "latent": latent,
                    "parent": parent,
                    "cosine": float(fit.cosine[latent]) if fit else 1.0,
                    "inside": float(fit.inside[latent]) if fit else 1.0,
                    "tokens": int(levels[place].fires[:, latent].sum()),
                    "label": labels[place][latent],
                }
            )
            if place < len(links):
                todo += [(place + 1, child, latent) for child in links[place].children[latent]]
    return rows


def largest_families(found: dict[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The largest families of all networks, numbered anew; `found` has the families of each seed."""
    every: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for seed, rows in found.items():
        for row in rows:
            every.setdefault((seed, row["family"]), []).append(row)
    best = sorted(every, key=lambda key: (-len(every[key]), key))[:FAMILIES]
    return [{**row, "family": place + 1, "seed": key[0]} for place, key in enumerate(best) for row in every[key]]


def labels_of(sae: Sae, x: Float[Tensor, "token d_mlp"], text: Text, words: list[str], size: int) -> list[str]:
    """The first tokens of every latent's explanation."""
    firings = sparse(lambda part: sae.encode(x[part]), len(x))
    found = explain(firings, text, len(words), size)
    return [wording(found, unit, words, WORDS) for unit in range(sae.d_sae)]


def linked(narrow: Level, wide: Level) -> Link:
    """Children: wide latents whose nearest narrow latent is near enough, and that mostly fire where it does."""
    found = nesting(wide.sae.W_dec, narrow.sae.W_dec, together(wide.fires, narrow.fires))
    busy: Int[np.ndarray, " wide"] = wide.fires.sum(0).numpy()
    good = (found.cosine >= NEAR) & (found.inside >= INSIDE) & (busy > 0)
    children: list[list[int]] = [[] for _ in range(narrow.sae.d_sae)]
    for latent in sorted(np.flatnonzero(good).tolist(), key=lambda one: -busy[one]):
        if len(children[found.parent[latent]]) < CHILDREN:
            children[found.parent[latent]].append(latent)
    return Link(children, found.cosine, found.inside)


def members(links: list[Link], place: int, latent: int) -> int:
    """Size of the family below a latent."""
    if place == len(links):
        return 1
    return 1 + sum(members(links, place + 1, child) for child in links[place].children[latent])
