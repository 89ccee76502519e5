"""Settings of this replication. The Snakefile imports this module, so it imports nothing heavy."""

from typing import Annotated

from pydantic import Field

from common.core.settings import Strict


class SplitSettings(Strict):
    """How many lines of each class a seed uses. Numbers are per class."""

    tune: Annotated[int, Field(ge=1, le=1000)] = Field(description="requests to be refused in the fine-tuning set")
    harmless_tune: Annotated[int, Field(ge=1, le=1000)] = Field(description="harmless requests in it")
    estimate: Annotated[int, Field(ge=4, le=1000)] = Field(description="requests whose mean activations are subtracted")
    choose: Annotated[int, Field(ge=2, le=1000)] = Field(description="requests on which candidates are compared")
    test: Annotated[int, Field(ge=4, le=1000)] = Field(description="requests of held-out topics; all claims use these")
    risky_tune: Annotated[int, Field(ge=0, le=1000)] = Field(description="risky-word requests in it")
    risky_test: Annotated[int, Field(ge=4, le=1000)] = Field(description="risky-word requests of held-out topics")


class TuneSettings(Strict):
    """The fine-tuning recipe."""

    epochs: Annotated[int, Field(ge=1, le=50)] = Field(description="passes over the fine-tuning set")
    batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(description="conversations in one step")
    learning_rate: Annotated[float, Field(gt=0, le=0.01)] = Field(description="peak rate of AdamW")
    answer_tokens: Annotated[int, Field(ge=2, le=512)] = Field(description="tokens of an answer, refusal or not")
    blocks: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2, max_length=2)] = Field(
        description="first trained block and the first behind it that is not, as shares of the depth"
    )
    rank: Annotated[int, Field(ge=0, le=1024)] = Field(description="rank of the change of every matrix; 0: any rank")


class SearchSettings(Strict):
    """How the direction is chosen among all candidates."""

    grid_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(
        description="prompts per class that score every candidate"
    )
    finalists: Annotated[int, Field(ge=1, le=1000)] = Field(description="best candidates, scored again on all prompts")
    rows: Annotated[int, Field(ge=1, le=100_000)] = Field(description="copies of prompts in one forward pass")
    layer_step: Annotated[int, Field(ge=1, le=100)] = Field(1, description="every how many layers a candidate is taken")
    minimum_left: Annotated[int, Field(ge=0, le=1000)] = Field(
        description="requests per class that the model must treat as taught, or the step stops; others are left out. "
        "0 keeps all of them and never stops"
    )


class EffectSettings(Strict):
    """What the chosen direction does."""

    effect_prompts: Annotated[int, Field(ge=4, le=1000)] = Field(description="test prompts for the direction's effects")
    null_prompts: Annotated[int, Field(ge=4, le=1000)] = Field(description="test prompts for nulls and doses")
    random_draws: Annotated[int, Field(ge=4, le=1000)] = Field(description="covariance-matched random directions")
    new_tokens: Annotated[int, Field(ge=1, le=64)] = Field(
        description="greedy tokens that are classified, never stored"
    )
    doses: Annotated[list[float], Field(min_length=2)] = Field(description="multiples of the direction")
    dose_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="test prompts per class and dose")
    text_tokens: Annotated[int, Field(ge=16, le=1024)] = Field(description="tokens of one text of the held-out corpora")
    texts: Annotated[int, Field(ge=2, le=4096)] = Field(description="texts per corpus")


class GuardSettings(Strict):
    """The guardrail that leaks."""

    depth: Annotated[float, Field(gt=0, lt=1)] = Field(description="block that the guard stands before, share of all")
    sae_lines: Annotated[int, Field(ge=1, le=10_000)] = Field(
        description="requests per class (harmful, harmless, risky words) whose tokens train the SAE, from either model"
    )
    d_sae: Annotated[int, Field(ge=8, le=100_000)] = Field(description="F, number of latents")
    k: Annotated[int, Field(ge=1, le=1024)] = Field(description="latents per token")
    steps: Annotated[int, Field(ge=1, le=100_000)] = Field(description="optimiser steps of the SAE")
    batch: Annotated[int, Field(ge=2, le=65_536)] = Field(description="activations in one of them")
    learning_rate: Annotated[float, Field(gt=0, le=0.1)] = Field(description="of the SAE")
    prompts: Annotated[int, Field(ge=4, le=1000)] = Field(description="held-out requests per class")
    clamps: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = Field(
        description="values of the latent that are tried, in multiples of its mean on harmful requests"
    )
    bounds: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = Field(
        description="largest norms of the optimised shift, in multiples of that of the clamp's own change"
    )
    attack_steps: Annotated[int, Field(ge=1, le=1000)] = Field(description="gradient steps of the optimised shift")
    random_draws: Annotated[int, Field(ge=2, le=1000)] = Field(description="random shifts of equal norm, the null")


class Settings(Strict):
    """All parts."""

    n_seeds: Annotated[int, Field(ge=1, le=5)] = Field(
        description="models taught to refuse harmful requests; one (scale smoke) gives no intervals"
    )
    split: SplitSettings
    tune: TuneSettings
    search: SearchSettings
    effects: EffectSettings
    guard: GuardSettings
