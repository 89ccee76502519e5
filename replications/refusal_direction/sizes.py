"""Sizes of the part `transfer` at each scale.

They stand apart from `settings.py`, which fine-tuning imports: a change here trains no model anew. Imports nothing
heavy: the workflow reads it at start-up.
"""

from typing import Annotated

from pydantic import Field

from common.config import Scale
from common.records import Strict


class Sizes(Strict):
    """Which dictionary, and how much is read."""

    sae: str = Field(description="name of an SAE of `sparse_autoencoders`, without its seed")
    windows: Annotated[int, Field(ge=2)] = Field(description="held-out windows, from all corpora")
    loss_windows: Annotated[int, Field(ge=1)] = Field(description="those of them on which cross-entropy is measured")
    batch: Annotated[int, Field(ge=1)] = Field(description="windows in one forward pass")


_LAPTOP = Sizes(sae="batch_topk-1152-k32", windows=40, loss_windows=8, batch=8)
SIZES: dict[Scale, Sizes] = {
    "smoke": Sizes(sae="batch_topk-64-k8", windows=4, loss_windows=2, batch=4),
    "laptop": _LAPTOP,
    "gpu": _LAPTOP.model_copy(update={"windows": 400, "loss_windows": 128, "batch": 64}),
}
