"""Settings of `probing`; `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import Field

from common.core.settings import Strict

Depth = Annotated[float, Field(gt=0, lt=1)]


class Truth(Strict):
    """True and false statements."""

    train: Annotated[int, Field(ge=2)] = Field(description="training items of each topic, four statements each")
    judged: Annotated[int, Field(ge=2)] = Field(
        description="calibration items, and as many scoring items, of each topic"
    )
    patched: Annotated[int, Field(ge=2)] = Field(
        description="judged items of each topic that are moved along directions"
    )
    depth: Depth = Field(description="share of the blocks before the one that is read, chosen on calibration items")
    shuffles: Annotated[int, Field(ge=1)] = Field(description="directions of shuffled labels, for each seed")


class Settings(Strict):
    """All parts."""

    truth: Truth
