"""Settings of `circuit_tracing`; `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import Field

from common.core.settings import Strict
from common.saes.recipe import Training
from common.toys.settings import Optimisation

Share = Annotated[float, Field(gt=0, lt=1)]


class Task(Strict):
    """The two-hop task (task.py)."""

    names: Annotated[int, Field(ge=2)] = Field(description="first names, and as many last names")
    classes: Annotated[int, Field(ge=2)] = Field(description="classes of names, and as many answers")
    relations: Annotated[int, Field(ge=2)] = Field(description="relations")
    held_out: Share = Field(description="share of all prompts that the model never sees")


class Model(Strict):
    """The models that learn the task."""

    n_layers: Annotated[int, Field(ge=2)]
    d_model: Annotated[int, Field(ge=4)]
    n_heads: Annotated[int, Field(ge=1)]
    optimisation: Optimisation


class Dictionaries(Strict):
    """The transcoders of the two-hop models."""

    d_sae: Annotated[int, Field(ge=4)] = Field(description="features of a layer")
    k: Annotated[float, Field(gt=0)] = Field(description="active features of a token on average")
    training: Training


class Toy(Strict):
    """Task, models and transcoders."""

    task: Task
    model: Model
    dictionaries: Dictionaries


class Measures(Strict):
    """What is measured on the two-hop models."""

    prompts: Annotated[int, Field(ge=2)] = Field(description="held-out, rightly answered prompts of each seed")
    top: Annotated[int, Field(ge=1)] = Field(description="features that are ablated or swapped together")
    completeness: Share = Field(description="of the graphs whose sizes are compared")


class Planted(Strict):
    """The planted circuit (planted.py)."""

    d_model: Annotated[int, Field(ge=8)] = Field(description="width of the stream, less than there are directions")
    voices: Annotated[int, Field(ge=1)] = Field(description="strings that are read at the same time, a token each")
    tokens: Annotated[int, Field(ge=4)] = Field(description="vocabulary of a voice")
    strings: Annotated[int, Field(ge=2)] = Field(description="strings of four tokens of a voice, each with an answer")
    length: Annotated[int, Field(ge=5)] = Field(description="tokens of a prompt, the first of which is empty")
    sequences: Annotated[int, Field(ge=8)] = Field(description="prompts on which transcoders are trained")
    prompts: Annotated[int, Field(ge=2)] = Field(description="prompts whose graphs are judged")
    dictionaries: Dictionaries


class Language(Strict):
    """A transcoder for each MLP of a language model, and graphs of prompts."""

    window: Annotated[int, Field(ge=8)] = Field(description="tokens of a training window")
    docs_tokens: Annotated[int, Field(ge=100)] = Field(description="of the corpus python-docs, for training")
    chat_tokens: Annotated[int, Field(ge=100)] = Field(description="of the corpus self-chat, for training")
    held_out_tokens: Annotated[int, Field(ge=100)] = Field(description="of each corpus, for judging")
    chunk: Annotated[int, Field(ge=1)] = Field(description="windows of one forward pass, whose tokens are kept")
    reuse: Annotated[int, Field(ge=1)] = Field(description="optimiser steps on the tokens of one pass")
    d_sae: Annotated[int, Field(ge=8)] = Field(description="features of a layer")
    k: Annotated[float, Field(gt=0)] = Field(description="active features of a token on average")
    training: Training
    most: Annotated[int, Field(ge=8)] = Field(description="features of a graph that get incoming edges")
    prompts: dict[str, Annotated[str, Field(min_length=1)]] = Field(description="prompts of the graphs, by name")


class Traces(Strict):
    """Graphs of many prompts of the language model (language_traces.py)."""

    fitted_passages: Annotated[int, Field(ge=1)] = Field(
        description="passages of `language.chunk` windows on which decoders of untrained encoders are fitted"
    )
    prompts: Annotated[int, Field(ge=2, multiple_of=2)] = Field(description="prompts, half from each corpus")
    length: Annotated[int, Field(ge=4)] = Field(description="tokens of a prompt")
    sure: Share = Field(description="least probability of the likeliest next token")
    most: Annotated[int, Field(ge=8)] = Field(description="features of a graph that get incoming edges")
    sites: Annotated[int, Field(ge=2)] = Field(description="layers and positions from which features are drawn")
    each: Annotated[int, Field(ge=3)] = Field(description="features of a site that are ablated one by one")


class CrossLayer(Strict):
    """One cross-layer transcoder of the language model, on the text of `language`, with its `k`."""

    d_sae: Annotated[int, Field(ge=8)] = Field(description="features of a layer")
    training: Training


class Traced(Strict):
    """Text and sizes of the transcoders, and the graphs of many prompts."""

    language: Language
    traces: Traces


class Crossed(Traced):
    """The same, and the cross-layer transcoder."""

    cross: CrossLayer


class Settings(Strict):
    """All parts; `language`, `traces` and `cross` are null where no language model is traced."""

    toy: Toy
    measures: Measures
    planted: Planted
    language: Language | None
    traces: Traces | None
    cross: CrossLayer | None
