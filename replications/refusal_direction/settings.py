"""Settings of the refusal direction. `config.yaml` gives the values of each scale."""

from typing import Annotated, Literal

from pydantic import Field

from common.core.settings import Strict

Share = Annotated[float, Field(ge=0, le=1)]
Switch = Literal["harmful", "food"]
Count = Annotated[int, Field(ge=1, le=100_000)]


class SplitSettings(Strict):
    """How many requests of each class a seed uses."""

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
    blocks: Annotated[list[Share], Field(min_length=2, max_length=2)] = Field(
        description="first trained block and the first behind it that is not, as shares of the depth"
    )
    rank: Annotated[int, Field(ge=0, le=1024)] = Field(description="rank of the change of every matrix; 0: any rank")


class SearchSettings(Strict):
    """How the direction is chosen among all candidates."""

    grid_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="requests per class that score a candidate")
    finalists: Annotated[int, Field(ge=1, le=1000)] = Field(description="best candidates, scored again on all requests")
    rows: Count = Field(description="copies of requests in one forward pass")
    layer_step: Annotated[int, Field(ge=1, le=100)] = Field(1, description="every how many layers a candidate is taken")
    minimum_left: Annotated[int, Field(ge=0, le=1000)] = Field(
        description="requests per class that the model must treat as taught, or the step stops; others are left out. "
        "0 keeps all of them and never stops"
    )


class EffectSettings(Strict):
    """What the direction and its controls do to held-out requests."""

    prompts: Annotated[int, Field(ge=4, le=1000)] = Field(
        description="requests per class, under the direction and under every control alike"
    )
    random_draws: Annotated[int, Field(ge=4, le=1000)] = Field(description="covariance-matched random directions")
    new_tokens: Annotated[int, Field(ge=1, le=64)] = Field(description="greedy tokens that are classified, not stored")


class CurveSettings(Strict):
    """Dose-response curves, projections layer by layer, and texts of refusal that were never shown."""

    doses: Annotated[list[float], Field(min_length=2)] = Field(description="multiples of the direction")
    dose_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="requests per class and dose")
    text_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(
        description="requests per class before which refusal texts that were never shown are scored"
    )


class SideEffectSettings(Strict):
    """What else the ablation changes: losses, first tokens, small abilities; and where tuning changed the weights."""

    text_tokens: Annotated[int, Field(ge=16, le=1024)] = Field(description="tokens of one text of the held-out corpora")
    texts: Annotated[int, Field(ge=2, le=4096)] = Field(description="texts per corpus")
    prompts: Annotated[int, Field(ge=2, le=1000)] = Field(
        description="requests per class for the KL of the first token"
    )


class GuardSettings(Strict):
    """The guardrail of one SAE latent, and attacks on it."""

    depth: Annotated[float, Field(gt=0, lt=1)] = Field(description="block that the guard stands before, share of all")
    sae_lines: Annotated[int, Field(ge=1, le=10_000)] = Field(
        description="requests per class (harmful, harmless, risky words) whose tokens train the SAE, from either model"
    )
    d_sae: Annotated[int, Field(ge=8, le=100_000)] = Field(description="number of latents")
    k: Annotated[int, Field(ge=1, le=1024)] = Field(description="latents per token")
    steps: Count = Field(description="optimiser steps of the SAE")
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
    random_draws: Annotated[int, Field(ge=2, le=1000)] = Field(description="random shifts of equal norm, the control")


class ConeSettings(Strict):
    """Cones of directions, and the search for them."""

    dimensions: list[Annotated[int, Field(ge=1, le=5)]] = Field(description="numbers of dimensions k; 1 is a direction")
    steps: Count = Field(description="steps of the optimiser")
    batch: Count = Field(description="requests of each class in one of them")
    learning_rate: Annotated[float, Field(gt=0)] = Field(description="of AdamW, for rows of length 1")
    draws: Count = Field(description="directions of each cone that are measured beside its axes")
    prompts: Count = Field(description="held-out requests of each class")
    rows: Count = Field(description="copies of requests in one forward pass")


class TransferSettings(Strict):
    """Which dictionary of `sparse_autoencoders` reads the tuned models, and on how much text."""

    sae: str = Field(description="name of an SAE of `sparse_autoencoders`, without its seed")
    windows: Annotated[int, Field(ge=2)] = Field(description="held-out windows, from all corpora")
    loss_windows: Count = Field(description="those of them on which cross-entropy is measured")
    batch: Count = Field(description="windows in one forward pass")


class ReleasedSettings(Strict):
    """How many of the paper's requests one seed of a released model uses, per class."""

    estimate: Annotated[int, Field(ge=4)] = Field(description="whose mean activations are subtracted")
    choose: Annotated[int, Field(ge=2)] = Field(description="on which candidates are compared")
    test: Annotated[int, Field(ge=4)] = Field(description="of the test split; all claims use these")
    risky: Annotated[int, Field(ge=4)] = Field(description="harmless requests with risky words, of `lists.yaml`")
    new_tokens: Count = Field(description="greedy tokens that are classified, not stored")


class FineTune(Strict):
    """What `fine_tune` reads."""

    switch: Switch = Field(description="class that is refused; food by a sham model")
    seed: int = Field(description="topics, texts and order")
    split: SplitSettings
    tune: TuneSettings


class Study(Strict):
    """What `study` reads. Of a sham model there are neither curves nor side effects."""

    switch: Switch = Field(description="class that the tuned model refuses")
    seed: int = Field(description="as in fine-tuning")
    split: SplitSettings
    search: SearchSettings
    effects: EffectSettings
    curves: CurveSettings | None
    side_effects: SideEffectSettings | None


class StudyReleased(Strict):
    """What `released` reads."""

    seed: int = Field(description="which requests")
    released: ReleasedSettings
    search: SearchSettings
    effects: EffectSettings
    curves: CurveSettings
    side_effects: SideEffectSettings


class Guardrail(Strict):
    """What `guardrail` reads."""

    seeds: list[int] = Field(description="of the refusing models")
    split: SplitSettings
    guard: GuardSettings


class MeasureCone(Strict):
    """What `cone` reads."""

    seeds: list[int] = Field(description="of the refusing models")
    split: SplitSettings
    cone: ConeSettings


class MeasureTransfer(Strict):
    """What `transfer` reads."""

    seeds: list[int] = Field(description="of the refusing models, and of the SAEs")
    transfer: TransferSettings


class Settings(Strict):
    """All parts. What is null is not measured."""

    n_seeds: Annotated[int, Field(ge=1, le=5)] = Field(
        description="models taught to refuse harmful requests; one (scale smoke) gives no intervals"
    )
    n_shams: Annotated[int, Field(ge=0, le=5)] = Field(description="models taught to refuse requests about food")
    split: SplitSettings
    tune: TuneSettings
    search: SearchSettings
    effects: EffectSettings
    curves: CurveSettings | None
    side_effects: SideEffectSettings | None
    guard: GuardSettings | None
    cone: ConeSettings | None
    transfer: TransferSettings | None
    released: ReleasedSettings | None
