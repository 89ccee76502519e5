"""Settings of feature steering. `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from common.core.settings import Strict

Count = Annotated[int, Field(ge=1)]

LEARNED = ("sae", "diff_means", "probe", "pca")
NULLS = ("random_latent", "random_direction", "permuted_means")
METHODS = (*LEARNED, *NULLS)
OF_A_SEED = ("sae", *NULLS)  # a dictionary of its own, and nulls drawn anew
RANDOM = "random_direction"
NULL_OF = {"diff_means": "permuted_means", "sae": "random_latent"}
"""Methods with a fluent length of their own, and for each the null that shares its recipe but not its concept."""
CHOSEN = tuple(NULL_OF)
CURVES = (*NULL_OF, RANDOM, *NULL_OF.values())  # written at every dose; the others at the common length only
UNSTEERED, INSTRUCTION = "unsteered", "instruction"
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
REMOVAL_CONTROLS = ("clamp_random", "add_random")


class Concepts(Strict):
    """Documented modules: which, and how many documents of each serve for what. No document serves twice."""

    count: Annotated[int, Field(ge=3)] = Field(description="the modules with the most docstrings")
    training: Annotated[int, Field(ge=3)] = Field(description="documents from which every steering vector is made")
    judging: Annotated[int, Field(ge=3)] = Field(description="documents from which the judges are made")
    scaling: Annotated[int, Field(ge=2)] = Field(description="documents that fix the judges' scale and accuracy")
    texts: Count = Field(description="documents whose beginnings are continued, for removal")
    tokens: Annotated[int, Field(ge=8)] = Field(description="tokens read of a document")
    judge_layer: Annotated[int, Field(ge=1)] = Field(description="the probe reads the residual before this layer")
    lexicon: Count = Field(description="most telling tokens of a module")
    contexts: Annotated[int, Field(ge=3)] = Field(description="strongest contexts recorded of a latent, one a document")
    batch: Count = Field(description="documents in one forward pass")


def _rising(lengths: list[float]) -> list[float]:
    if sorted(set(lengths)) != lengths:
        raise ValueError("lengths must rise")
    return lengths


Lengths = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1), AfterValidator(_rising)]


class Writing(Strict):
    """How texts are written, and which for scoring. Lengths are shares of the mean norm of the residual stream."""

    doses: Lengths = Field(description="lengths of the added vector at which the scoring prompts are continued")
    equal: float = Field(description="the length at which all methods are compared; one of `doses`")
    scoring: Count = Field(description="prompts of each concept and seed for scoring")
    new_tokens: Annotated[int, Field(ge=4)] = Field(description="tokens of a continuation")
    temperature: Annotated[float, Field(ge=0)] = Field(description="0 takes the most likely token")
    batch: Count = Field(description="rows written side by side")

    @model_validator(mode="after")
    def _one_of_the_doses(self) -> "Writing":
        if self.equal not in self.doses:
            raise ValueError("equal must be one of the doses")
        return self


class Fluency(Strict):
    """How a fluent length is chosen, and when texts count as fluent beside the unsteered ones of their prompts."""

    lengths: Lengths = Field(description="lengths from which the fluent one is chosen, on the choosing prompts")
    beyond: Lengths = Field(description="longer ones, for half of the choosing prompts: where do texts fall apart?")
    prompts: Count = Field(description="choosing prompts of each concept and seed; none of them is scored")
    perplexity: Annotated[list[float], Field(min_length=2, max_length=2)] = Field(description="allowed ratios")
    collapse: Annotated[float, Field(gt=1)] = Field(description="perplexity ratio above which texts have collapsed")
    distinct: Annotated[float, Field(gt=0, le=1)] = Field(description="smallest allowed ratio of distinct bigrams")


class Removal(Strict):
    """Documents on a concept, continued while its latent is pushed down."""

    beginning: Annotated[int, Field(ge=2)] = Field(description="tokens of a document's beginning")
    strength: Annotated[float, Field(gt=0)] = Field(description="length taken away, a share of the mean norm")


class Demonstration(Strict):
    """Latents chosen by rule, held in a conversation."""

    latents: Count = Field(description="how many are shown")
    density: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)] = Field(
        description="band of the share of tokens on which a latent fires"
    )
    contexts: Annotated[int, Field(ge=3)] = Field(description="least contexts of a latent that is shown")
    multipliers: list[float] = Field(description="times the largest value seen")
    new_tokens: Annotated[int, Field(ge=4)] = Field(description="tokens of an answer")


class Released(Strict):
    """What `released` reads."""

    sae: str = Field(description="name in `config/saes.yaml`")


class Prepare(Strict):
    """What `prepare` reads."""

    sae: str
    concepts: Concepts


class Steer(Strict):
    """What `steer` reads: one part of the texts of one seed."""

    part: str
    seed: int
    writing: Writing
    fluency: Fluency | None
    removal: Removal | None


class Measure(Strict):
    """What `measure` reads."""

    writing: Writing
    fluency: Fluency | None


class Settings(Strict):
    """All parts. Without `fluency`, `removal` or `demonstration` that part does not run."""

    sae: str = Field(description="name of SAEs of `sparse_autoencoders` without the seed; each seed uses its own")
    most_seeds: Annotated[int, Field(ge=2)] = Field(description="how many of the run's seeds are used, the first ones")
    concepts: Concepts
    writing: Writing
    fluency: Fluency | None
    removal: Removal | None
    demonstration: Demonstration | None
