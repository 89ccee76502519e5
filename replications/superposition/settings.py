"""Settings of the toy models of superposition. `config.yaml` gives the values of each scale."""

from typing import Annotated, Literal

from pydantic import Field

from common.records import Strict

Density = Annotated[float, Field(gt=0.0, le=1.0)]


class Span(Strict):
    """Values spaced evenly on a log scale, both ends included."""

    first: Annotated[float, Field(gt=0.0)] = Field(description="first value")
    last: Annotated[float, Field(gt=0.0)] = Field(description="last value")
    cells: Annotated[int, Field(ge=2, le=400)] = Field(description="number of values")


class Effort(Strict):
    """How hard each model is trained."""

    restarts: Annotated[int, Field(ge=1, le=1000)] = Field(description="starts per seed and cell; the best one is kept")
    samples: Annotated[int, Field(ge=16)] = Field(
        description="points of a training sample, the all-zero point included"
    )
    evaluation_samples: Annotated[int, Field(ge=16)] = Field(description="points on which restarts are compared")
    steps: Annotated[int, Field(ge=1)] = Field(description="most loss evaluations of one training run")


class PlaneTraining(Effort):
    """Several features in a plane (the paper's introductory figure)."""

    n_features: Annotated[int, Field(ge=3, le=20)] = Field(description="n; the hidden plane has m = 2")
    importance_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="I_i = decay^i")
    densities: Annotated[list[Density], Field(min_length=3)] = Field(description="s = 1 - S, dense to sparse")
    activations: Annotated[list[Literal["relu", "linear"]], Field(min_length=1)] = Field(
        description="relu, and linear as the control"
    )


class Intro(Strict):
    """Unequal importances: which features get a place."""

    training: PlaneTraining
    middle_density: Density = Field(description="where four features should form two antipodal pairs")


class Polygons(Strict):
    """Equal importances: which polygon they form."""

    training: PlaneTraining
    digon_density: Density = Field(description="where two antipodal pairs and one forgotten feature are expected")
    pentagon_density: Density = Field(description="where a regular pentagon is expected")


class CellTraining(Effort):
    """Two features in one hidden unit, over a grid of importance and density."""

    importances: Span = Field(description="r = I_2 / I_1, with I_1 = 1")
    densities: Span = Field(description="s = 1 - S of both features")
    linear_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        description="starts per cell of the linear control; 0 trains none"
    )


class Judging(Strict):
    """How the trained phase diagram is compared with the exact one."""

    stored_norm: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        description="|w| above which a feature counts as stored"
    )
    band: Annotated[float, Field(ge=0.0, le=1.0)] = Field(description="cells this close to a border are not compared")
    loss_slack: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        description="allowed relative excess over the exact loss"
    )


class PhaseDiagram(Strict):
    """Forgotten, antipodal or dedicated: the paper's phase diagram."""

    training: CellTraining
    judging: Judging


class FirstOrder(Strict):
    """A fine scan of density at two importances: does the second feature jump in?"""

    training: CellTraining


class Settings(Strict):
    """All parts."""

    intro: Intro
    polygons: Polygons
    phase_diagram: PhaseDiagram
    first_order: FirstOrder
