"""Settings and schedules of SAE training. Imports nothing heavy: the workflow reads them at start-up."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.core.settings import Strict

ArchitectureName = Literal[
    "relu_bricken",
    "relu_april",
    "gated",
    "topk",
    "batch_topk",
    "jumprelu",
    "matryoshka",
    "matching_pursuit",
    "transcoder",
    "skip_transcoder",
    "cross_layer",
]


class Recipe(Strict):
    """One SAE of a sweep."""

    architecture: ArchitectureName
    d_sae: Annotated[int, Field(ge=1)] = Field(description="F, number of latents (per layer for cross_layer)")
    sparsity: Annotated[float, Field(gt=0)] = Field(description="k of the TopK family, otherwise the L0 aimed at")
    seed: int = Field(0, description="of the initial weights")
    auxiliary: bool = Field(True, description="AuxK loss, which revives dead latents (TopK family)")
    source: str = Field("activations", description="which of the streams it is trained on")
    layers: Annotated[int, Field(ge=1)] = Field(1, description="cross_layer: layers on the feature axis of the data")

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        if self.sparsity > self.d_sae:
            raise ValueError(f"sparsity {self.sparsity:g} exceeds the number of latents {self.d_sae}")
        if self.architecture in ("topk", "matching_pursuit", "cross_layer") and self.sparsity != int(self.sparsity):
            raise ValueError(
                f"{self.architecture} keeps a whole number of latents, at least 1, so sparsity cannot be "
                f"{self.sparsity:g}; round it, or use batch_topk, where k is a mean"
            )
        if (self.layers > 1) != (self.architecture == "cross_layer"):
            raise ValueError(
                f"{self.architecture} with layers = {self.layers}: cross_layer needs at least 2 layers (for one, use "
                "transcoder), and all other architectures have 1"
            )
        return self


class Training(Strict):
    """How a sweep is trained. Deviations from the papers are on the pages of the replications that train."""

    steps: Annotated[int, Field(ge=1)] = Field(description="optimiser steps")
    batch: Annotated[int, Field(ge=2)] = Field(description="activations per step")
    learning_rate: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="after the warm-up; null: 2e-4 / sqrt(d_sae / 2^14), the rule of Gao et al. 2024"
    )
    warmup: Annotated[int, Field(ge=0)] = Field(description="steps of linear warm-up")
    decay_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="last share of the steps, with linear decay to 0"
    )
    clip: Annotated[float, Field(gt=0)] = Field(1.0, description="largest gradient norm of a member")
    dead_after: Annotated[int, Field(ge=1)] = Field(description="activations of silence after which a latent is dead")
    anneal_from: Annotated[float, Field(ge=1)] = Field(1.0, description="k of the TopK family starts at this multiple")
    anneal_share: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="and falls to k in this share of steps")
    sparsity_warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.05, description="share of the steps in which the price of active latents rises from 0 (L1, gated, JumpReLU)"
    )
    bandwidth: Annotated[float, Field(gt=0)] = Field(
        0.5, description="epsilon of the JumpReLU gradient estimate, in units of the mean threshold"
    )
    controller_gain: Annotated[float, Field(gt=0, le=1)] = Field(
        0.03, description="how fast the L1 coefficient follows the L0 aimed at"
    )
    resample_at: list[int] | None = Field(
        None,
        description="steps at which relu_bricken resamples; null: after 1/8, 2/8, 3/8, 4/8 of them, as the paper",
    )
    resample_pool: Annotated[int, Field(ge=1)] = Field(16, description="latest batches from which it draws inputs")
    trace_every: Annotated[int, Field(ge=1)] = Field(20, description="steps between two entries of the traces")
    checkpoint_every: Annotated[int, Field(ge=1)] = Field(100, description="steps between two checkpoints")


def learning_rate(settings: Training, step: int, d_sae: int) -> float:
    """Linear warm-up, constant, then linear decay to 0."""
    left = (settings.steps - step) / max(1.0, settings.decay_share * settings.steps)
    most = settings.learning_rate or 2e-4 * (2**14 / d_sae) ** 0.5
    return most * min(1.0, (step + 1) / (settings.warmup + 1), left)


def price_now(settings: Training, step: int) -> float:
    """Share of the price of active latents: rises linearly to 1."""
    return min(1.0, (step + 1) / (settings.sparsity_warmup * settings.steps + 1))


def resampling_steps(settings: Training) -> list[int]:
    """Steps after which `relu_bricken` resamples."""
    eighths = [settings.steps * part // 8 for part in (1, 2, 3, 4)]
    return eighths if settings.resample_at is None else settings.resample_at


def k_now(recipes: list[Recipe], settings: Training, step: int) -> list[float]:
    """k of the TopK family at a step: constant, or falling linearly from a multiple of it."""
    left = 1 - step / max(1.0, settings.anneal_share * settings.steps)
    more = 1 + (settings.anneal_from - 1) * max(0.0, left) if settings.anneal_share > 0 else 1.0
    return [min(recipe.sparsity * more, recipe.d_sae) for recipe in recipes]
