"""Settings of this replication. The Snakefile imports this module, so it imports nothing heavy."""

from typing import Annotated

from pydantic import Field

from common.records import Strict


class PromptSettings(Strict):
    per_cell: Annotated[int, Field(ge=1, le=100)] = Field(
        description="prompts per seed, template and order; a seed has 30 times as many"
    )
    minimum_names: Annotated[int, Field(ge=10, le=100)] = Field(
        description="single-token names that a tokenizer must offer; with fewer the step stops"
    )


class CollectSettings(Strict):
    batch_size: Annotated[int, Field(ge=1, le=4096)] = Field(description="prompts in one forward pass")


class BaselineSettings(Strict):
    shuffles: Annotated[int, Field(ge=100, le=10_000)] = Field(description="draws of shuffled IO and S labels")


class LogitLensSettings(Strict):
    early_depth: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="share of the layers that counts as the early part of the model"
    )


class DirectPathSettings(Strict):
    batch_size: Annotated[int, Field(ge=1, le=4096)] = Field(description="prompts whose heads are patched at a time")
    top: Annotated[int, Field(ge=1, le=20)] = Field(description="heads that count as 'few'")
    late_depth: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="depth from which a head counts as late; 0 is the first layer, 1 the last"
    )
    draws: Annotated[int, Field(ge=100, le=10_000)] = Field(description="draws of each null distribution")


class PathPatchingSettings(Strict):
    end_prompts: Annotated[int, Field(ge=7, le=1000)] = Field(
        description="discovery prompts of the sweeps whose receivers sit at END"
    )
    inner_prompts: Annotated[int, Field(ge=7, le=1000)] = Field(
        description="discovery prompts of the sweeps whose receivers sit at S2 or S1+1"
    )
    minimum_percent: Annotated[float, Field(gt=0, le=50)] = Field(
        description="smallest effect that counts, percent of the mean logit difference"
    )
    period: Annotated[int, Field(ge=10, le=500)] = Field(description="random tokens before they are repeated")
    sequences: Annotated[int, Field(ge=1, le=100)] = Field(description="sequences of repeated random tokens")
    draws: Annotated[int, Field(ge=100, le=10_000)] = Field(description="draws of each null distribution")


class VerificationSettings(Strict):
    curve_prompts: Annotated[int, Field(ge=7, le=1000)] = Field(
        description="discovery prompts on which the circuit's size is chosen"
    )
    verify_prompts: Annotated[int, Field(ge=8, le=1000)] = Field(
        description="verification prompts of circuit, complement, classes and ablation grid"
    )
    random_prompts: Annotated[int, Field(ge=8, le=1000)] = Field(
        description="verification prompts of random node sets and of minimality"
    )
    random_sets: Annotated[int, Field(ge=20, le=10_000)] = Field(
        description="random node sets with the layers and positions of the circuit"
    )
    sizes: Annotated[list[int], Field(min_length=2)] = Field(description="numbers of nodes on the size curve")
    largest_share: Annotated[float, Field(gt=0, le=1)] = Field(
        description="largest share of the model's heads that a circuit may have"
    )
    small_group: Annotated[int, Field(ge=2, le=100)] = Field(
        description="prompts per template mean in the row that repeats the paper's regime"
    )
    batch_size: Annotated[int, Field(ge=8, le=4096)] = Field(description="sequences in one forward pass")


class GroundTruthSettings(Strict):
    n_prompts: Annotated[int, Field(ge=14, le=1000)] = Field(description="discovery prompts of the planted models")
    minimum_percent: Annotated[float, Field(gt=0, le=50)] = Field(
        description="smallest effect that counts, percent of the mean logit difference"
    )
    draws: Annotated[int, Field(ge=100, le=10_000)] = Field(description="draws of each null distribution")


class Settings(Strict):
    prompts: PromptSettings
    collect: CollectSettings
    baseline: BaselineSettings
    logit_lens: LogitLensSettings
    direct_path: DirectPathSettings
    path_patching: PathPatchingSettings
    verification: VerificationSettings
    ground_truth: GroundTruthSettings
