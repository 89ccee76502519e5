"""Sizes of the parts `benchmarks`, `natural_absorption`, `layers` and `completeness` at each scale.

They stand apart from `settings.py`, which every training step imports: a change here reruns none of them. Imports
nothing heavy: the workflow reads it at start-up.
"""

from typing import Annotated

from pydantic import Field

from common.core.settings import Scale, Strict

Count = Annotated[int, Field(ge=1)]


class Sizes(Strict):
    """How much is read, and how often data are split."""

    window: Annotated[int, Field(ge=12)] = Field(description="tokens of a window")
    packages: list[str] = Field(description="packages of python-docs from which windows come")
    sources: Count = Field(description="windows of source code per package, of distinct documents")
    docstrings: Count = Field(description="docstrings per package")
    chat: Count = Field(description="windows of self-chat")
    calls: Count = Field(description="most calls of each class: flagged by security linters, and ordinary ones")
    splits: Count = Field(description="splits into train and test for each seed and task")
    draws: Count = Field(description="random sets of latents for each chosen set")
    reference: Count = Field(description="training activations on which densities are counted")
    tokens: Count = Field(description="training activations in each half of the part on rare members")
    templates: Count = Field(description="templates of the prompts whose behaviour is to be kept, at most four")
    least: Count = Field(description="fewest tokens of a class in each half")
    batch: Count = Field(description="windows in one forward pass")


_LAPTOP = Sizes(
    window=64,
    packages=["sympy", "transformer_lens", "setuptools", "docutils", "datasets", "pydantic", "rich", "_pytest"],
    sources=24,
    docstrings=16,
    chat=48,
    calls=120,
    splits=4,
    draws=20,
    reference=8192,
    tokens=12_000,
    templates=4,
    least=60,
    batch=32,
)
SIZES: dict[Scale, Sizes] = {
    "smoke": _LAPTOP.model_copy(
        update={
            "window": 24,
            "packages": _LAPTOP.packages[:4],
            "sources": 8,
            "docstrings": 4,
            "chat": 6,
            "calls": 16,
            "splits": 1,
            "reference": 512,
            "tokens": 600,
            "templates": 1,
            "least": 8,
        }
    ),
    "laptop": _LAPTOP,
    "gpu": _LAPTOP.model_copy(
        update={"sources": 80, "docstrings": 60, "chat": 400, "tokens": 200_000, "reference": 65_536, "batch": 256}
    ),
}
