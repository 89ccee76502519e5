"""The SAEs of the language model: which are trained, and how they are named on disk.

The grid is BatchTopK over widths and sparsities at the first seed; its first `grid_seeds` seeds have all of it. At its
central point stand the other architectures, SAEs of all seeds and two controls: a decoder that stays at its random
start, and activations whose dimensions are shuffled over tokens. One more BatchTopK SAE sits at the late layer.
"""

from typing import NamedTuple

from common.saes.recipe import Recipe
from replications.sparse_autoencoders.settings import Sweep


class Member(NamedTuple):
    """One SAE. `kind` says what it is there for."""

    name: str
    kind: str
    recipe: Recipe


def members(sweep: Sweep, seeds: list[int]) -> list[Member]:
    """All SAEs of a run, names distinct."""
    width, k = centre = sweep.width, sweep.sparsity
    grid = [(one, other) for one in sweep.widths for other in sweep.sparsities]
    found = []
    for s in seeds:
        for point in grid if s in seeds[: sweep.grid_seeds] else [centre]:
            kind = "grid" if s == seeds[0] else "seed" if point == centre else "grid seed"
            found.append(Member(f"batch_topk-{point[0]}-k{point[1]}-s{s}", kind, recipe("batch_topk", *point, s)))
    found += [
        Member(f"{name}-{width}-k{k}-s{seeds[0]}", "architecture", recipe(name, width, k, seeds[0]))
        for name in sweep.architectures
    ]
    for s in seeds[: sweep.control_seeds]:
        found.append(
            Member(f"frozen-{width}-k{k}-s{s}", "frozen", recipe("batch_topk", width, k, s, frozen_decoder=True))
        )
        found.append(
            Member(f"shuffled-{width}-k{k}-s{s}", "shuffled", recipe("batch_topk", width, k, s, source="shuffled"))
        )
    return [*found, late_member(sweep, seeds[0])]


def late_member(sweep: Sweep, seed: int) -> Member:
    """The SAE of the later layer, at the central point."""
    made = recipe("batch_topk", sweep.width, sweep.sparsity, seed, source="late")
    return Member(f"late-{sweep.width}-k{sweep.sparsity}-s{seed}", "late", made)


def recipe(architecture: str, width: int, k: float | int, seed: int, **more: object) -> Recipe:
    return Recipe.model_validate(
        {"architecture": architecture, "d_sae": width, "sparsity": float(k), "seed": seed, **more}
    )
