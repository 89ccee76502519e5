"""Settings of `probing`; `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import Field

from common.core.settings import Strict

Depth = Annotated[float, Field(gt=0, lt=1)]


class Truth(Strict):
    """True and false statements."""

    train: Annotated[int, Field(ge=2)] = Field(description="training items of each topic, four statements each")
    judged: Annotated[int, Field(ge=2)] = Field(
        description="calibration items, and as many scoring items, of each topic"
    )
    patched: Annotated[int, Field(ge=2)] = Field(
        description="judged items of each topic that are moved along directions"
    )
    depth: Depth = Field(description="share of the blocks before the one that is read, chosen on calibration topics")
    shuffles: Annotated[int, Field(ge=1)] = Field(description="directions of shuffled labels, for each seed")


class TaskVectors(Strict):
    """In-context tasks."""

    train: Annotated[int, Field(ge=4)] = Field(description="words of each task that give demonstrations and queries")
    judged: Annotated[int, Field(ge=2)] = Field(description="calibration words of each task, and as many scoring words")
    demonstrations: Annotated[int, Field(ge=2)] = Field(description="pairs in a prompt")
    queries: Annotated[int, Field(ge=1)] = Field(description="words asked behind one prompt")
    depth: Depth = Field(description="share of the blocks before the one that is edited, chosen on calibration words")
    every: Annotated[int, Field(ge=1)] = Field(description="blocks from one of the curve to the next")


class MassiveActivations(Strict):
    """The first position of a text."""

    documents: Annotated[int, Field(ge=2)] = Field(description="documents of each corpus")
    length: Annotated[int, Field(ge=16)] = Field(description="tokens of a document that are read")


class Lenses(Strict):
    """Logit lens and tuned lens."""

    train: Annotated[int, Field(ge=2)] = Field(description="training documents of each corpus, at full length")
    judged: Annotated[int, Field(ge=2)] = Field(description="judged documents of each corpus, at full length")
    length: Annotated[int, Field(ge=8)] = Field(description="tokens of a document that are read")
    step: Annotated[int, Field(ge=1)] = Field(description="positions from one judged position to the next")
    every: Annotated[int, Field(ge=1)] = Field(description="layers from one lens to the next")
    ridge: Annotated[float, Field(gt=0)] = Field(description="penalty, in mean variances of a coordinate")


class Selectivity(Strict):
    """Probes of roles in Python sources."""

    train: Annotated[int, Field(ge=2)] = Field(description="training files, one window each")
    judged: Annotated[int, Field(ge=2)] = Field(description="judged files, one window each")
    length: Annotated[int, Field(ge=8)] = Field(description="tokens of a window")
    every: Annotated[int, Field(ge=1)] = Field(description="layers from one probe to the next")
    ridge: Annotated[float, Field(gt=0)] = Field(description="penalty, in mean variances of a coordinate")
    depth: Depth = Field(description="share of the blocks before the layer that the metrics tell of")


class Settings(Strict):
    """All parts."""

    truth: Truth
    task_vectors: TaskVectors
    massive_activations: MassiveActivations
    lenses: Lenses
    selectivity: Selectivity
