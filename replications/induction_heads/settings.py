"""Settings of the induction heads. `config.yaml` gives the values of each scale."""

from typing import Annotated, Literal

from pydantic import Field

from common.network_settings import Optimisation
from common.records import Strict

ARMS = (
    "one_layer",
    "one_layer_smeared",
    "two_layers",
    "two_layers_smeared",
    "two_layers_added",
    "three_layers",
    "two_layers_mlp",
)


class Arm(Strict):
    """What distinguishes one kind of model."""

    n_layers: Annotated[int, Field(ge=1, le=6)] = Field(description="attention layers; at least one")
    keys: Literal["plain", "smeared"] = Field(description="smeared: every key is mixed with its predecessor")
    positions: Literal["shortformer", "standard"] = Field(description="shortformer: queries and keys only; standard: added")
    mlp: Literal["none", "relu"] = Field(description="what follows every attention layer")
    seeds: Annotated[int, Field(ge=2)] = Field(description="how many of the run's seeds are trained, counted from the first")


class Arms(Strict):
    """All kinds of model."""

    one_layer: Arm
    one_layer_smeared: Arm
    two_layers: Arm
    two_layers_smeared: Arm
    two_layers_added: Arm
    three_layers: Arm
    two_layers_mlp: Arm


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


class Training(Strict):
    """Training and what is measured meanwhile."""

    sizes: Sizes
    text: Text
    optimisation: Optimisation
    held_out: Annotated[int, Field(ge=8)] = Field(description="sequences of each held-out set")
    measure_every: Annotated[int, Field(ge=1)] = Field(description="steps between measurements")
    snapshots: Annotated[list[int], Field(min_length=2)] = Field(
        description="steps whose weights are kept; the second is well before any change, the last is the end"
    )


class Settings(Strict):
    training: Training
    arms: Arms
