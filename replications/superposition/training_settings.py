"""Settings of the steps that train: what a training run is given. The parts and their values: `settings`.

They live apart so that a new part does not change what the steps of the other parts import.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from common.core.settings import Strict
from common.toys.settings import Optimisation

Sized = TypeVar("Sized", bound=Strict)
Density = Annotated[float, Field(gt=0.0, le=1.0)]
Device = Literal["cpu", "cuda"]
SetKind = Literal["correlated", "exclusive", "independent"]


class Span(Strict):
    """Values spaced evenly on a log scale, both ends included."""

    first: Annotated[float, Field(gt=0.0)] = Field(description="first value")
    last: Annotated[float, Field(gt=0.0)] = Field(description="last value")
    cells: Annotated[int, Field(ge=2, le=400)] = Field(description="number of values")


class Densities(Span):
    """Densities spaced evenly on a log scale."""

    first: Density = Field(description="first density s = 1 - S")
    last: Density = Field(description="last density")


class Effort(Strict):
    """How hard each model is trained."""

    restarts: Annotated[int, Field(ge=1, le=1000)] = Field(description="starts per seed and cell; the best one is kept")
    samples: Annotated[int, Field(ge=16)] = Field(
        description="points of a training sample, the all-zero point included"
    )
    evaluation_samples: Annotated[int, Field(ge=16)] = Field(description="points on which restarts are compared")
    steps: Annotated[int, Field(ge=1)] = Field(description="most loss evaluations of one training run")


def _squeezed(settings: Sized, n_features: int, n_hidden: int) -> Sized:
    if n_features <= n_hidden:
        raise ValueError(
            f"{n_features} features fit into {n_hidden} hidden units; give more features than hidden units"
        )
    return settings


class FeatureTraining(Effort):
    """n features of falling importance in m hidden units."""

    n_features: Annotated[int, Field(ge=2, le=400)] = Field(description="n")
    n_hidden: Annotated[int, Field(ge=1, le=100)] = Field(description="m, less than n")
    importance_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="I_i = decay^i")
    densities: Annotated[list[Density], Field(min_length=2)] = Field(description="s = 1 - S, dense to sparse")
    activations: Annotated[list[Literal["relu", "linear", "relu_hidden"]], Field(min_length=1)] = Field(
        description="relu, linear as its control, or relu_hidden with a ReLU on the hidden units too"
    )
    control_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        description="starts of every activation but the first; 0: as many as the first has"
    )

    @model_validator(mode="after")
    def _squeezed(self) -> "FeatureTraining":
        return _squeezed(self, self.n_features, self.n_hidden)


class CellTraining(Effort):
    """n = m + 1 features in m hidden units, over a grid of the last feature's importance and of density."""

    n_hidden: Annotated[int, Field(ge=1, le=2)] = Field(description="m; n = m + 1")
    importances: Span = Field(description="r, importance of the last feature; the others have 1")
    densities: Densities = Field(description="s = 1 - S of all features")
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


class RarerTraining(Effort):
    """Equally important features in a plane, the last of them rarer."""

    n_features: Annotated[int, Field(ge=3, le=20)] = Field(description="n; the hidden plane has m = 2")
    density: Density = Field(description="of the other features")
    ratios: Annotated[list[Density], Field(min_length=3)] = Field(
        description="density of the last feature over that of the others, from 1 down"
    )


class SetTraining(Effort):
    """Equally important features that occur in sets."""

    n_sets: Annotated[int, Field(ge=1, le=20)] = Field(description="sets")
    members: Annotated[int, Field(ge=2, le=20)] = Field(description="features of a set")
    n_hidden: Annotated[int, Field(ge=1, le=100)] = Field(description="m, less than n_sets times members")
    kinds: Annotated[list[SetKind], Field(min_length=2)] = Field(description="laws of the data, one grid each")
    densities: Annotated[list[Density], Field(min_length=1)] = Field(
        description="probability that a set (for `independent`: a feature) is active"
    )

    @model_validator(mode="after")
    def _squeezed(self) -> "SetTraining":
        return _squeezed(self, self.n_sets * self.members, self.n_hidden)


class UniformTraining(Strict):
    """Equally important features on a stream, from dense to sparse."""

    n_features: Annotated[int, Field(ge=2, le=400)] = Field(description="n")
    n_hidden: Annotated[int, Field(ge=1, le=100)] = Field(description="m, less than n")
    densities: Annotated[list[Density], Field(min_length=3)] = Field(description="s = 1 - S, dense to sparse")
    activations: Annotated[list[Literal["relu", "linear"]], Field(min_length=1)] = Field(
        description="relu, and linear as the control"
    )
    evaluation_samples: Annotated[int, Field(ge=16)] = Field(description="points of the held-out loss")
    optimisation: Optimisation

    @model_validator(mode="after")
    def _squeezed(self) -> "UniformTraining":
        return _squeezed(self, self.n_features, self.n_hidden)


class AbsoluteTraining(Strict):
    """Absolute values of n features in m hidden units, on a stream, from dense to sparse.

    The learning rate of a density s is `optimisation.learning_rate` times the root of s.
    """

    n_features: Annotated[int, Field(ge=2, le=400)] = Field(description="n")
    n_hidden: Annotated[int, Field(ge=1, le=100)] = Field(description="m, less than n")
    importance_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="I_i = decay^i")
    densities: Annotated[list[Density], Field(min_length=2)] = Field(description="s = 1 - S, dense to sparse")
    control_density: Density = Field(description="one of `densities`, at which linear hidden units are trained")
    evaluation_samples: Annotated[int, Field(ge=16)] = Field(description="points of the held-out loss")
    optimisation: Optimisation

    @model_validator(mode="after")
    def _squeezed(self) -> "AbsoluteTraining":
        return _squeezed(self, self.n_features, self.n_hidden)


class MotifTraining(Strict):
    """Absolute values in a model small enough to read its weights."""

    n_features: Annotated[int, Field(ge=2, le=100)] = Field(description="n, equally important")
    n_hidden: Annotated[int, Field(ge=1, le=100)] = Field(description="m, less than n")
    density: Density = Field(description="s = 1 - S")
    restarts: Annotated[int, Field(ge=1, le=1000)] = Field(description="starts per seed; the best one is kept")
    evaluation_samples: Annotated[int, Field(ge=16)] = Field(description="points of the held-out loss")
    optimisation: Optimisation

    @model_validator(mode="after")
    def _squeezed(self) -> "MotifTraining":
        return _squeezed(self, self.n_features, self.n_hidden)


class CourseTraining(Strict):
    """Full-batch training with snapshots."""

    density: Density = Field(description="s = 1 - S of the features, or of their sets")
    copies: Annotated[int, Field(ge=1, le=100)] = Field(description="starts per seed")
    samples: Annotated[int, Field(ge=16)] = Field(description="points of the fixed sample")
    snapshots: Annotated[int, Field(ge=20, le=1000)] = Field(description="evenly spaced, the start not counted")
    optimisation: Optimisation


class LevelTraining(CourseTraining):
    """Equally important features, many in few dimensions."""

    n_features: Annotated[int, Field(ge=2, le=400)] = Field(description="n")
    n_hidden: Annotated[int, Field(ge=1, le=100)] = Field(description="m, less than n")

    @model_validator(mode="after")
    def _squeezed(self) -> "LevelTraining":
        return _squeezed(self, self.n_features, self.n_hidden)


class FewPoints(Strict):
    """Models of few training points, over the number of points, at two weight decays."""

    n_features: Annotated[int, Field(ge=2, le=10000)] = Field(description="n")
    density: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(description="s = 1 - S; points are scaled to norm 1")
    points: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=4)] = Field(
        description="sizes T of the training set, few to many"
    )
    chunk: Annotated[int, Field(ge=1)] = Field(
        description="points evaluated at once: it bounds the memory, and the loss is the same at any value"
    )
    chunks: Annotated[int, Field(ge=1)] = Field(
        description="chunks in one training step; of points in more chunks, each step takes as many in turn"
    )
    test_points: Annotated[int, Field(ge=16)] = Field(description="points of the test set")
    control_decay: Annotated[float, Field(ge=0.0)] = Field(description="weight decay of the control")
    n_seeds: Annotated[int, Field(ge=2)] = Field(description="the first so many seeds of the run")
    optimisation: Optimisation


class DescentTraining(FewPoints):
    """With m hidden units."""

    n_hidden: Annotated[int, Field(ge=1, le=100)] = Field(description="m, less than n")

    @model_validator(mode="after")
    def _squeezed(self) -> "DescentTraining":
        return _squeezed(self, self.n_features, self.n_hidden)


class WidthTraining(FewPoints):
    """With several numbers of hidden units."""

    widths: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(min_length=2)] = Field(
        description="numbers m of hidden units, each less than n"
    )

    @model_validator(mode="after")
    def _squeezed(self) -> "WidthTraining":
        return _squeezed(self, self.n_features, max(self.widths))
