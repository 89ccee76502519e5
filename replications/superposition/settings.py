"""Settings of the toy models of superposition. `config.yaml` gives the values of each scale."""

from typing import Annotated, Any

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from common.core.settings import Strict
from replications.superposition.training_settings import (
    AbsoluteTraining,
    CellTraining,
    CourseTraining,
    Density,
    DescentTraining,
    FeatureTraining,
    Judging,
    LevelTraining,
    MotifTraining,
    RarerTraining,
    SetTraining,
    UniformTraining,
    WidthTraining,
)


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
    """Forgotten, antipodal or dedicated: the paper's phase diagram."""

    training: CellTraining
    judging: Judging


class FirstOrder(Strict):
    """A fine scan of density at two importances: does the second feature jump in?"""

    training: CellTraining


class ThirdFeature(Strict):
    """The phase diagram of a third feature in two hidden units."""

    training: CellTraining
    judging: Judging


class ManyFeatures(Strict):
    """Twenty features in five hidden units: what is stored, and what is superposed first."""

    training: FeatureTraining


class RarerFeature(Strict):
    """When does the pentagon give way to two digons?"""

    training: RarerTraining


class Sets(Strict):
    """Where the members of a set go: side by side, at a right angle, or opposite."""

    pairs: SetTraining
    three_pairs: SetTraining
    local_bases: SetTraining
    collapse_density: Density = Field(description="of `three_pairs`, where every pair is expected to be one direction")


class Uniform(Strict):
    """Sticky dimensionalities: digons, pentagons and what lies between."""

    training: UniformTraining
    polytope_densities: Annotated[list[Density], Field(min_length=2, max_length=2)] = Field(
        description="from, to: densities at which regular arrangements are expected"
    )
    attack_points: Annotated[int, Field(ge=1)] = Field(description="points that are attacked, per density")


class Learning(Strict):
    """How dimensionalities jump, and how an octahedron forms, while models learn."""

    levels: LevelTraining
    geometry: CourseTraining


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


class DoubleDescent(Strict):
    """Points in superposition, features in superposition, and the bump between."""

    training: DescentTraining
    widths: WidthTraining


class Settings(Strict):
    """All parts."""

    intro: Intro
    polygons: Polygons
    many_features: ManyFeatures
    phase_diagram: PhaseDiagram
    first_order: FirstOrder
    third_feature: ThirdFeature
    rarer_feature: RarerFeature
    sets: Sets
    uniform: Uniform
    learning: Learning
    neurons: Neurons
    absolute: Absolute
    double_descent: DoubleDescent

    @model_validator(mode="wrap")
    @classmethod
    def _short(cls, content: Any, handler: ModelWrapValidatorHandler["Settings"]) -> "Settings":
        """Too few features: the message ends with the number of hidden units, and not with all settings of the part."""
        try:
            return handler(content)
        except ValidationError as error:
            details = [_blames_width(one) for one in error.errors() if one["type"] == "value_error"]
            if not details:
                raise
            raise ValidationError.from_exception_data(error.title, details) from None


def _blames_width(error: Any) -> InitErrorDetails:
    message = str(error["ctx"]["error"]).replace("{", "").replace("}", "")
    key = "n_hidden" if "n_hidden" in error["input"] else "widths"
    width = error["input"][key]
    return InitErrorDetails(type=PydanticCustomError("value_error", message), loc=(*error["loc"], key), input=width)
