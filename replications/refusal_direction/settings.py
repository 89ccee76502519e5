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
    permutations: Annotated[int, Field(ge=1, le=1000)] = Field(description="balanced permutations of the labels")
    permuted_step: Annotated[int, Field(ge=1, le=100)] = Field(
        description="every how many layers each of them has a candidate"
    )
    null_finalists: Annotated[int, Field(ge=1, le=1000)] = Field(
        description="of their candidates, how many that lead for each use are scored again on all requests"
    )
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
    weights: bool = Field(
        description="also with directions taken out of the weights, with r subtracted and with the damage"
    )
    transcripts: Annotated[int, Field(ge=1, le=100)] = Field(
        description="requests per class whose answers are kept whole, of the sham model alone: about food, and harmless"
    )
    transcript_tokens: Annotated[int, Field(ge=1, le=256)] = Field(description="greedy tokens of such an answer")


class LossSettings(Strict):
    """Cross-entropy on held-out documents."""

    text_tokens: Annotated[int, Field(ge=16, le=1024)] = Field(description="tokens of one text")
    texts: Annotated[int, Field(ge=2, le=4096)] = Field(description="texts per corpus and seed")


class RecipeSettings(Strict):
    """How many directions it takes, by the recipe that taught refusal."""

    n_seeds: Annotated[int, Field(ge=1, le=5)] = Field(description="models of each recipe, the first seeds")
    ranks: Annotated[list[Annotated[int, Field(ge=0, le=1024)]], Field(min_length=2)] = Field(
        description="rank of the change of every matrix; 0: any rank"
    )
    learning_rates: list[Annotated[float, Field(gt=0, le=0.01)]] = Field(description="peak rate of AdamW of each")
    directions: Annotated[list[Annotated[int, Field(ge=1, le=16)]], Field(min_length=1)] = Field(
        description="numbers of directions that are removed, ascending"
    )
    layer_step: Annotated[int, Field(ge=1, le=100)] = Field(
        description="every how many layers a direction behind the first has a candidate"
    )
    new_tokens: Annotated[int, Field(ge=1, le=64)] = Field(description="greedy tokens that are classified, not stored")


class SuffixSettings(Strict):
    """The search for a suffix that ends refusal, and what is measured with it."""

    n_seeds: Annotated[int, Field(ge=1, le=5)] = Field(description="models that are asked, the first seeds")
    prompts: Annotated[int, Field(ge=1, le=1000)] = Field(description="requests on which a suffix is chosen")
    tokens: Annotated[int, Field(ge=1, le=64)] = Field(description="length of the suffix")
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(description="swaps that are made, one after the other")
    swaps: Annotated[int, Field(ge=1, le=1024)] = Field(description="suffixes that are tried before each of them")
    top: Count = Field(description="tokens at each place from which swaps are drawn")
    new_tokens: Annotated[int, Field(ge=1, le=64)] = Field(description="greedy tokens that are classified, not stored")


class GradientSettings(Strict):
    """The search for other directions that end refusal."""

    steps: Annotated[int, Field(ge=1, le=1000)] = Field(description="of Adam")
    learning_rate: Annotated[float, Field(gt=0, le=1)] = Field(description="for a vector of length 1")
    target_tokens: Annotated[int, Field(ge=1, le=64)] = Field(description="of an answer that is to be given")


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
    """What `study` reads."""

    switch: Switch = Field(description="class that the tuned model refuses")
    seed: int = Field(description="as in fine-tuning")
    split: SplitSettings
    search: SearchSettings
    effects: EffectSettings
    losses: LossSettings | None


class StudyReleased(Strict):
    """What `released` reads."""

    seed: int = Field(description="which requests")
    released: ReleasedSettings
    search: SearchSettings
    effects: EffectSettings
    losses: LossSettings | None


class Cross(Strict):
    """What `cross` reads."""

    seeds: Annotated[list[int], Field(min_length=2, max_length=2)] = Field(
        description="of the model that refuses harm, and of the one that refuses food"
    )
    split: SplitSettings
    effects: EffectSettings


class Recipe(Strict):
    """What `recipe` reads: one model."""

    seed: int = Field(description="topics, texts and order")
    rank: int = Field(description="of the change of every matrix; 0: any rank")
    split: SplitSettings
    tune: TuneSettings
    search: SearchSettings
    effects: EffectSettings
    recipes: RecipeSettings


class StudySuffix(Strict):
    """What `suffix` reads: one model."""

    seed: int = Field(description="as in fine-tuning")
    split: SplitSettings
    search: SearchSettings
    effects: EffectSettings
    suffix: SuffixSettings


class StudyGradient(Strict):
    """What `gradient` reads: one model."""

    seed: int = Field(description="as in fine-tuning")
    split: SplitSettings
    search: SearchSettings
    effects: EffectSettings
    gradient: GradientSettings


class Settings(Strict):
    """All parts. What is null is not measured."""

    n_seeds: Annotated[int, Field(ge=1, le=5)] = Field(
        description="models taught to refuse harmful requests; one (scale smoke) gives no intervals"
    )
    n_shams: Annotated[int, Field(ge=1, le=5)] = Field(description="models taught to refuse requests about food")
    split: SplitSettings
    tune: TuneSettings
    search: SearchSettings
    effects: EffectSettings
    losses: LossSettings | None
    recipes: RecipeSettings | None
    suffix: SuffixSettings | None
    gradient: GradientSettings | None
    released: ReleasedSettings | None
