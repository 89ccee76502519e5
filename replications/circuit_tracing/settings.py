"""Settings of `circuit_tracing`; `config.yaml` gives the values of each scale."""

from typing import Annotated, Literal

from pydantic import Field

from common.core.settings import Strict
from common.saes.recipe import Training
from common.toys.settings import Architecture, Optimisation

Share = Annotated[float, Field(gt=0, lt=1)]


class Task(Strict):
    """The two-hop task (task.py)."""

    names: Annotated[int, Field(ge=2)] = Field(description="first names, and as many last names")
    classes: Annotated[int, Field(ge=2)] = Field(description="classes of names, and as many answers")
    relations: Annotated[int, Field(ge=2)] = Field(description="relations")
    held_out: Share = Field(description="share of all prompts that the model never sees")

    @property
    def d_vocab(self) -> int:
        """Tokens."""
        return 1 + 2 * self.names + self.relations + 2 * self.classes


class Model(Strict):
    """The models that learn the task."""

    n_layers: Annotated[int, Field(ge=2)]
    d_model: Annotated[int, Field(ge=4)]
    n_heads: Annotated[int, Field(ge=1)]
    optimisation: Optimisation
