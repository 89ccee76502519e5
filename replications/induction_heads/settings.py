"""Settings of the induction heads. `config.yaml` gives the values of each scale; a part that is null does not run."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.core.settings import Strict
from common.toys.settings import KEYS, Keys, Optimisation

ArmName = Literal[
    "one_layer",
    "one_layer_smeared",
    "two_layers",
    "two_layers_smeared",
    "two_layers_added",
    "three_layers",
    "two_layers_mlp",
]
NEEDED_ARMS = ("one_layer", "two_layers")


class Arm(Strict):
    """What distinguishes one kind of model."""

    n_layers: Annotated[int, Field(ge=1, le=6)] = Field(description="attention layers; at least one")
    keys: Keys = KEYS
    positions: Literal["shortformer", "standard"] = Field(
        description="shortformer: queries and keys only; standard: added"
    )
    mlp: Literal["none", "relu"] = Field(description="what follows every attention layer")
    seeds: Annotated[int, Field(ge=2)] = Field(
        description="how many of the run's seeds are trained, counted from the first"
    )


class Sizes(Strict):
    """What all kinds of model share."""

    d_model: Annotated[int, Field(ge=4)] = Field(description="width of the residual stream")
    n_heads: Annotated[int, Field(ge=1)] = Field(description="heads of a layer")
    d_head: Annotated[int, Field(ge=1)] = Field(description="width of a head")


class Text(Strict):
    """The synthetic sequences."""

    length: Annotated[int, Field(ge=8)] = Field(description="tokens of a sequence; also the context of the models")
    d_vocab: Annotated[int, Field(ge=4)] = Field(description="tokens in the vocabulary")
    shortest_block: Annotated[int, Field(ge=2)] = Field(description="tokens of the shortest repeated segment")
    longest_block: Annotated[int, Field(ge=2)] = Field(description="tokens of the longest repeated segment")
    copies: Annotated[int, Field(ge=2)] = Field(
        description="most copies of the segment in a training sequence; fewer if they do not fit"
    )


class Training(Strict):
    """Training and what is measured meanwhile."""

    sizes: Sizes
    text: Text
    optimisation: Optimisation
    held_out: Annotated[int, Field(ge=8)] = Field(description="sequences of each held-out set")
    measure_every: Annotated[int, Field(ge=1)] = Field(description="steps between measurements")
    snapshots: Annotated[list[int], Field(min_length=2)] = Field(
        description="steps whose weights are kept; the second is well before any change, the last is the end"
    )


class TrainArm(Strict):
    """What `train` reads: one arm, and how all of them are trained."""

    arm: Arm
    training: Training


class MeasurePhaseChange(Strict):
    """What `measure_phase_change` reads."""

    warmup: int = Field(description="steps of warm-up in training")


class Chosen(Strict):
    """Which arms a measurement looks at."""

    arms: Annotated[list[ArmName], Field(min_length=1)] = Field(description="names of arms")


class HeldOutSize(Strict):
    """What the measurements of trained heads read."""

    held_out: int = Field(description="sequences on which heads are chosen, and on which they are judged")


class Sweep(Strict):
    """Two-layer models whose change comes at different times."""

    sizes: Sizes
    text: Text
    optimisation: Optimisation
    rates: Annotated[list[Annotated[float, Field(gt=0, le=10)]], Field(min_length=2)] = Field(
        description="multiply the learning rate; every rate meets every longest segment"
    )
    longest: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=2)] = Field(
        description="longest segments of the training sequences, in place of that of `text`"
    )
    held_out: Annotated[int, Field(ge=8)] = Field(description="held-out sequences")
    measure_every: Annotated[int, Field(ge=1)] = Field(description="steps between measurements")


class Chains(Strict):
    """Small models on in-context Markov chains."""

    sizes: Sizes
    n_symbols: Annotated[int, Field(ge=2, le=5)] = Field(description="states of a chain")
    length: Annotated[int, Field(ge=8)] = Field(description="symbols of a sequence")
    held_out: Annotated[int, Field(ge=8)] = Field(description="held-out sequences")
    measure_every: Annotated[int, Field(ge=1)] = Field(description="steps between measurements")
    optimisation: Optimisation
    n_seeds: Annotated[int, Field(ge=2)] = Field(description="how many of the run's seeds are trained")


class Variant(Strict):
    """Arms that are trained again with one thing changed: `clamps` holds the first-layer attention of two layers fixed,
    `two_back` mixes the keys of smeared arms with the token two back."""

    seeds: Annotated[int, Field(ge=2)] = Field(
        description="how many of the run's seeds are trained, counted from the first"
    )


class TextArm(Strict):
    """What distinguishes one kind of model; positions are shortformer, as in the paper."""

    n_layers: Annotated[int, Field(ge=1, le=6)] = Field(description="attention layers; at least one")
    keys: Keys = KEYS
    mlp: Literal["none", "relu"] = Field(description="what follows every attention layer")
    d_model: Annotated[int, Field(ge=4)] = Field(description="width of the residual stream")
    n_heads: Annotated[int, Field(ge=1)] = Field(description="heads of a layer")
    d_head: Annotated[int, Field(ge=1)] = Field(description="width of a head")
    seeds: Annotated[int, Field(ge=2)] = Field(
        description="how many of the run's seeds are trained, counted from the first"
    )


class Tokens(Strict):
    """How the corpus becomes tokens."""

    d_vocab: Annotated[int, Field(ge=64)] = Field(description="tokens in the vocabulary, learned by byte-pair encoding")
    characters: Annotated[int, Field(ge=10_000)] = Field(description="characters of the training split that are used")
    length: Annotated[int, Field(ge=16)] = Field(description="tokens of a sequence; also the context of the models")
    held_out: Annotated[int, Field(ge=4)] = Field(description="held-out documents; two stretches of each are read")
    repeats: Annotated[int, Field(ge=4)] = Field(description="held-out repeats of random tokens")


class Contexts(Strict):
    """The in-context score: the same targets predicted after a long and after a short context."""

    late: Annotated[int, Field(ge=2)] = Field(description="tokens of context of the first target, at least")
    early: Annotated[int, Field(ge=1)] = Field(description="the same where the context is cut")
    width: Annotated[int, Field(ge=1)] = Field(description="targets of a stretch")


class TextTraining(Strict):
    """Training and what is measured meanwhile."""

    optimisation: Optimisation
    measure_every: Annotated[int, Field(ge=1)] = Field(description="steps between measurements")
    snapshots: Annotated[list[int], Field(min_length=2)] = Field(
        description="steps whose weights are kept and ablated, the last being the end; all of them are measured"
    )


class TrainText(Strict):
    """What `train_text` reads: one kind of model, its tokens, and how all of them are trained."""

    arm: TextArm
    tokens: Tokens
    contexts: Contexts
    training: TextTraining


class MeasureText(Strict):
    """What `measure_text` reads."""

    before: int = Field(description="step before any change, at which models are controls of themselves")
    warmup: int = Field(description="steps of warm-up in training")
    batch: int = Field(description="sequences of a step")


class TextHeads(Strict):
    """What `measure_text_heads` reads."""

    repeats: int = Field(description="repeats of random tokens on which heads are chosen")


class AblateText(Strict):
    """What `ablate_text` reads."""

    contexts: Contexts
    repeats: int = Field(description="repeats of random tokens on which heads are chosen")
    draws: int = Field(description="random sets of heads of the same layers")


class NaturalText(Strict):
    """Attention-only models, and one with MLPs, on documents of the corpus."""

    arms: dict[str, TextArm | None] = Field(description="kinds of model; `one_layer` and `two_layers` are needed")
    tokens: Tokens
    contexts: Contexts
    training: TextTraining
    draws: Annotated[int, Field(ge=2)] = Field(description="random sets of heads of the same layers, in ablations")

    @model_validator(mode="after")
    def _complete(self) -> "NaturalText":
        if missing := [name for name in ("one_layer", "two_layers") if not self.arms.get(name)]:
            raise ValueError(f"the text measures need the arm '{missing[0]}'; add it")
        contexts, length = self.contexts, self.tokens.length
        if contexts.early >= contexts.late or contexts.late + contexts.width >= length:
            raise ValueError(
                f"contexts of {contexts.early} and {contexts.late} tokens and {contexts.width} targets do not fit "
                f"{length} tokens in this order; lower 'late' or 'width'"
            )
        if not {0, self.training.optimisation.steps} <= set(self.training.snapshots):
            raise ValueError("'snapshots' of natural_text lacks step 0 or the last step; add it")
        return self


class Repeats(Strict):
    """Random tokens with one repeated block, for language models."""

    sequences: Annotated[int, Field(ge=2)] = Field(description="sequences per seed, and for choosing heads")
    block: Annotated[int, Field(ge=2)] = Field(description="tokens of the repeated block")
    length: Annotated[int, Field(ge=8)] = Field(description="tokens of a sequence, the document token included")


class RealText(Strict):
    """Documents of the corpus, and the two windows of context whose losses are compared."""

    documents: Annotated[int, Field(ge=4)] = Field(description="documents that are read")
    early: Annotated[list[int], Field(min_length=2, max_length=2)] = Field(description="first and last early token")
    late: Annotated[list[int], Field(min_length=2, max_length=2)] = Field(description="first and last late token")
    near: Annotated[int, Field(ge=1)] = Field(description="tokens before the late window that a short context keeps")
    draws: Annotated[int, Field(ge=20)] = Field(description="random sets of heads of the same layers")
    floor: Annotated[float, Field(gt=0)] = Field(description="nats below which a rise of the loss counts as none")


class Settings(Strict):
    """All parts."""

    training: Training
    arms: dict[ArmName, Arm | None]
    heads: Chosen
    ablations: Chosen | None
    sweep: Sweep | None
    chains: Chains | None
    clamps: Variant | None
    two_back: Variant | None
    natural_text: NaturalText | None
    repeats: Repeats
    real_text: RealText | None

    @model_validator(mode="after")
    def _trained(self) -> "Settings":
        trained = {name for name, arm in self.arms.items() if arm}
        measured = {*NEEDED_ARMS, *self.heads.arms, *(self.ablations.arms if self.ablations else [])}
        if missing := measured - trained:
            raise ValueError(f"the arm '{min(missing)}' is measured, but 'arms' does not train it; add it")
        text = self.natural_text.arms if self.natural_text else {"one_layer_smeared": True}
        if self.two_back and not (self.arms.get("two_layers_smeared") and text.get("one_layer_smeared")):
            raise ValueError("'two_back' changes the keys of smeared arms, and one of them is not trained; add it")
        return self
