"""Step: trains what the sweep leaves out, on the same batches in the same order.

- *Soft-frozen* dictionaries of the central point (`soft_frozen`), one for each seed.
- The other seeds of the narrower widths, so that overlap between seeds can be followed over widths.
- The other seeds of the TopK and the ReLU dictionary of the central point, so that their overlap can be compared.
- The other seeds of the later layer, so that universality between layers does not hang on one dictionary.

Out: a SAELens folder for each SAE, and `index.json`, as from `train_language`.
"""

from pathlib import Path
from typing import Literal

from common.core.files import sha256, write_json
from common.core.step import run
from common.saes.stream import Activations
from common.saes.trainer import train
from replications.sparse_autoencoders.more_members import more_members
from replications.sparse_autoencoders.settings import Sweep
from replications.sparse_autoencoders.soft_frozen import train_soft_frozen
from replications.sparse_autoencoders.train_language import save, sources


def train_more(
    *,
    early: Path,
    late: Path,
    sweep: Sweep,
    seeds: list[int],
    device: Literal["cpu", "cuda"],
    checkpoint: Path,
    index: Path,
) -> None:
    """Trains all of `more_members` and writes folders beside `index`. `early` and `late` are manifests of shards."""
    streams = Activations(early.parent), Activations(late.parent)
    batches = sources(*streams, sweep.training.batch, device)
    members = more_members(sweep, seeds)
    soft, free = ([one for one in members if (one.kind == "soft") == kind] for kind in (True, False))
    data = sha256(early) + sha256(late)
    paths = [checkpoint.with_suffix(f".{kind}") for kind in ("soft", "free")]
    recipes = [[one.recipe for one in part] for part in (soft, free)]
    trained = train_soft_frozen(recipes[0], batches, sweep.training, paths[0], data=data, device=device, keep=True)
    trained += train(recipes[1], batches, sweep.training, paths[1], data=data, device=device, keep=True)
    for one, result in zip([*soft, *free], trained, strict=True):
        save(one, result, streams, index.parent)
    write_json(index, [{"name": one.name, "kind": one.kind, "recipe": one.recipe.model_dump()} for one in members])
    for path in paths:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    run(train_more)
