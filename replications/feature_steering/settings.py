"""Settings of feature steering. `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import AfterValidator, Field

from common.core.settings import Strict

Count = Annotated[int, Field(ge=1)]

OUTPUT, INPUT, MEANS, PROBE = "sae_output", "sae_input", "diff_means", "probe"
WORDS, GRADIENT = "word_vector", "word_gradient"
"""Pushes towards the topic's words."""
RANDOM_LATENT, RANDOM_DIRECTION = "random_latent", "random_direction"
UNSTEERED, INSTRUCTION = "unsteered", "instruction"
TOGETHER = {f"sae_sum_{count}": count for count in (4, 32)}
"""How many latents are added up in one direction."""
STEERED = (OUTPUT, INPUT, *TOGETHER, MEANS, PROBE, WORDS, GRADIENT, RANDOM_LATENT, RANDOM_DIRECTION)
POOLS = (OUTPUT, RANDOM_LATENT, RANDOM_DIRECTION)
"""Methods whose latent or direction is chosen by what it makes the model expect, from pools of equal size."""
CROSSED = {OUTPUT: ("sae_output_0", "sae_output_1"), RANDOM_LATENT: ("random_latent_0", "random_latent_1")}
"""Of a pool: what is chosen by the first half of a topic's words and judged by the second, and the other way round."""
CURVES = (OUTPUT, MEANS, WORDS, GRADIENT, RANDOM_LATENT)
"""Methods written at every dose; the others at `dose` alone."""
SCREENED = 5
"""One answer in so many is also written at the doses beside `dose`."""
SCORING, REMOVING = "scoring", "removing"
OTHER_INPUT, OTHER_MEANS = "other_input", "other_means"
REMOVERS = {INPUT: (RANDOM_LATENT, OTHER_INPUT, WORDS), MEANS: (RANDOM_LATENT, OTHER_MEANS, WORDS)}
"""Methods pushed below zero, each with its controls: a random latent, the same method for another topic, and a push
against the logits of the topic's words."""
REMOVING_NULLS = (RANDOM_LATENT, OTHER_INPUT, OTHER_MEANS, WORDS)


def _rising(values: list[float]) -> list[float]:
    if sorted(set(values)) != values:
        raise ValueError("doses must rise")
    return values


Doses = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1), AfterValidator(_rising)]


class Concepts(Strict):
    """Everyday topics of the corpus, and what is made of their conversations."""

    count: Annotated[int, Field(ge=2)] = Field(description="topics that are steered towards")
    candidates: Count = Field(description="latents a topic puts into its seed's pool, and null latents and directions")
    held_out_tokens: Annotated[int, Field(ge=8)] = Field(description="tokens of each new conversation on a topic")
    words: Annotated[int, Field(ge=2)] = Field(description="most telling words of a topic")
    judge_layer: Annotated[int, Field(ge=1)] = Field(
        description="the linear judge reads the residual before this layer"
    )


class Writing(Strict):
    """How answers are written. Doses are shares of the mean norm of the residual stream."""

    dose: Annotated[float, Field(gt=0)] = Field(description="at which pools are tried and all methods are compared")
    doses: Doses = Field(description="of the dose curve; `dose` is one of them")
    choosing: Count = Field(description="unsteered answers on which each latent or direction of a pool is tried")
    scoring: Count = Field(description="answers of each topic and method")
    new_tokens: Annotated[int, Field(ge=4)] = Field(description="tokens of an answer")
    temperature: Annotated[float, Field(ge=0)] = Field(description="0 takes the most likely token")
    batch: Count = Field(description="answers written side by side")


class Fluency(Strict):
    """When one answer counts as fluent beside the unsteered answers to its question."""

    perplexity: Annotated[float, Field(gt=1)] = Field(description="largest ratio to unsteered perplexity")
    distinct: Annotated[float, Field(gt=0, le=1)] = Field(description="smallest share of distinct bigrams")
    least_words: Count = Field(description="different words of the topic that an answer needs to speak of it")


class Removal(Strict):
    """Requests about a topic, answered while its latent is pushed below zero."""

    doses: Doses
    strongest: Annotated[float, Field(gt=0)] = Field(
        description="dose of the controls beyond `doses`, so that they cost as much perplexity as the topic's own; "
        "the push against words also has twice this dose"
    )
    samples: Count = Field(description="answers to each request")


class Demonstration(Strict):
    """The page: the latents with the highest output score, and answers that were scored."""

    latents: Count = Field(description="how many are shown")
    questions: Count = Field(description="most questions shown of a latent")


class Released(Strict):
    """What `released` reads."""

    sae: str = Field(description="name in `config/saes.yaml`")


class Prepare(Strict):
    """What `prepare` reads."""

    sae: str
    concepts: Concepts


class Steer(Strict):
    """What `steer` reads: the answers of one seed."""

    seed: int
    writing: Writing
    fluency: Fluency
    removal: Removal | None


class Measure(Strict):
    """What `measure` reads."""

    writing: Writing
    fluency: Fluency
    removal: Removal | None


class Show(Strict):
    """What `show` reads."""

    demonstration: Demonstration
    writing: Writing


class Settings(Strict):
    """All parts. Without `removal` that part does not run."""

    sae: str = Field(description="name of SAEs of `sparse_autoencoders` without the seed; each seed uses its own")
    most_seeds: Annotated[int, Field(ge=2)] = Field(description="how many of the run's seeds are used, the first ones")
    concepts: Concepts
    writing: Writing
    fluency: Fluency
    removal: Removal | None
    demonstration: Demonstration
