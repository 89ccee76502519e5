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
    longer: Annotated[int, Field(ge=2)] | None = Field(
        description="how many times the steps of a second training in the hard world; null for none"
    )
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
    roots: Annotated[int, Field(ge=2)] = Field(description="trees; of each the latent is judged beside another tree")


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
    second_layer: Annotated[int, Field(ge=0)] | None = Field(
        description="and, with one SAE, before this earlier one; null for none"
    )
    docs_tokens: Annotated[int, Field(ge=100)] = Field(description="most tokens of python-docs")
    chat: Literal["self-chat", "self-chat-long"] = Field(
        "self-chat", description="the corpus of conversations", exclude_if=lambda name: name == "self-chat"
    )
    chat_tokens: Annotated[int, Field(ge=10)] = Field(description="most tokens of it")
    window: Annotated[int, Field(ge=8)] = Field(description="tokens of context")
    batch: Count = Field(description="windows in one forward pass")
    held_out_tokens: Annotated[int, Field(ge=100)] = Field(description="tokens of held-out documents, all in float32")


class Sweep(Strict):
    """The SAEs of the language model."""

    width: int = Field(description="d_sae of the main dictionaries")
    sparsity: int = Field(description="k, and L0 aimed at, of the main dictionaries")
    widths: list[int] = Field(description="d_sae of the BatchTopK grid, at the first seed")
    sparsities: list[int] = Field(description="k of the grid")
    architectures: dict[ArchitectureName, Annotated[float, Field(gt=0)]] = Field(
        description="trained beside BatchTopK at all k of the grid, with their learning rates"
    )
    second: bool = Field(description="whether a SAE of the first seed sits at the second layer")
    lengths: list[Annotated[float, Field(gt=0, lt=1)]] = Field(description="shorter trainings, as shares of the steps")
    training: Training

    @model_validator(mode="after")
    def _central(self) -> "Sweep":
        if self.widths and (self.width not in self.widths or self.sparsity not in self.sparsities):
            raise ValueError("width and sparsity must be a point of the grid")
        if (
            not 1
            <= min([self.sparsity, *self.sparsities])
            <= max([self.sparsity, *self.sparsities])
            <= min([self.width, *self.widths])
        ):
            raise ValueError("every sparsity must lie between 1 and the smallest width")
        return self


class Evaluation(Strict):
    """How the language model is asked."""

    windows: Annotated[int, Field(ge=4)] = Field(description="held-out windows for cross-entropy, one per document")
    window: Annotated[int, Field(ge=8)] = Field(description="most tokens of each of them")
    batch: Count = Field(description="windows in one forward pass")
    components: list[int] = Field(description="further numbers of principal components, beside the sparsities")
    pool: Annotated[int, Field(ge=100)] = Field(description="training activations on which latents are described")


class MeasureLanguage(Strict):
    """What the steps that measure read."""

    sweep: Sweep
    evaluation: Evaluation


class Reference(Strict):
    """The dictionary that the repository ships."""

    layer: Annotated[int, Field(ge=1)] = Field(description="the residual stream before this layer is studied")
    rounds: Annotated[int, Field(ge=2)] = Field(description="conversations written on each topic; one more is left out")
    most_topics: Count | None = Field(description="of the corpus; null for all")
    new_tokens: Count = Field(description="tokens of each conversation")
    docs_tokens: Count = Field(description="most tokens of python-docs")
    chat_tokens: Count = Field(description="most tokens of self-chat")
    width: Count = Field(description="d_sae")
    sparsity: Count = Field(description="k of BatchTopK")
    seed: int
    training: Training


class Settings(Strict):
    """All parts."""

    most_seeds: Annotated[int, Field(ge=2)] = Field(
        description="how many of the run's seeds are used, the first ones; parts planted and synth_bench use all"
    )
    planted: Planted
    synth_bench: SynthBench
    corpora: Corpora
    sweep: Sweep
    reference: Reference | None = Field(description="null: the shipped dictionary is not made again")
    evaluation: Evaluation

    @model_validator(mode="after")
    def _whole(self) -> "Settings":
        if self.sweep.second != (self.corpora.second_layer is not None):
            raise ValueError(
                "sweep.second asks for a second_layer in corpora, and a second_layer for sweep.second: true"
            )
        if (self.corpora.second_layer or 0) >= max(1, self.corpora.layer):
            raise ValueError("second_layer must be an earlier layer than layer")
        return self
