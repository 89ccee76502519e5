"""Settings of feature steering. `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import Field, model_validator

from common.records import Strict

Count = Annotated[int, Field(ge=1)]

LEARNED = ("sae", "diff_means", "probe", "pca")
NULLS = ("random_latent", "random_direction", "permuted_means")
DIALS = (*LEARNED, *NULLS)
OF_A_SEED = ("sae", *NULLS)  # a dictionary of its own, and nulls drawn anew
CHOSEN = ("sae", "diff_means", "random_direction")  # scored at their fluent multiplier as well
CURVES = (*CHOSEN, "random_latent")  # tried at every multiplier; the others are scored at the common one only
NO_DIAL, INSTRUCTION = "unsteered", "instruction"
CHOOSING, SCORING, REMOVING = "choosing", "scoring", "removing"
REMOVALS = {
    "add": ("add", "sae"),
    "clamp": ("clamp", "sae"),
    "clamp_without_error": ("clamp_without_error", "sae"),
    "project": ("project", "sae"),
    "clamp_random": ("clamp", "random_latent"),
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


class Writing(Strict):
    """What is written."""

    multipliers: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2)] = Field(
        description="length of the added vector, as a share of the mean norm of the residual stream there"
    )
    unsteered: Count = Field(description="unsteered texts of each prompt and seed")
    choosing: Count = Field(description="prompts of each concept and seed on which every multiplier is tried")
    scoring: Count = Field(description="prompts of each concept and seed for scoring")
    new_tokens: Annotated[int, Field(ge=4)] = Field(description="tokens of a continuation")
    temperature: Annotated[float, Field(ge=0)] = Field(description="0 takes the most likely token")
    beginning: Annotated[int, Field(ge=2)] = Field(description="tokens of a document's beginning, for removal")
    equal: float = Field(description="the multiplier at which all dials are compared; one of `multipliers`")
    removal: Annotated[float, Field(gt=0)] = Field(description="multiplier of the negative interventions")
    batch: Count = Field(description="rows written side by side")

    @model_validator(mode="after")
    def _rising(self) -> "Writing":
        if sorted(set(self.multipliers)) != self.multipliers:
            raise ValueError("multipliers must rise")
        if self.equal not in self.multipliers:
            raise ValueError("equal must be one of the multipliers")
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
