"""The SAEs that `train_more` adds to the sweep (`members`): soft-frozen ones, and more seeds."""

from pathlib import Path

from replications.sparse_autoencoders.members import Member, late_member, recipe
from replications.sparse_autoencoders.settings import Sweep

OVER_SEEDS = {"relu_bricken": "l1", "topk": "topk"}
"""Architectures whose seeds are compared, and what they are called in metrics."""


def over_seeds(sweep: Sweep) -> list[str]:
    """Those of them that the sweep has."""
    return [name for name in OVER_SEEDS if name in sweep.architectures]


def narrower(sweep: Sweep) -> list[int]:
    """Widths below the central one; wider dictionaries would take too long to match one to one."""
    return [width for width in sweep.widths if width < sweep.width]


def more_members(sweep: Sweep, seeds: list[int]) -> list[Member]:
    """All SAEs of this step; those of kind `soft` are trained within their cones."""
    width, k = sweep.width, sweep.sparsity
    found = [Member(f"soft-{width}-k{k}-s{s}", "soft", recipe("batch_topk", width, k, s)) for s in seeds]
    found += [
        Member(f"batch_topk-{one}-k{k}-s{s}", "width", recipe("batch_topk", one, k, s))
        for s in seeds[sweep.grid_seeds :]
        for one in narrower(sweep)
    ]
    found += [
        Member(f"{name}-{width}-k{k}-s{s}", "architecture seed", recipe(name, width, k, s))
        for name in over_seeds(sweep)
        for s in seeds[1:]
    ]
    return found + [late_member(sweep, s) for s in seeds[1:]]


def late_folders(index: Path, more: Path, sweep: Sweep, seeds: list[int]) -> list[Path]:
    """The later layer's SAE of each seed: that of the first lies beside `index`, those of the others beside `more`."""
    parents = [index.parent, *[more.parent] * (len(seeds) - 1)]
    return [parent / late_member(sweep, seed).name for parent, seed in zip(parents, seeds, strict=True)]
