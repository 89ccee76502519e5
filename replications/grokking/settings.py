"""Settings of grokking. `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from common.core.settings import Strict

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


def _is_prime(number: int) -> int:
    if any(number % divisor == 0 for divisor in range(2, int(number**0.5) + 1)):
        raise ValueError(f"{number} is not prime; the Fourier analysis needs a prime")
    return number


Prime = Annotated[int, Field(ge=5, le=400), AfterValidator(_is_prime)]


class Training(Strict):
    """Quadratic networks on modular addition, full batch, one instance per condition and seed."""

    prime: Prime = Field(description="p: the task is (a + b) mod p")
    width: Annotated[int, Field(ge=2)] = Field(description="hidden units")
    steps: Annotated[int, Field(ge=10)] = Field(description="full-batch AdamW steps")
    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(description="constant")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(description="decoupled, times the learning rate")
    fractions: Annotated[list[Fraction], Field(min_length=2)] = Field(description="shares of all pairs trained on")
    side_fraction: Fraction = Field(description="share trained on by the arms random labels and no weight decay")


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


class Transformer(Strict):
    """One-layer transformers on the same task (Nanda et al. 2023)."""

    prime: Prime = Field(description="p: the task is (a + b) mod p")
    d_model: Annotated[int, Field(ge=4)] = Field(description="width of the residual stream; the MLP is 4 times as wide")
    n_heads: Annotated[int, Field(ge=1)] = Field(description="attention heads; d_model is divided among them")
    steps: Annotated[int, Field(ge=10)] = Field(description="full-batch AdamW steps")
    learning_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(description="after 10 steps of warm-up")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(description="decoupled, times the learning rate")
    late_fraction: Fraction = Field(description="share of all pairs trained on")
    prompt_fraction: Fraction = Field(description="large share, where generalisation comes at once (the control)")
    measure_every: Annotated[int, Field(ge=1)] = Field(description="steps between two measurements of the losses")
    snapshot_every: Annotated[int, Field(ge=1)] = Field(description="steps between two snapshots; a multiple of that")
    key: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        description="least share of a key frequency in what waves of a + b - c explain of the logits"
    )

    @model_validator(mode="after")
    def _fits(self) -> "Transformer":
        if self.d_model % self.n_heads:
            raise ValueError(f"{self.n_heads} heads do not divide d_model = {self.d_model}")
        if self.snapshot_every % self.measure_every:
            raise ValueError(
                "snapshot_every must be a multiple of measure_every: snapshots are chosen by their accuracy"
            )
        return self


class Measure(Strict):
    """What `measure` reads: how networks were trained, and how they are judged."""

    training: Training
    judging: Judging


class MeasureTransformer(Strict):
    """What `measure_transformer` reads."""

    judging: Judging
    transformer: Transformer


class Settings(Strict):
    """All parts. Without `transformer` the transformers are neither trained nor measured."""

    training: Training
    judging: Judging
    transformer: Transformer | None
