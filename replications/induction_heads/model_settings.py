"""Settings of the language-model steps, apart from the others: those steps depend on these only."""

from typing import Annotated

from pydantic import Field

from common.core.settings import Strict


class Repeats(Strict):
    """Random tokens with one repeated block."""

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
    shared: Annotated[int, Field(ge=1)] = Field(
        description="a random set is measured on one document in so many, in turn"
    )
    floor: Annotated[float, Field(gt=0)] = Field(description="nats below which a rise of the loss counts as none")
