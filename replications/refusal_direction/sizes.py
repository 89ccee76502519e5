"""Sizes of the parts `transfer`, `cone` and `released` at each scale.

They stand apart from `settings.py`, which fine-tuning imports: a change here trains no model anew. Imports nothing
heavy: the workflow reads it at start-up.
"""

from typing import Annotated

from pydantic import Field

from common.core.settings import Scale, Strict


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


class ConeSizes(Strict):
    """The cones of directions, and the search for them."""

    dimensions: list[Annotated[int, Field(ge=1, le=5)]] = Field(description="numbers of dimensions k; 1 is a direction")
    steps: Annotated[int, Field(ge=1)] = Field(description="steps of the optimiser")
    batch: Annotated[int, Field(ge=1)] = Field(description="requests of each class in one of them")
    learning_rate: Annotated[float, Field(gt=0)] = Field(description="of AdamW, for rows of length 1")
    draws: Annotated[int, Field(ge=1)] = Field(description="directions of each cone that are measured beside its axes")
    prompts: Annotated[int, Field(ge=1)] = Field(description="held-out requests of each class")
    rows: Annotated[int, Field(ge=1)] = Field(description="copies of requests in one forward pass")


CONES: dict[Scale, ConeSizes | None] = {
    "smoke": ConeSizes(dimensions=[1, 2], steps=2, batch=2, learning_rate=0.002, draws=2, prompts=2, rows=8),
    "laptop": None,
    "gpu": ConeSizes(
        dimensions=[1, 2, 3, 4], steps=400, batch=16, learning_rate=0.002, draws=256, prompts=64, rows=2000
    ),
}


class ReleasedSizes(Strict):
    """How many of the paper's requests one seed of a released model uses, per class."""

    estimate: Annotated[int, Field(ge=4)] = Field(description="whose mean activations are subtracted")
    choose: Annotated[int, Field(ge=2)] = Field(description="on which candidates are compared")
    test: Annotated[int, Field(ge=4)] = Field(description="of the test split; all claims use these")
    risky: Annotated[int, Field(ge=4)] = Field(description="harmless requests with risky words, of `lists.yaml`")
    new_tokens: Annotated[int, Field(ge=1)] = Field(description="greedy tokens that are classified, never stored")


_PAPER = ReleasedSizes(estimate=128, choose=32, test=100, risky=64, new_tokens=32)
RELEASED: dict[Scale, ReleasedSizes] = {
    "smoke": ReleasedSizes(estimate=4, choose=2, test=4, risky=4, new_tokens=4),
    "laptop": _PAPER.model_copy(update={"estimate": 64}),
    "gpu": _PAPER,
}
