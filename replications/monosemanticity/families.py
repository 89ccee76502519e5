"""Families of latents across widths, for the figure: a latent, its children in the next dictionary, and theirs."""

from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.saes.sae import Sae
from replications.monosemanticity.explain import Explanations, explain, hit, visible
from replications.monosemanticity.structure import nesting, together
from replications.monosemanticity.units import Text, sparse

NEAR, INSIDE = 0.5, 0.5  # decoder cosine with the parent, and share of firings inside its firings, of a child
FAMILIES, CHILDREN = 4, 4  # shown
WORDS = 4  # of a label
RARE = 20  # firings
Family = list[dict[str, Any]]


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
) -> list[Family]:
    """All families of two or more: one row per member with width, latent, parent, fit, firings, and its tokens."""
    described = [described_by(level.sae, x, text, words, size) for level in levels]
    links = [linked(narrow, wide) for narrow, wide in pairwise(levels)]
    found = []
    for root, children in enumerate(links[0].children):
        rows: Family = []
        todo = [(0, root, -1)] if children else []
        while todo:
            place, latent, parent = todo.pop(0)
            fit = links[place - 1] if place else None
            label, told = described[place][latent]
            rows.append(
                {
                    "width": levels[place].sae.d_sae,
                    "latent": latent,
                    "parent": parent,
                    "cosine": float(fit.cosine[latent]) if fit else 1.0,
                    "inside": float(fit.inside[latent]) if fit else 1.0,
                    "tokens": int(levels[place].fires[:, latent].sum()),
                    "told": told,
                    "label": label,
                }
            )
            if place < len(links):
                todo += [(place + 1, child, latent) for child in links[place].children[latent]]
        if rows:
            found.append(rows)
    return found


def clearest_families(found: dict[int, list[Family]]) -> Family:
    """The families that the figure shows, numbered; `found` has all families of each seed.

    Those in which a latent has two children come first, and of these the ones whose members are best told by tokens.
    """

    def order(one: tuple[int, Family]) -> tuple[bool, float]:
        splits = max(Counter((row["width"], row["parent"]) for row in one[1]).values()) > 1
        return not splits, -float(np.mean([row["told"] for row in one[1]]))

    best = sorted(((seed, rows) for seed, each in found.items() for rows in each), key=order)[:FAMILIES]
    return [{"family": place + 1, "seed": seed, **row} for place, (seed, rows) in enumerate(best) for row in rows]


def described_by(
    sae: Sae, x: Float[Tensor, "token d_mlp"], text: Text, words: list[str], size: int
) -> list[tuple[str, float]]:
    """The first tokens of every latent's explanation, and the share of its firings that the explanation points at.

    The share is of firings on scored documents, of at least `RARE`, so that rare latents cannot seem clear.
    """
    firings = sparse(lambda part: sae.encode(x[part]), len(x))
    found = explain(firings, text, len(words), size)
    use = text.scored[firings.place]
    pointed = np.bincount(firings.unit[use & hit(found, firings, text)], minlength=sae.d_sae)
    told = pointed / np.maximum(firings.counts(text.scored), RARE)
    return [(label(found, unit, words), float(told[unit])) for unit in range(sae.d_sae)]


def label(found: Explanations, unit: int, words: list[str]) -> str:
    """The first tokens of an explanation: one blank before a token is left out, letters without one get a hyphen."""
    tokens = [words[token] for token in found.ranked[unit][:WORDS] if token >= 0]
    plain = [f"-{one}" if one[:1].isalpha() else visible(one.removeprefix(" ") or one) for one in tokens]
    return ("after " if found.previous[unit] else "") + ("  ".join(plain) or "(nothing)")


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
