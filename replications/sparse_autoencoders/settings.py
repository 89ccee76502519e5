"""Settings of the sparse autoencoders. `config.yaml` gives the values of each scale."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.core.settings import Strict
from common.saes.recipe import ArchitectureName, Training

Frequencies = Literal["equal", "log_uniform"]
Count = Annotated[int, Field(ge=1)]


class World(Strict):
    """A planted dictionary: x is a sparse sum of known unit directions."""

    d: Annotated[int, Field(ge=2)] = Field(description="dimensions")
    features: Annotated[int, Field(ge=2)] = Field(description="true directions, drawn evenly from the sphere")
    active: Annotated[float, Field(gt=0)] = Field(description="features active in a sample, on average")
    frequencies: Frequencies = Field(description="log_uniform: from 10^-5.5 to 10^-1.2 before scaling to `active`")
    spread: Annotated[float, Field(ge=0)] = Field(description="coefficients are exp(spread * normal)")


class Planted(Strict):
    """Worlds whose true dictionary is known, and SAEs with as many latents as features; k is `active`."""

    easy: World
    hard: World
    sparsities: list[float] = Field(description="further values of k in the hard world")
    training: Training
    evaluation: Annotated[int, Field(ge=100)] = Field(description="fresh samples on which everything is measured")

    @model_validator(mode="after")
    def _enough(self) -> "Planted":
        for world in (self.easy, self.hard):
            most = max([world.active, *(self.sparsities if world is self.hard else [])])
            if most > world.features:
                raise ValueError(f"k = {most:g} active latents exceed the {world.features} that a SAE has there")
        return self


class Forest(Strict):
    """SynthSAEBench's world: trees of features, and independent ones."""

    d: Annotated[int, Field(ge=2)] = Field(description="dimensions")
    features: Annotated[int, Field(ge=86)] = Field(description="true directions; a tree has 85")
    roots: Count = Field(description="trees")


class SynthBench(Strict):
    """Architectures side by side on SynthSAEBench's world."""

    forest: Forest
    d_sae: Annotated[int, Field(ge=2)] = Field(description="width of the SAEs")
    sparsity: Count = Field(description="k, and L0 aimed at")
    training: Training
    evaluation: Annotated[int, Field(ge=100)] = Field(description="fresh samples on which everything is measured")


class Corpora(Strict):
    """What is harvested."""

    layer: Annotated[int, Field(ge=0)] = Field(description="the residual stream before this layer is studied")
    late_layer: Annotated[int, Field(ge=0)] | None = Field(
        description="and, with one SAE a seed, before this one; null for none"
    )
    docs_tokens: Annotated[int, Field(ge=100)] = Field(description="most tokens of python-docs")
    late_tokens: Annotated[int, Field(ge=100)] = Field(
        description="how many of them are harvested at the late layer too"
    )
    chat_tokens: Annotated[int, Field(ge=10)] = Field(description="most tokens of self-chat")
    window: Annotated[int, Field(ge=8)] = Field(description="tokens of context")
    batch: Count = Field(description="windows in one forward pass")
    held_out_tokens: Annotated[int, Field(ge=100)] = Field(description="tokens of held-out documents, all in float32")


class Sweep(Strict):
    """The SAEs of the language model."""

    widths: Annotated[list[int], Field(min_length=1)] = Field(description="d_sae of the BatchTopK grid")
    sparsities: Annotated[list[int], Field(min_length=1)] = Field(description="k of the BatchTopK grid")
    grid_seeds: Count = Field(description="seeds that have every point of the grid")
    width: int = Field(description="width of everything outside the grid")
    sparsity: int = Field(description="k, and L0 aimed at, of everything outside the grid")
    architectures: list[ArchitectureName] = Field(description="trained beside BatchTopK")
    late: bool = Field(description="whether a SAE of each seed sits at the late layer")
    training: Training

    @model_validator(mode="after")
    def _central(self) -> "Sweep":
        if self.width not in self.widths or self.sparsity not in self.sparsities:
            raise ValueError("width and sparsity must be a point of the grid")
        if min(self.sparsities) < 1 or max(self.sparsities) > min(self.widths):
            raise ValueError(
                f"sparsities go from {min(self.sparsities)} to {max(self.sparsities)}, but must lie between 1 and the "
                f"smallest width, {min(self.widths)}"
            )
        return self


class Evaluation(Strict):
    """How the language model is asked."""

    windows: Annotated[int, Field(ge=4)] = Field(description="held-out windows for cross-entropy, one per document")
    window: Annotated[int, Field(ge=8)] = Field(description="most tokens of each of them")
    batch: Count = Field(description="windows in one forward pass")
    components: list[int] = Field(description="further numbers of principal components, beside the sparsities")
    errors_everywhere: bool = Field(description="errors of other sparsities and of the late layer, too")


class Supplement(Strict):
    """Sizes of the parts `benchmarks`, `natural_absorption`, `layers` and `completeness`."""

    window: Annotated[int, Field(ge=12)] = Field(description="tokens of a window")
    packages: list[str] = Field(description="packages of python-docs from which windows come")
    sources: Count = Field(description="windows of source code per package, of distinct documents")
    docstrings: Count = Field(description="docstrings per package")
    chat: Count = Field(description="windows of self-chat")
    calls: Count = Field(description="most calls of each class: flagged by security linters, and ordinary ones")
    splits: Count = Field(description="splits into train and test for each seed and task")
    reference: Count = Field(description="training activations on which densities are counted")
    tokens: Count = Field(description="training activations in each half of the part on rare members")
    templates: Count = Field(description="templates of the prompts whose behaviour is to be kept, at most four")
    least: Count = Field(description="fewest tokens of a class in each half")
    batch: Count = Field(description="windows in one forward pass")


class MeasureLanguage(Strict):
    """What `measure_language` and `measure_errors` read."""

    sweep: Sweep
    evaluation: Evaluation


class MeasureLatents(Strict):
    """What the steps of the supplement read."""

    sweep: Sweep
    supplement: Supplement


class Settings(Strict):
    """All parts. Without `supplement` there are none of its parts, no overlap of seeds and no table of dictionaries."""

    most_seeds: Annotated[int, Field(ge=2)] = Field(
        description="how many of the run's seeds are used, the first ones; parts planted and synth_bench use all"
    )
    planted: Planted
    synth_bench: SynthBench
    corpora: Corpora
    sweep: Sweep
    evaluation: Evaluation
    supplement: Supplement | None

    @model_validator(mode="after")
    def _whole(self) -> "Settings":
        if self.sweep.late != (self.corpora.late_layer is not None):
            raise ValueError("sweep.late asks for a late_layer in corpora, and a late_layer for sweep.late: true")
        if self.supplement is not None and not self.sweep.late:
            raise ValueError("the supplement compares two layers; give corpora a late_layer and set sweep.late: true")
        return self
