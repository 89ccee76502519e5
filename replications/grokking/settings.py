"""Settings of grokking. `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import Field, model_validator

from common.records import Strict

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


class Training(Strict):
    """Quadratic networks on modular addition, full batch, one instance per condition and seed."""

    prime: Annotated[int, Field(ge=5, le=400)] = Field(description="p: the task is (a + b) mod p")
    width: Annotated[int, Field(ge=2)] = Field(description="hidden units")
    steps: Annotated[int, Field(ge=10)] = Field(description="full-batch AdamW steps")
    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(description="constant")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(description="decoupled, times the learning rate")
    fractions: Annotated[list[Fraction], Field(min_length=2)] = Field(description="shares of all pairs trained on")
    side_fraction: Fraction = Field(description="share trained on by the arms random labels and no weight decay")

    @model_validator(mode="after")
    def _prime(self) -> "Training":
        if any(self.prime % divisor == 0 for divisor in range(2, int(self.prime**0.5) + 1)):
            raise ValueError(f"{self.prime} is not prime; the Fourier analysis needs a prime")
        return self


class Judging(Strict):
    """How curves and weights are read."""

    learned: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="accuracy from which a set counts as learned")
    pure: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="power share of a single-frequency neuron")
    live: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        description="smallest |U_k| |V_k| |W_k| of a neuron that counts, as a share of the largest"
    )
    late_fraction: Fraction = Field(description="small training share: generalisation comes late")
    prompt_fraction: Fraction = Field(description="large training share: it comes at once (the control)")
    weights_fraction: Fraction = Field(description="training share of the networks whose weights are read")


class Settings(Strict):
    """All parts."""

    training: Training
    judging: Judging
