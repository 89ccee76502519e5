"""Settings of grokking. `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from common.core.settings import Strict
from common.saes.recipe import Training as SaeTraining

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


def _is_prime(number: int) -> int:
    if any(number % divisor == 0 for divisor in range(2, int(number**0.5) + 1)):
        raise ValueError(f"{number} is not prime; the Fourier analysis needs a prime")
    return number


class Training(Strict):
    """One-layer transformers on modular addition, full batch, one network per arm and seed."""

    prime: Annotated[int, Field(ge=5, le=400), AfterValidator(_is_prime)] = Field(
        description="p: the task is (a + b) mod p"
    )
    d_model: Annotated[int, Field(ge=4)] = Field(description="width of the residual stream; the MLP is 4 times as wide")
    n_heads: Annotated[int, Field(ge=1)] = Field(description="attention heads; d_model is divided among them")
    steps: Annotated[int, Field(ge=10)] = Field(description="full-batch AdamW steps")
    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(description="after 10 steps of warm-up")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(description="decoupled, times the learning rate")
    fraction: Fraction = Field(description="share of all pairs trained on")
    large_share: Fraction = Field(description="share where generalisation comes at once (the control)")
    large_share_steps: Annotated[int, Field(ge=10)] = Field(description="steps of that control")
    measure_every: Annotated[int, Field(ge=1)] = Field(description="steps between two measurements of the losses")
    snapshot_every: Annotated[int, Field(ge=1)] = Field(description="steps between two snapshots of the weights")

    @model_validator(mode="after")
    def _fits(self) -> "Training":
        if self.d_model % self.n_heads:
            raise ValueError(f"{self.n_heads} heads do not divide d_model = {self.d_model}")
        if self.snapshot_every % self.measure_every:
            raise ValueError("snapshot_every must be a multiple of measure_every: snapshots are chosen by their losses")
        return self


class Reading(Strict):
    """How curves and networks are read."""

    learned: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="accuracy from which a set counts as learned")
    key: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        description="least share of a key frequency in what waves of a + b - c explain of the logits"
    )
    few: Annotated[int, Field(ge=1)] = Field(description="frequencies whose power in the embedding is added up")
    pure: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="variance share of a single-frequency neuron")


class Dictionary(Strict):
    """The sparse autoencoders on the residual stream of the grokked networks."""

    d_sae: Annotated[int, Field(ge=1)] = Field(description="latents")
    active: Annotated[int, Field(ge=1)] = Field(description="k of TopK")
    training: SaeTraining
    in_plane: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        description="least squared length of a decoder row inside the plane of a circle, for a latent that reads it"
    )


class Measure(Strict):
    """What `measure` reads: how networks were trained, and how they are read."""

    training: Training
    reading: Reading


class MeasureDictionary(Strict):
    """What `dictionary` reads."""

    training: Training
    reading: Reading
    dictionary: Dictionary


class Settings(Strict):
    """All parts."""

    training: Training
    reading: Reading
    dictionary: Dictionary
