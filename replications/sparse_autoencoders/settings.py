"""Settings of the sparse-autoencoder replication. Imports nothing heavy: the workflow reads them at start-up."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.core.settings import Strict
from common.saes.recipe import ArchitectureName, Training

Frequencies = Literal["equal", "log_uniform"]


class World(Strict):
    """A planted dictionary: x is a sparse sum of known unit directions."""

    d: Annotated[int, Field(ge=2)] = Field(description="dimensions")
    features: Annotated[int, Field(ge=2)] = Field(description="true directions, drawn evenly from the sphere")
    active: Annotated[float, Field(gt=0)] = Field(description="features active in a sample, on average")
    frequencies: Frequencies = Field(description="log_uniform: from 10^-5.5 to 10^-1.2 before scaling to `active`")
    spread: Annotated[float, Field(ge=0)] = Field(description="coefficients are exp(spread * normal)")


class Planted(Strict):
    """One world and the SAEs trained on it, one per seed."""

    world: World
    d_sae: Annotated[int, Field(ge=2)] = Field(description="width of the SAEs; k is `world.active`")
    training: Training
    evaluation: Annotated[int, Field(ge=100)] = Field(description="fresh samples on which everything is measured")

    @model_validator(mode="after")
    def _enough(self) -> "Planted":
        if self.world.active > self.d_sae:
            raise ValueError(f"k = {self.world.active:g} active features exceed the {self.d_sae} latents of the SAE")
        return self


class Revival(Strict):
    """Paired runs with and without AuxK, at a width with more latents than there are features."""

    d_sae: Annotated[int, Field(ge=2)] = Field(description="width of the SAEs")
    training: Training


class Corpora(Strict):
    """What is harvested."""

    layer: Annotated[int, Field(ge=0)] = Field(description="the residual stream before this layer is studied")
    late_layer: Annotated[int, Field(ge=0)] = Field(description="and, with one SAE, before this one")
    docs_tokens: Annotated[int, Field(ge=100)] = Field(description="most tokens of python-docs")
    late_tokens: Annotated[int, Field(ge=100)] = Field(
        description="how many of them are harvested at the late layer too"
    )
    chat_tokens: Annotated[int, Field(ge=10)] = Field(description="most tokens of self-chat")
    window: Annotated[int, Field(ge=8)] = Field(description="tokens of context")
    batch: Annotated[int, Field(ge=1)] = Field(description="windows in one forward pass")
    held_out_tokens: Annotated[int, Field(ge=100)] = Field(description="tokens of held-out documents, all in float32")


class Sweep(Strict):
    """The SAEs of the language model."""

    widths: Annotated[list[int], Field(min_length=2)] = Field(description="F of the BatchTopK grid")
    sparsities: Annotated[list[int], Field(min_length=2)] = Field(description="k of the BatchTopK grid")
    grid_seeds: Annotated[int, Field(ge=1)] = Field(description="seeds that have every point of the grid")
    width: int = Field(description="width of everything outside the grid")
    sparsity: int = Field(description="k, and L0 aimed at, of everything outside the grid")
    architectures: list[ArchitectureName] = Field(description="trained beside BatchTopK")
    control_seeds: Annotated[int, Field(ge=2)] = Field(description="seeds of the frozen and the shuffled control")
    training: Training

    @model_validator(mode="after")
    def _central(self) -> "Sweep":
        if self.width not in self.widths or self.sparsity not in self.sparsities:
            raise ValueError("width and sparsity must be a point of the grid")
        if min(self.sparsities) < 1 or max(self.sparsities) > min(self.widths):
            raise ValueError(
                f"sparsities go from {min(self.sparsities)} to {max(self.sparsities)}, but must lie between 1 and the "
                f"smallest width, {min(self.widths)}"
            )
        return self


class Evaluation(Strict):
    """How the language model is asked."""

    windows: Annotated[int, Field(ge=4)] = Field(description="held-out windows for cross-entropy, one per document")
    batch: Annotated[int, Field(ge=1)] = Field(description="windows in one forward pass")


class Settings(Strict):
    """All parts."""

    most_seeds: Annotated[int, Field(ge=2)] = Field(description="how many of the run's seeds are used, the first ones")
    easy: Planted
    hard: Planted
    revival: Revival
    corpora: Corpora
    sweep: Sweep
    evaluation: Evaluation
