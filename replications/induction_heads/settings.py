"""Settings of the induction heads. `config.yaml` gives the values of each scale."""

from typing import Annotated, Literal

from pydantic import Field

from common.core.settings import Strict
from common.toys.settings import Optimisation
from replications.induction_heads.arm_settings import Arm, Sizes, Text
from replications.induction_heads.model_settings import RealText, Repeats
from replications.induction_heads.text_settings import NaturalText

ArmName = Literal[
    "one_layer",
    "one_layer_smeared",
    "two_layers",
    "two_layers_smeared",
    "two_layers_added",
    "three_layers",
    "two_layers_mlp",
]


class Arms(Strict):
    """All kinds of model."""

    one_layer: Arm
    one_layer_smeared: Arm
    two_layers: Arm
    two_layers_smeared: Arm
    two_layers_added: Arm
    three_layers: Arm
    two_layers_mlp: Arm


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


class PhaseChange(Strict):
    """In-context scores: loss at a late minus loss at an early context index, for all pairs."""

    late: Annotated[list[int], Field(min_length=1)] = Field(description="late context indices")
    early: Annotated[list[int], Field(min_length=1)] = Field(description="early context indices")


class Chosen(Strict):
    """Which arms a measurement looks at."""

    arms: Annotated[list[ArmName], Field(min_length=1)] = Field(description="names of arms")


class Sweep(Strict):
    """Two-layer models whose change comes at different times."""

    sizes: Sizes
    text: Text
    optimisation: Optimisation
    rates: Annotated[list[Annotated[float, Field(gt=0, le=10)]], Field(min_length=2)] = Field(
        description="multiply the learning rate; every rate meets every longest period"
    )
    longest: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=2)] = Field(
        description="longest periods of the training sequences, in place of that of `text`"
    )
    held_out: Annotated[int, Field(ge=8)] = Field(description="held-out sequences")
    measure_every: Annotated[int, Field(ge=1)] = Field(description="steps between measurements")


class Chains(Strict):
    """Small models on in-context Markov chains."""

    sizes: Sizes
    n_symbols: Annotated[int, Field(ge=2, le=5)] = Field(description="states of a chain")
    length: Annotated[int, Field(ge=8)] = Field(description="symbols of a sequence")
    held_out: Annotated[int, Field(ge=8)] = Field(description="held-out sequences")
    measure_every: Annotated[int, Field(ge=1)] = Field(description="steps between measurements")
    optimisation: Optimisation
    n_seeds: Annotated[int, Field(ge=2)] = Field(description="how many of the run's seeds are trained")


class Settings(Strict):
    training: Training
    arms: Arms
    phase_change: PhaseChange
    heads: Chosen
    ablations: Chosen
    sweep: Sweep
    chains: Chains
    natural_text: NaturalText
    repeats: Repeats
    real_text: RealText
