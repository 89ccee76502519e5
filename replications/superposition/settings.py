"""Settings of the toy models of superposition. `config.yaml` gives the values of each scale."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, field_validator

from common.core.settings import Strict
from common.toys.settings import Optimisation

Training = TypeVar("Training", bound=Strict)
Density = Annotated[float, Field(gt=0.0, le=1.0)]
Width = Annotated[int, Field(ge=1, le=100)]
RANDOM = "random_directions"
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
    random_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        description="starts of models whose columns keep random directions, at the sparsest density; 0: none"
    )


class CellTraining(Effort):
    """Two features in one hidden unit, over a grid of the second feature's importance and of density."""

    n_hidden: Literal[1] = Field(description="m")
    importances: Span = Field(description="r, importance of the second feature; the first has 1")
    densities: Densities = Field(description="s = 1 - S of all features")
    linear_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(description="starts of the linear control, or 0")


class Judging(Strict):
    """How the trained phase diagram is compared with the exact one."""

    stored_norm: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(description="|w| above which a feature is stored")
    band: Annotated[float, Field(ge=0.0, le=1.0)] = Field(description="cells this close to a border are not compared")
    loss_slack: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="relative excess over the exact loss")


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


class CourseTraining(Shape):
    """Equally important features, trained at a constant rate, with snapshots."""

    arms: Annotated[list[Literal["stream", "correlated", "independent"]], Field(min_length=1)] = Field(
        description="independent features on a stream; or two correlated sets, or independent features, on one sample"
    )
    density: Density = Field(description="s = 1 - S of the features, or of their sets")
    start_scale: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="factor on Xavier's starting weights")
    copies: Annotated[int, Field(ge=1, le=100)] = Field(description="starts per seed")
    samples: Annotated[int, Field(ge=16)] = Field(description="points on which losses are measured")
    snapshots: Annotated[int, Field(ge=20, le=1000)] = Field(description="evenly spaced, the start not counted")
    optimisation: Optimisation


class AbsoluteTraining(Streamed):
    """Absolute values of n features in m hidden units, on a stream, from dense to sparse."""

    importance_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="I_i = decay^i")
    densities: Annotated[list[Density], Field(min_length=2)] = Field(description="s = 1 - S, dense to sparse")
    restarts: Annotated[int, Field(ge=1, le=100)] = Field(description="starts per seed and density; the best is kept")
    random_restarts: Annotated[int, Field(ge=1, le=100)] = Field(
        description="models whose input weights stay random codes, per seed, at the judged density"
    )
    start_scale: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="factor on Xavier's starting weights")


class FewPoints(Strict):
    """Models of few training points, over the number of points, at two weight decays."""

    n_features: Annotated[int, Field(ge=2, le=10000)] = Field(description="n")
    n_hidden: Width = Field(description="m, less than n")
    density: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(description="s = 1 - S; points are scaled to norm 1")
    points: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=4)] = Field(description="T, few to many")
    test_points: Annotated[int, Field(ge=16)] = Field(description="points of the test set")
    control_decay: Annotated[float, Field(ge=0.0)] = Field(description="weight decay of the control")
    n_seeds: Annotated[int, Field(ge=2)] = Field(description="the first so many seeds of the run")
    optimisation: Optimisation

    @field_validator("n_hidden")
    @classmethod
    def _squeezes(cls, n_hidden: int, info: Any) -> int:
        _fewer_than(info.data.get("n_features"), n_hidden)
        return n_hidden


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
    """Ignored, superposed or dedicated: the paper's phase diagram of n = 2 features in m = 1 hidden unit."""

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
    plateau_ends: Density = Field(description="density below which regular arrangements beyond pairs are expected")
    attack_points: Annotated[int, Field(ge=1)] = Field(description="points that are attacked, per density")


class Neurons(Strict):
    """A ReLU on the hidden units: which unit serves which features."""

    training: FeatureTraining
    monosemantic_density: Density = Field(description="at and above it every unit is expected to serve one feature")
    polysemantic_density: Density = Field(description="at and below it every unit is expected to serve several")


class Absolute(Strict):
    """Computing |x| in superposition: its loss, and which hidden unit serves which features."""

    training: AbsoluteTraining
    judged_density: Density = Field(description="one of `densities`, at which the models are judged")


class MeasureFeatures(Strict):
    """What `measure_features` reads."""

    intro: Intro
    polygons: Polygons


class MeasureNeurons(Strict):
    """What `measure_neurons` reads."""

    neurons: Neurons | None
    absolute: Absolute


class Settings(Strict):
    """All parts. A part that is null is neither trained nor measured."""

    intro: Intro
    polygons: Polygons
    many_features: Trained[FeatureTraining]
    phase_diagram: PhaseDiagram
    first_order: Trained[CellTraining]
    sets: Sets
    uniform: Uniform
    energy_levels: Trained[CourseTraining]
    octahedron: Trained[CourseTraining]
    neurons: Neurons | None
    absolute: Absolute
    double_descent: Trained[FewPoints]
