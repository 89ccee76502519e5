"""Settings of the language models that are trained on natural text, apart from the others."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.core.settings import Strict
from common.toys.settings import Optimisation


class TextArm(Strict):
    """What distinguishes one kind of model; keys are plain and positions shortformer, as in the paper."""

    n_layers: Annotated[int, Field(ge=1, le=6)] = Field(description="attention layers; at least one")
    mlp: Literal["none", "relu"] = Field(description="what follows every attention layer")
    d_model: Annotated[int, Field(ge=4)] = Field(description="width of the residual stream")
    n_heads: Annotated[int, Field(ge=1)] = Field(description="heads of a layer")
    d_head: Annotated[int, Field(ge=1)] = Field(description="width of a head")


class Tokens(Strict):
    """How the corpus becomes tokens."""

    d_vocab: Annotated[int, Field(ge=64)] = Field(description="tokens in the vocabulary, learned by byte-pair encoding")
    characters: Annotated[int, Field(ge=10_000)] = Field(description="characters of the training split that are used")
    length: Annotated[int, Field(ge=16)] = Field(description="tokens of a sequence; also the context of the models")
    held_out: Annotated[int, Field(ge=4)] = Field(description="held-out documents, and held-out repeats")


class TextTraining(Strict):
    """Training and what is measured meanwhile."""

    optimisation: Optimisation
    measure_every: Annotated[int, Field(ge=1)] = Field(description="steps between measurements")
    snapshots: Annotated[list[int], Field(min_length=2)] = Field(
        description="steps whose weights are kept: 0 first, the end last, all of them steps that are measured"
    )
    n_seeds: Annotated[int, Field(ge=2)] = Field(description="how many of the run's seeds are trained")


class TextIndices(Strict):
    """In-context scores: loss at a late minus loss at an early context index."""

    late: Annotated[list[int], Field(min_length=1)] = Field(description="late context indices")
    early: Annotated[list[int], Field(min_length=1)] = Field(description="early context indices")


class NaturalText(Strict):
    """Attention-only models, and one with MLPs, on documents of the corpus."""

    arms: dict[str, TextArm] = Field(description="kinds of model; `one_layer` and `two_layers` are needed")
    tokens: Tokens
    training: TextTraining
    indices: TextIndices

    @model_validator(mode="after")
    def _complete(self) -> "NaturalText":
        if missing := {"one_layer", "two_layers"} - set(self.arms):
            raise ValueError(f"the measures of the Mathematical Framework need the arm '{min(missing)}'; add it")
        if (last := max([*self.indices.late, *self.indices.early])) >= self.tokens.length - 1:
            raise ValueError(
                f"index {last} lies beyond the {self.tokens.length - 1} predictions of a sequence; lower it"
            )
        return self
