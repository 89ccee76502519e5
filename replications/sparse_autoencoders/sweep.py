"""The SAEs of the language model: which are trained, and how they are named on disk.

Main dictionaries are BatchTopK at one width and sparsity, one for each seed. Beside them stand soft-frozen ones, the
strongest sanity check that is known (Korznikov et al. 2026): frozen decoders and shuffled activations are weaker. At
scale `full` there are also the first one at a second layer, shorter trainings, and a grid over widths and sparsities.
Other architectures run over sparsities, each with a learning rate of its own.
"""

from typing import NamedTuple

from common.saes.index import Entry
from common.saes.recipe import Recipe, Training
from replications.sparse_autoencoders.settings import Sweep


class Pass(NamedTuple):
    """Dictionaries that are trained side by side on the same batches."""

    name: str
    entries: list[Entry]
    training: Training


def recipe(architecture: str, width: int, k: float | int, seed: int, **more: object) -> Recipe:
    return Recipe.model_validate(
        {"architecture": architecture, "d_sae": width, "sparsity": float(k), "seed": seed, **more}
    )


def central(sweep: Sweep, seed: int, prefix: str = "batch_topk") -> str:
    """The name of a dictionary of the central point; `prefix` is its architecture or what else sets it apart."""
    return f"{prefix}-{sweep.width}-k{sweep.sparsity}-s{seed}"


def passes(sweep: Sweep, seeds: list[int]) -> list[Pass]:
    """All trainings of a run; names of dictionaries are distinct."""
    centre = (sweep.width, sweep.sparsity)

    def entry(name: str, kind: str, seed: int, **more: object) -> Entry:
        return Entry(name=name, kind=kind, recipe=recipe("batch_topk", sweep.width, sweep.sparsity, seed, **more))

    def point(architecture: str, width: int, k: int, kind: str) -> Entry:
        name = f"{architecture}-{width}-k{k}-s{seeds[0]}"
        return Entry(name=name, kind=kind, recipe=recipe(architecture, width, k, seeds[0]))

    main = [entry(central(sweep, seed), "main", seed) for seed in seeds]
    main += [entry(central(sweep, s, "second"), "second", s, source="second") for s in seeds[:1] if sweep.second]
    grid = [(width, k) for width in sweep.widths for k in sweep.sparsities if (width, k) != centre]
    main += [point("batch_topk", width, k, "grid") for width, k in grid]
    found = [
        Pass("main", main, sweep.training),
        Pass("soft", [entry(central(sweep, seed, "soft"), "soft", seed) for seed in seeds], sweep.training),
    ]
    for share in sweep.lengths:
        shorter = [entry(central(sweep, seed, f"short{share:g}"), f"length {share:g}", seed) for seed in seeds]
        found.append(Pass(f"length{round(100 * share)}", shorter, shortened(sweep.training, share)))
    for architecture, rate in sweep.architectures.items():
        others = [point(architecture, sweep.width, k, "architecture") for k in sweep.sparsities]
        found.append(Pass(architecture, others, sweep.training.model_copy(update={"learning_rate": rate})))
    return [one for one in found if one.entries]


def shortened(training: Training, share: float) -> Training:
    """The schedule in small: warm-up and the silence after which a latent counts as dead shrink with the steps."""
    small = {key: max(1, round(share * getattr(training, key))) for key in ("steps", "warmup", "dead_after")}
    return training.model_copy(update=small)


def everything(sweep: Sweep, seeds: list[int]) -> list[Entry]:
    """All SAEs of a run."""
    return [entry for one in passes(sweep, seeds) for entry in one.entries]
