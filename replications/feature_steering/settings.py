"""Settings of feature steering. `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from common.core.settings import Strict

Count = Annotated[int, Field(ge=1)]

LEARNED = ("sae", "diff_means", "probe", "pca")
NULLS = ("random_latent", "random_direction", "permuted_means")
DIALS = (*LEARNED, *NULLS)
OF_A_SEED = ("sae", *NULLS)  # a dictionary of its own, and nulls drawn anew
RANDOM = "random_direction"
NULL_OF = {"diff_means": "permuted_means", "sae": "random_latent"}
"""Dials with a fluent length of their own, and for each the null that shares its recipe but not its concept."""
CHOSEN = tuple(NULL_OF)
CURVES = (*NULL_OF, RANDOM, *NULL_OF.values())  # written at every dose; the others at the common length only
NO_DIAL, INSTRUCTION = "unsteered", "instruction"
CHOOSING, SCORING, REMOVING = "choosing", "scoring", "removing"
PROMPTED = (CHOOSING, SCORING)
REMOVALS = {
    "add": ("add", "sae"),
    "clamp": ("clamp", "sae"),
    "clamp_without_error": ("clamp_without_error", "sae"),
    "project": ("project", "sae"),
    "clamp_random": ("clamp", "random_latent"),
    "add_random": ("add", "random_latent"),
}
"""Arms of the removal: kind of intervention, and whose direction or latent."""


class Concepts(Strict):
    """Documented modules: which, and how many documents of each serve for what. No document serves twice."""

    count: Annotated[int, Field(ge=3)] = Field(description="the modules with the most docstrings")
    training: Annotated[int, Field(ge=3)] = Field(description="documents from which every dial is made")
    judging: Annotated[int, Field(ge=3)] = Field(description="documents from which the judges are made")
    scaling: Annotated[int, Field(ge=2)] = Field(description="documents that fix the judges' scale and accuracy")
    texts: Count = Field(description="documents whose beginnings are continued, for removal")
    tokens: Annotated[int, Field(ge=8)] = Field(description="tokens read of a document")
    judge_layer: Annotated[int, Field(ge=1)] = Field(description="the probe reads the residual before this layer")
    lexicon: Count = Field(description="most telling tokens of a module")
    batch: Count = Field(description="documents in one forward pass")


def _rising(lengths: list[float]) -> list[float]:
    if sorted(set(lengths)) != lengths:
        raise ValueError("lengths must rise")
    return lengths


Lengths = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1), AfterValidator(_rising)]


class Writing(Strict):
    """What is written. Lengths of added vectors are shares of the mean norm of the residual stream there."""

    doses: Lengths = Field(description="lengths of the added vector at which the scoring prompts are continued")
    equal: float = Field(description="the length at which all dials are compared; one of `doses`")
    fluent: Lengths = Field(description="lengths from which the fluent one is chosen, on the choosing prompts")
    beyond: Lengths = Field(description="longer ones, for half of the choosing prompts: where do texts fall apart?")
    choosing: Count = Field(description="prompts of each concept and seed on which lengths are tried")
    scoring: Count = Field(description="prompts of each concept and seed for scoring")
    new_tokens: Annotated[int, Field(ge=4)] = Field(description="tokens of a continuation")
    temperature: Annotated[float, Field(ge=0)] = Field(description="0 takes the most likely token")
    beginning: Annotated[int, Field(ge=2)] = Field(description="tokens of a document's beginning, for removal")
    removal: Annotated[float, Field(gt=0)] = Field(description="multiplier of the negative interventions")
    batch: Count = Field(description="rows written side by side")

    @model_validator(mode="after")
    def _one_of_the_doses(self) -> "Writing":
        if self.equal not in self.doses:
            raise ValueError("equal must be one of the doses")
        return self


class Fluency(Strict):
    """When a dial counts as fluent, compared with the unsteered continuations of the same prompts."""

    perplexity: Annotated[list[float], Field(min_length=2, max_length=2)] = Field(description="allowed ratios")
    collapse: Annotated[float, Field(gt=1)] = Field(description="perplexity ratio above which a dial has collapsed")
    distinct: Annotated[float, Field(gt=0, le=1)] = Field(description="smallest allowed ratio of distinct bigrams")


class Demonstration(Strict):
    """Latents chosen by rule, turned in a conversation."""

    latents: Count = Field(description="how many are shown")
    density: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)] = Field(
        description="band of the share of tokens on which a latent fires"
    )
    contexts: Annotated[int, Field(ge=3)] = Field(description="strongest contexts of a latent, one per document")
    multipliers: list[float] = Field(description="times the largest value seen")
    new_tokens: Annotated[int, Field(ge=4)] = Field(description="tokens of an answer")


class Settings(Strict):
    """All parts."""

    sae: str = Field(description="name of SAEs of `sparse_autoencoders` without the seed; each seed uses its own")
    most_seeds: Annotated[int, Field(ge=2)] = Field(description="how many of the run's seeds are used, the first ones")
    concepts: Concepts
    writing: Writing
    fluency: Fluency
    demonstration: Demonstration
