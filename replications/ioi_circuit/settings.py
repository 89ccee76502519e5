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


class Settings(Strict):
    prompts: PromptSettings
    collect: CollectSettings
    baseline: BaselineSettings
    logit_lens: LogitLensSettings
    direct_path: DirectPathSettings
