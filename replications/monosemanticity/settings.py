"""Settings of `monosemanticity`. `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import Field, model_validator

from common.core.settings import Strict
from common.saes.recipe import Training
from common.toys.settings import Optimisation


class Text(Strict):
    """How the corpus becomes tokens."""

    d_vocab: Annotated[int, Field(ge=64)] = Field(description="tokens in the vocabulary, learned by byte-pair encoding")
    characters: Annotated[int, Field(ge=10_000)] = Field(description="characters of the training split that are used")
    length: Annotated[int, Field(ge=16)] = Field(description="tokens of a window; also the context of the models")
    windows: Annotated[int, Field(ge=8)] = Field(description="held-out windows")
    per_document: Annotated[int, Field(ge=1)] = Field(description="most windows of one held-out document")


class Model(Strict):
    """The one-layer transformer; its MLP has 4 d_model neurons."""

    d_model: Annotated[int, Field(ge=8)] = Field(description="width of the residual stream")
    n_heads: Annotated[int, Field(ge=1)] = Field(description="attention heads")
    d_head: Annotated[int, Field(ge=2)] = Field(description="width of a head")
    optimisation: Optimisation
    measure_every: Annotated[int, Field(ge=1)] = Field(description="steps between measurements of the held-out loss")


class Dictionaries(Strict):
    """Dictionaries on the activations of the MLP; the widest one is compared with neurons."""

    widths: Annotated[list[Annotated[int, Field(ge=8)]], Field(min_length=2)] = Field(
        description="numbers of latents, narrowest first"
    )
    sparsity: Annotated[int, Field(ge=1)] = Field(description="k, active latents per token")
    tokens: Annotated[int, Field(ge=1000)] = Field(description="training activations of each network")
    relu: bool = Field(description="whether the paper's architecture is trained at the widest width as well")
    training: Training

    @model_validator(mode="after")
    def _ordered(self) -> "Dictionaries":
        if sorted(set(self.widths)) != self.widths:
            raise ValueError("widths must rise")
        return self


class Measures(Strict):
    """What is read off held-out documents."""

    least_firings: Annotated[int, Field(ge=4)] = Field(
        description="tokens on which a unit must fire in each half of the documents to be judged"
    )
    pushed: Annotated[int, Field(ge=8)] = Field(description="tokens at which units are pushed along their direction")


class Train(Strict):
    """What `train` reads."""

    text: Text
    model: Model


class Measure(Strict):
    """What the measuring steps and the browser read."""

    dictionaries: Dictionaries
    measures: Measures


class Settings(Strict):
    """All parts. Without `browser` there is no page of all latents."""

    text: Text
    model: Model
    dictionaries: Dictionaries
    measures: Measures
    browser: bool = Field(description="whether the page of all latents of one dictionary is written")
