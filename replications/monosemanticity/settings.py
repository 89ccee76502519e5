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
    n_seeds: Annotated[int, Field(ge=2)] = Field(description="models, each with its own dictionaries")


class Dictionaries(Strict):
    """Dictionaries on the activations of the MLP."""

    widths: Annotated[list[Annotated[int, Field(ge=8)]], Field(min_length=2)] = Field(
        description="numbers of latents, narrowest first"
    )
    width: Annotated[int, Field(ge=8)] = Field(description="width of the dictionaries that are compared with neurons")
    twins: Annotated[int, Field(ge=1)] = Field(
        description="further dictionaries of the narrowest width from other starts: how lucky a start can be"
    )
    sparsity: Annotated[int, Field(ge=1)] = Field(description="k, active latents per token")
    tokens: Annotated[int, Field(ge=1000)] = Field(description="training activations of each network")
    training: Training

    @model_validator(mode="after")
    def _ordered(self) -> "Dictionaries":
        if sorted(set(self.widths)) != self.widths or self.width not in self.widths:
            raise ValueError("widths must rise, and one of them must be 'width'")
        return self


class Measures(Strict):
    """What is read off held-out documents."""

    loss_windows: Annotated[int, Field(ge=2)] = Field(description="windows on which activations are replaced")
    set_size: Annotated[int, Field(ge=1)] = Field(description="most tokens of an explanation")
    context: Annotated[int, Field(ge=4)] = Field(description="tokens of a context that detection judges as a whole")
    least_firings: Annotated[int, Field(ge=4)] = Field(
        description="firings of a unit in each half of the documents; rarer units are left out"
    )


class Scorer(Strict):
    """A language model that scores explanations."""

    latents: Annotated[int, Field(ge=1)] = Field(description="latents of each dictionary that are scored")
    per_quarter: Annotated[int, Field(ge=1)] = Field(
        description="contexts from each quarter of a latent's activations; as many as from all four where it is silent"
    )
    words: Annotated[int, Field(ge=1)] = Field(description="most tokens of an explanation that the model is told")
    batch: Annotated[int, Field(ge=1)] = Field(description="contexts read at a time")


class Train(Strict):
    """What `train` reads."""

    text: Text
    model: Model


class Measure(Strict):
    """What the measuring steps and the browser read."""

    dictionaries: Dictionaries
    measures: Measures


class ScoreByModel(Measure):
    """What `language_scorer` reads."""

    scorer: Scorer


class Settings(Strict):
    """All parts. Without `scorer` no language model scores; without `browser` there is no example page."""

    text: Text
    model: Model
    dictionaries: Dictionaries
    measures: Measures
    scorer: Scorer | None
    browser: bool = Field(description="whether the page of all latents of one dictionary is written")
