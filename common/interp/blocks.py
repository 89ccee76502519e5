"""Some blocks of a model alone, for passes that start or end in between."""

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def only_blocks(holder: nn.Module, name: str, first: int = 0, end: int | None = None) -> Iterator[None]:
    """While the context lasts, the list of blocks `holder.name` has those from `first` to before `end` and no others.

    (TransformerLens' bridge has `start_at_layer`, but runs the blocks below all the same.)
    """
    every = getattr(holder, name)
    setattr(holder, name, every[first:end])
    try:
        yield
    finally:
        setattr(holder, name, every)
