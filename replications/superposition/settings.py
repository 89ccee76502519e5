"""Settings of the toy models of superposition. `config.yaml` gives the values of each scale."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, field_validator

from common.core.settings import Strict
from common.toys.settings import Optimisation

Training = TypeVar("Training", bound=Strict)
Density = Annotated[float, Field(gt=0.0, le=1.0)]
Width = Annotated[int, Field(ge=1, le=100)]
SetKind = Literal["correlated", "exclusive", "independent"]


def _fewer_than(features: int | None, hidden: int) -> None:
    if features is not None and features <= hidden:
        raise ValueError(f"{features} features fit into {hidden} hidden units; give more features than hidden units")


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
    samples: Annotated[int, Field(ge=16)] = Field(description="points of a training sample, the zero point included")
    evaluation_samples: Annotated[int, Field(ge=16)] = Field(description="points on which restarts are compared")
    steps: Annotated[int, Field(ge=1)] = Field(description="most loss evaluations of one training run")


class Shape(Strict):
    """n features in m < n hidden units."""

    n_features: Annotated[int, Field(ge=2, le=400)] = Field(description="n")
    n_hidden: Width = Field(description="m, less than n")

    @field_validator("n_hidden")
    @classmethod
    def _squeezes(cls, n_hidden: int, info: Any) -> int:
        _fewer_than(info.data.get("n_features"), n_hidden)
        return n_hidden


class Streamed(Shape):
    """Trained on an endless stream."""

    evaluation_samples: Annotated[int, Field(ge=16)] = Field(description="points of the held-out loss")
    optimisation: Optimisation


class FeatureTraining(Shape, Effort):
    """n features of falling importance in m hidden units."""

    importance_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="I_i = decay^i")
    densities: Annotated[list[Density], Field(min_length=2)] = Field(description="s = 1 - S, dense to sparse")
    activations: Annotated[list[Literal["relu", "linear", "relu_hidden"]], Field(min_length=1)] = Field(
        description="relu, linear as its control, or relu_hidden with a ReLU on the hidden units too"
    )
    control_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(description="starts of controls; 0: as many")


class CellTraining(Effort):
    """n = m + 1 features in m hidden units, over a grid of the last feature's importance and of density."""

    n_hidden: Annotated[int, Field(ge=1, le=2)] = Field(description="m; n = m + 1")
    importances: Span = Field(description="r, importance of the last feature; the others have 1")
    densities: Densities = Field(description="s = 1 - S of all features")
    linear_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(description="starts of the linear control, or 0")


class Judging(Strict):
    """How the trained phase diagram is compared with the exact one."""

    stored_norm: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(description="|w| above which a feature is stored")
    band: Annotated[float, Field(ge=0.0, le=1.0)] = Field(description="cells this close to a border are not compared")
    loss_slack: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="relative excess over the exact loss")


class RarerTraining(Effort):
    """Equally important features in a plane, the last of them rarer."""

    n_features: Annotated[int, Field(ge=3, le=20)] = Field(description="n; the hidden plane has m = 2")
    density: Density = Field(description="of the other features")
    ratios: Annotated[list[Density], Field(min_length=3)] = Field(description="last density over the others, from 1")


class SetTraining(Effort):
    """Equally important features that occur in sets."""

    n_sets: Annotated[int, Field(ge=1, le=20)] = Field(description="sets")
    members: Annotated[int, Field(ge=2, le=20)] = Field(description="features of a set")
    n_hidden: Width = Field(description="m, less than n_sets times members")
    kinds: Annotated[list[SetKind], Field(min_length=2)] = Field(description="laws of the data, one grid each")
    densities: Annotated[list[Density], Field(min_length=1)] = Field(description="of sets; independent: of features")

    @field_validator("n_hidden")
    @classmethod
    def _squeezes(cls, n_hidden: int, info: Any) -> int:
        if {"n_sets", "members"} <= set(info.data):
            _fewer_than(info.data["n_sets"] * info.data["members"], n_hidden)
        return n_hidden


class UniformTraining(Streamed):
    """Equally important features on a stream, from dense to sparse."""

    densities: Annotated[list[Density], Field(min_length=3)] = Field(description="s = 1 - S, dense to sparse")
    activations: Annotated[list[Literal["relu", "linear"]], Field(min_length=1)] = Field(
        description="relu, and linear as the control"
    )


class CourseTraining(Shape):
    """Equally important features, full batch on a fixed sample, with snapshots."""

    arms: Annotated[list[Literal["relu", "linear", "correlated", "independent"]], Field(min_length=2)] = Field(
        description="relu or linear models of independent features; ReLU models of two correlated sets, or of none"
    )
    density: Density = Field(description="s = 1 - S of the features, or of their sets")
    start_scale: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="factor on Xavier's starting weights")
    copies: Annotated[int, Field(ge=1, le=100)] = Field(description="starts per seed")
    samples: Annotated[int, Field(ge=16)] = Field(description="points of the fixed sample")
    snapshots: Annotated[int, Field(ge=20, le=1000)] = Field(description="evenly spaced, the start not counted")
    optimisation: Optimisation


class AbsoluteTraining(Streamed):
    """Absolute values of n features in m hidden units, on a stream, from dense to sparse.

    The learning rate of a density s is `optimisation.learning_rate` times the root of s.
    """

    importance_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="I_i = decay^i")
    densities: Annotated[list[Density], Field(min_length=2)] = Field(description="s = 1 - S, dense to sparse")
    control_density: Density = Field(description="one of `densities`, at which linear hidden units are trained")


class MotifTraining(Streamed):
    """Absolute values of equally important features in a model small enough to read its weights."""

    density: Density = Field(description="s = 1 - S")
    restarts: Annotated[int, Field(ge=1, le=1000)] = Field(description="starts per seed; the best one is kept")


class FewPoints(Strict):
    """Models of few training points, over the number of points and of hidden units, at two weight decays."""

    n_features: Annotated[int, Field(ge=2, le=10000)] = Field(description="n")
    widths: Annotated[list[Width], Field(min_length=1)] = Field(description="numbers m of hidden units, less than n")
    density: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(description="s = 1 - S; points are scaled to norm 1")
    points: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=4)] = Field(description="T, few to many")
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

    @field_validator("widths")
    @classmethod
    def _squeezes(cls, widths: list[int], info: Any) -> list[int]:
        _fewer_than(info.data.get("n_features"), max(widths))
        return widths


class Trained(Strict, Generic[Training]):
    """A part that needs nothing but the settings of its training."""

    training: Training


class Intro(Strict):
    """Unequal importances: which features get a place."""

    training: FeatureTraining
    middle_density: Density = Field(description="where four features should form two antipodal pairs")


class Polygons(Strict):
    """Equal importances: which polygon they form."""

    training: FeatureTraining
    digon_density: Density = Field(description="where two antipodal pairs and one forgotten feature are expected")
    pentagon_density: Density = Field(description="where a regular pentagon is expected")


class PhaseDiagram(Strict):
    """Forgotten, antipodal or dedicated: the paper's phase diagrams, n = 2 in m = 1 and n = 3 in m = 2."""

    training: CellTraining
    judging: Judging


class Sets(Strict):
    """Where the members of a set go: side by side, at a right angle, or opposite."""

    pairs: SetTraining
    three_pairs: SetTraining
    local_bases: SetTraining
    collapse_density: Density = Field(description="of `three_pairs`, where every pair is expected to be one direction")


class Uniform(Strict):
    """Sticky dimensionalities: digons, pentagons and what lies between; and attacks on these models."""

    training: UniformTraining
    polytope_densities: Annotated[list[Density], Field(min_length=2, max_length=2)] = Field(
        description="from, to: densities at which regular arrangements are expected"
    )
    attack_points: Annotated[int, Field(ge=1)] = Field(description="points that are attacked, per density")


class Neurons(Strict):
    """A ReLU on the hidden units: which unit serves which features."""

    training: FeatureTraining
    monosemantic_density: Density = Field(description="where every unit is expected to serve one feature")


class Absolute(Strict):
    """Computing |x| in superposition: which hidden unit serves which features."""

    training: AbsoluteTraining
    motif: MotifTraining
    mixed_density: Density = Field(description="where some units serve one feature and others several")
    sparser_density: Density = Field(description="where most units serve several features and a few one")


class MeasureFeatures(Strict):
    """What `measure_features` reads."""

    intro: Intro
    polygons: Polygons


class MeasurePhases(Strict):
    """What `measure_phases` reads."""

    phase_diagram: PhaseDiagram
    third_feature: PhaseDiagram | None


class MeasureGeometry(Strict):
    """What `measure_geometry` reads."""

    sets: Sets
    rarer_feature: Trained[RarerTraining] | None


class MeasureNeurons(Strict):
    """What `measure_neurons` reads."""

    neurons: Neurons
    absolute: Absolute


class MeasureDoubleDescent(Strict):
    """What `measure_double_descent` reads."""

    double_descent: Trained[FewPoints]
    widths: Trained[FewPoints] | None


class Settings(Strict):
    """All parts. A part that is null is neither trained nor measured."""

    intro: Intro
    polygons: Polygons
    many_features: Trained[FeatureTraining]
    phase_diagram: PhaseDiagram
    first_order: Trained[CellTraining]
    third_feature: PhaseDiagram | None
    rarer_feature: Trained[RarerTraining] | None
    sets: Sets
    uniform: Uniform
    energy_levels: Trained[CourseTraining] | None
    octahedron: Trained[CourseTraining]
    neurons: Neurons | None
    absolute: Absolute | None
    double_descent: Trained[FewPoints]
    widths: Trained[FewPoints] | None
