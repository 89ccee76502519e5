"""The SAEs of the language model: which are trained, and how they are named on disk.

The grid is BatchTopK over widths and sparsities at the first seed; its first `grid_seeds` seeds have all of it. At its
central point stand the other architectures, SAEs of all seeds and two controls: a decoder that stays at its random
start, and activations whose dimensions are shuffled over tokens. One BatchTopK SAE a seed sits at the late layer.

Three passes over the same batches train them: `swept`, then the soft-frozen ones, then `further` seeds of the narrower
widths, of two architectures and of the late layer, so that overlap and universality do not hang on one dictionary.
"""

from common.saes.index import Entry
from common.saes.recipe import Recipe
from replications.sparse_autoencoders.settings import Sweep

SEEDED_ARCHITECTURES = {"relu_bricken": "l1", "topk": "topk"}
"""Architectures whose seeds are compared, and what they are called in metrics."""


def recipe(architecture: str, width: int, k: float | int, seed: int, **more: object) -> Recipe:
    return Recipe.model_validate(
        {"architecture": architecture, "d_sae": width, "sparsity": float(k), "seed": seed, **more}
    )


def central(sweep: Sweep, seed: int, prefix: str = "batch_topk") -> str:
    """The name of a dictionary of the central point; `prefix` is its architecture or what else sets it apart."""
    return f"{prefix}-{sweep.width}-k{sweep.sparsity}-s{seed}"


def swept(sweep: Sweep, seeds: list[int]) -> list[Entry]:
    """The first pass."""
    width, k = centre = sweep.width, sweep.sparsity
    grid = [(one, other) for one in sweep.widths for other in sweep.sparsities]
    found = []
    for s in seeds:
        for point in grid if s in seeds[: sweep.grid_seeds] else [centre]:
            kind = "grid" if s == seeds[0] else "seed" if point == centre else "grid seed"
            name = f"batch_topk-{point[0]}-k{point[1]}-s{s}"
            found.append(Entry(name=name, kind=kind, recipe=recipe("batch_topk", *point, s)))
    found += [_architecture(sweep, name, seeds[0], "architecture") for name in sweep.architectures]
    for s in seeds:
        frozen = recipe("batch_topk", width, k, s, frozen_decoder=True)
        shuffled = recipe("batch_topk", width, k, s, source="shuffled")
        found.append(Entry(name=central(sweep, s, "frozen"), kind="frozen", recipe=frozen))
        found.append(Entry(name=central(sweep, s, "shuffled"), kind="shuffled", recipe=shuffled))
    return [*found, _late(sweep, seeds[0])] if sweep.late else found


def soft_frozen(sweep: Sweep, seeds: list[int]) -> list[Entry]:
    """The second pass, within cones around the start."""
    made = [recipe("batch_topk", sweep.width, sweep.sparsity, s) for s in seeds]
    return [Entry(name=central(sweep, one.seed, "soft"), kind="soft", recipe=one) for one in made]


def further(sweep: Sweep, seeds: list[int]) -> list[Entry]:
    """The third pass: seeds that the first one leaves out."""
    k = sweep.sparsity
    found = [
        Entry(name=f"batch_topk-{width}-k{k}-s{s}", kind="width", recipe=recipe("batch_topk", width, k, s))
        for s in seeds[sweep.grid_seeds :]
        for width in narrower(sweep)
    ]
    found += [
        _architecture(sweep, name, s, "architecture seed") for name in seeded_architectures(sweep) for s in seeds[1:]
    ]
    return found + [_late(sweep, s) for s in seeds[1:] if sweep.late]


def everything(sweep: Sweep, seeds: list[int]) -> list[Entry]:
    """All SAEs of a run, names distinct."""
    return [*swept(sweep, seeds), *soft_frozen(sweep, seeds), *further(sweep, seeds)]


def seeded_architectures(sweep: Sweep) -> list[str]:
    """Those of `SEEDED_ARCHITECTURES` that the sweep has."""
    return [name for name in SEEDED_ARCHITECTURES if name in sweep.architectures]


def narrower(sweep: Sweep) -> list[int]:
    """Widths below the central one; wider dictionaries would take too long to match one to one."""
    return [width for width in sweep.widths if width < sweep.width]


def _architecture(sweep: Sweep, name: str, seed: int, kind: str) -> Entry:
    return Entry(name=central(sweep, seed, name), kind=kind, recipe=recipe(name, sweep.width, sweep.sparsity, seed))


def _late(sweep: Sweep, seed: int) -> Entry:
    made = recipe("batch_topk", sweep.width, sweep.sparsity, seed, source="late")
    return Entry(name=central(sweep, seed, "late"), kind="late", recipe=made)
