"""Settings of a kind of model and of its sequences, apart from the others: training depends on these only."""

from typing import Annotated, Literal

from pydantic import Field

from common.core.settings import Strict


class Arm(Strict):
    """What distinguishes one kind of model."""

    n_layers: Annotated[int, Field(ge=1, le=6)] = Field(description="attention layers; at least one")
    keys: Literal["plain", "smeared"] = Field(description="smeared: every key is mixed with its predecessor")
    positions: Literal["shortformer", "standard"] = Field(
        description="shortformer: queries and keys only; standard: added"
    )
    mlp: Literal["none", "relu"] = Field(description="what follows every attention layer")
    rate: Annotated[float, Field(gt=0, le=10)] = Field(description="multiplies the learning rate")
    duration: Annotated[float, Field(gt=0, le=10)] = Field(description="multiplies the number of steps")
    seeds: Annotated[int, Field(ge=2)] = Field(
        description="how many of the run's seeds are trained, counted from the first"
    )


class Sizes(Strict):
    """What all kinds of model share."""

    d_model: Annotated[int, Field(ge=4)] = Field(description="width of the residual stream")
    n_heads: Annotated[int, Field(ge=1)] = Field(description="heads of a layer")
    d_head: Annotated[int, Field(ge=1)] = Field(description="width of a head")


class Text(Strict):
    """The synthetic sequences."""

    length: Annotated[int, Field(ge=8)] = Field(description="tokens of a sequence; also the context of the models")
    d_vocab: Annotated[int, Field(ge=4)] = Field(description="tokens in the vocabulary")
    shortest: Annotated[int, Field(ge=2)] = Field(description="shortest period of a training sequence")
    longest: Annotated[int, Field(ge=2)] = Field(description="longest period of a training sequence")
    shortest_block: Annotated[int, Field(ge=2)] = Field(description="shortest repeated block of a held-out sequence")
    longest_block: Annotated[int, Field(ge=2)] = Field(description="longest repeated block of a held-out sequence")
