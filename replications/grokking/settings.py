"""Settings of grokking. `config.yaml` gives the values of each scale."""

import math
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from common.core.settings import Strict
from common.saes.recipe import Training as SaeTraining

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


def _is_prime(number: int) -> int:
    if any(number % divisor == 0 for divisor in range(2, int(number**0.5) + 1)):
        raise ValueError(f"{number} is not prime; the Fourier analysis needs a prime")
    return number


class Arm(Strict):
    """What differs between the arms: one network per seed."""

    fraction: Fraction = Field(description="share of all pairs trained on")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(description="decoupled, times the learning rate")
    random_answers: bool = Field(description="answers drawn at random instead of a + b mod p")
    steps: Annotated[int, Field(ge=10)] = Field(description="full-batch AdamW steps")
    snapshot_every: Annotated[int, Field(ge=1)] = Field(description="steps between two snapshots of the weights")


class Arms(Strict):
    """`grokking` and its controls."""

    grokking: Arm
    large_share: Arm
    no_decay: Arm
    random_answers: Arm

    @model_validator(mode="after")
    def _twins(self) -> "Arms":
        few, twin, shuffled = self.grokking, self.no_decay, self.random_answers
        if (twin.fraction, twin.steps, twin.snapshot_every) != (few.fraction, few.steps, few.snapshot_every):
            raise ValueError("no_decay and grokking are twins: give them one share, steps and snapshot_every")
        if (shuffled.fraction, shuffled.steps) != (few.fraction, few.steps):
            raise ValueError("random_answers and grokking are twins: give them one share and as many steps")
        return self


class Pace(Strict):
    """One arm of the sweep: how fast weights shrink. A step takes `learning_rate` times `weight_decay` of them away."""

    weight_decay: Annotated[float, Field(ge=0.0)] = Field(description="decoupled, times the learning rate")
    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(description="after 10 steps of warm-up")
    steps: Annotated[int, Field(ge=10)] = Field(description="full-batch AdamW steps")


class Training(Strict):
    """One-layer transformers on modular addition, full batch."""

    prime: Annotated[int, Field(ge=5, le=400), AfterValidator(_is_prime)] = Field(
        description="p: the task is (a + b) mod p"
    )
    d_model: Annotated[int, Field(ge=4)] = Field(description="width of the residual stream; the MLP is 4 times as wide")
    n_heads: Annotated[int, Field(ge=1)] = Field(description="attention heads; d_model is divided among them")
    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(description="after 10 steps of warm-up")
    measure_every: Annotated[int, Field(ge=1)] = Field(description="steps between two measurements of the losses")

    @model_validator(mode="after")
    def _fits(self) -> "Training":
        if self.d_model % self.n_heads:
            raise ValueError(f"{self.n_heads} heads do not divide d_model = {self.d_model}")
        return self


class TrainArm(Strict):
    """What `train` reads: one arm, and what all of them share."""

    arm: Arm
    training: Training


class Paces(Strict):
    """Arms of the sweep over weight decay."""

    whole: Pace
    half: Pace
    quarter: Pace
    eighth: Pace
    none: Pace
    slow: Pace

    @model_validator(mode="after")
    def _compares(self) -> "Paces":
        one, half, slow = self.whole, self.half, self.slow
        if any(pace.learning_rate != one.learning_rate for pace in (half, self.quarter, self.eighth, self.none)):
            raise ValueError("whole, half, quarter, eighth and none differ in weight decay alone: give them one rate")
        decays = [pace.weight_decay for pace in (one, half, self.quarter, self.eighth, self.none)]
        if decays[-1] or decays != sorted({*decays}, reverse=True):
            raise ValueError("weight decay falls from whole to half, quarter and eighth, and is 0 in none")
        products = [pace.learning_rate * pace.weight_decay for pace in (slow, half)]
        if slow.learning_rate == one.learning_rate or not math.isclose(*products):
            raise ValueError("slow has another learning rate than half, and the same product of rate and weight decay")
        return self


class DecaySweep(Strict):
    """How the time to generalise depends on weight decay: networks of one size, one per seed and arm."""

    training: Training = Field(description="size; each arm has its own learning rate")
    fraction: Fraction = Field(description="share of all pairs trained on")
    arms: Paces


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
    arms: Arms
    reading: Reading


class MeasureDictionary(Strict):
    """What `dictionary` reads."""

    training: Training
    reading: Reading
    dictionary: Dictionary


class MeasureDecay(Strict):
    """What `measure_decay` reads."""

    decay_sweep: DecaySweep
    reading: Reading


class Settings(Strict):
    """All parts. None leaves a part out."""

    training: Training
    arms: Arms
    reading: Reading
    dictionary: Dictionary
    decay_sweep: DecaySweep | None

    @model_validator(mode="after")
    def _measured(self) -> "Settings":
        if self.arms.grokking.snapshot_every % self.training.measure_every:
            raise ValueError("snapshot_every must be a multiple of measure_every: snapshots are chosen by their losses")
        return self
