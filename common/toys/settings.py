"""Settings of the small networks that are trained here. Imports nothing heavy: the workflow reads them at start-up."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.core.settings import Strict

Keys = Literal["plain", "smeared", "smeared_two_back"]
KEYS = Field(description="smeared: every key is mixed with its predecessor; two back: with the one before that")


class Architecture(Strict):
    """Shape of a transformer of `common.toys.transformer`. An MLP, where there is one, is 4 d_model wide."""

    n_layers: Annotated[int, Field(ge=1, le=16)] = Field(description="attention layers; at least one")
    keys: Keys = KEYS
    positions: Literal["shortformer", "standard", "rotary"] = Field(description="where positions enter")
    mlp: Literal["none", "relu"] = Field(description="what follows every attention layer")
    d_model: Annotated[int, Field(ge=2)] = Field(description="width of the residual stream")
    n_heads: Annotated[int, Field(ge=1)] = Field(description="heads of a layer")
    d_head: Annotated[int, Field(ge=1)] = Field(description="width of a head")
    d_vocab: Annotated[int, Field(ge=2)] = Field(description="tokens in the vocabulary")
    n_ctx: Annotated[int, Field(ge=2)] = Field(description="longest sequence")

    @model_validator(mode="after")
    def _pairs(self) -> "Architecture":
        if self.positions == "rotary" and self.d_head % 2:
            raise ValueError("rotary positions turn pairs: d_head must be even")
        return self


class Optimisation(Strict):
    """How the models of `common.toys.training` are trained."""

    steps: Annotated[int, Field(ge=1)] = Field(description="optimiser steps")
    batch: Annotated[int, Field(ge=1)] = Field(description="sequences or points per step and instance")
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = Field(description="after the warm-up")
    decay: Literal["constant", "cosine"] = Field(
        default="constant", description="after the warm-up: the rate stays, or falls to 0 along a half cosine"
    )
    warmup: Annotated[int, Field(ge=0)] = Field(description="steps of linear warm-up")
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(description="decay of the first moment")
    beta2: Annotated[float, Field(ge=0, lt=1)] = Field(description="decay of the second moment")
    weight_decay: Annotated[float, Field(ge=0)] = Field(description="decoupled, times the learning rate")
    clip: Annotated[float, Field(gt=0)] = Field(description="largest gradient norm of an instance")
