"""Settings of the run: one scale file and one `config.yaml` per replication, both checked by pydantic.

A replication's `config.yaml` has the blocks `default`, `smoke`, `laptop`, `full` and `gpu`. The block of the chosen
scale is laid over `default`, key by key. Without a block `full`, that of `laptop` is taken. Its class `Settings` (in
`settings.py`) names and bounds every key. The JSON schemas are generated from these classes (`common.engine.schemas`)
for editors.
"""

import difflib
import importlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.core.errors import UserError
from common.core.files import read_yaml

ROOT = Path(__file__).resolve().parents[2]
SCALES = ("smoke", "laptop", "full", "gpu")
Scale = Literal["smoke", "laptop", "full", "gpu"]
Kind = Literal["scored", "calibration", "fresh"]  # of a run, by its seeds


def _distinct(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("the same seed stands here twice, but seeds count as independent; keep each of them once")
    return seeds


Seeds = Annotated[list[int], Field(min_length=2, json_schema_extra={"uniqueItems": True}), AfterValidator(_distinct)]


class Strict(BaseModel):
    """Base of all records and settings: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Model = TypeVar("Model", bound=Strict)


class ScaleSettings(Strict):
    """What one scale decides for all replications: `config/scales/<scale>.yaml`."""

    device: Literal["cpu", "cuda"] = Field(description="where torch steps run; cuda stops at once without a GPU")
    seeds: Seeds = Field(description="scoring seeds")
    own_seeds: dict[str, Seeds] = Field(
        default_factory=dict, description="scoring seeds of single replications, in place of `seeds`"
    )
    calibration_seeds: Seeds = Field(description="seeds of `make calibrate`; never scored")
    models: list[str] = Field(description="names in config/models.yaml that every model-based replication runs on")
    hub_models: list[str] = Field(description="added to `models` when HUB=1 says that a model hub is reachable")


def replications() -> list[str]:
    """Names of all replications: the folders below `replications/` that hold a `rules.smk`."""
    return sorted(path.parent.name for path in (ROOT / "replications").glob("*/rules.smk"))


def load_scale(scale: str, replication: str = "") -> ScaleSettings:
    """The checked settings of one scale, with the scoring seeds of a replication and as many calibration seeds.
    UserError for an unknown scale or a bad file."""
    if scale not in SCALES:
        raise UserError(f"unknown scale '{scale}': use SCALE={', SCALE='.join(SCALES)}")
    path = ROOT / "config" / "scales" / f"{scale}.yaml"
    settings = checked(ScaleSettings, read_yaml(path), path)
    if unknown := sorted(set(settings.own_seeds) - set(replications())):
        raise UserError(f"{_shown(path)}: own_seeds names '{unknown[0]}'; there is {', '.join(replications())}")
    for seeds in (settings.seeds, *settings.own_seeds.values()):
        if shared := set(seeds) & set(settings.calibration_seeds):
            raise UserError(f"{_shown(path)}: seeds and calibration_seeds share {sorted(shared)}; keep them apart")
    own = settings.own_seeds.get(replication, settings.seeds)
    return settings.model_copy(update={"seeds": own, "calibration_seeds": settings.calibration_seeds[: len(own)]})


def load_replication(name: str, scale: str) -> Strict:
    """The checked settings of one replication at one scale. UserError naming file, key and allowed values."""
    path = ROOT / "replications" / name / "config.yaml"
    blocks = read_yaml(path) or {}
    for block, content in blocks.items() if isinstance(blocks, dict) else [("the file", blocks)]:
        if not isinstance(content, dict | None):
            raise UserError(f"{_shown(path)}: '{block}' must hold keys and values (found {content!r})")
    if unknown := sorted(set(blocks) - {"default", *SCALES}):
        raise UserError(f"{_shown(path)}: unknown block '{unknown[0]}'; allowed are default, {', '.join(SCALES)}")
    own = "laptop" if scale == "full" and "full" not in blocks else scale
    if own not in blocks:
        raise UserError(
            f"{_shown(path)}: there is no block '{own}'; write what this scale changes, or `{own}: {{}}` "
            "if it runs with `default` as it is"
        )
    return checked(settings_class(name), _overlay(blocks.get("default") or {}, blocks[own] or {}), path)


def settings_class(name: str) -> type[Strict]:
    """The class `Settings` of a replication."""
    found: type[Strict] = importlib.import_module(f"replications.{name}.settings").Settings
    return found


def checked(model: type[Model], content: Any, path: Path) -> Model:
    """Validates `content` read from `path`; the first problem becomes one sentence."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{_shown(path)}: {_sentence(model, content, error)}") from None


def _sentence(model: type[Strict], content: Any, error: ValidationError) -> str:
    found = error.errors()  # a misspelt key also leaves the right one missing, which says less
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    key = _place(content, first["loc"])
    if first["type"] != "extra_forbidden":
        given = "" if isinstance(first["input"], dict) else f" (found {first['input']!r})"
        return f"'{key}': {first['msg'].removeprefix('Value error, ')}{given}"
    allowed = sorted(_fields_at(model, first["loc"][:-1]))
    close = difflib.get_close_matches(str(first["loc"][-1]), allowed, 1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"unknown key '{key}'{hint} Allowed keys: {', '.join(allowed)}"


def _place(content: Any, parts: tuple[int | str, ...]) -> str:
    """The keys that lead to a place; an entry of a list goes by its `id` where it has one."""
    names = []
    for number, part in enumerate(parts):
        if isinstance(content, dict) and part not in content and number + 1 < len(parts):
            continue  # the tag of a union
        entry = isinstance(content, list) and isinstance(part, int)
        content = content[part] if entry else content.get(part) if isinstance(content, dict) else None
        names.append(str(content.get("id", part) if entry and isinstance(content, dict) else part))
    return ".".join(names) or "the file"


def _fields_at(model: type[Strict], place: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the model nested at `place`, through lists and unions (by their tag, if they have one)."""
    among = [model]
    for part in place:
        if tagged := [one for one in among if any(part in get_args(f.annotation) for f in one.model_fields.values())]:
            among = tagged
        elif isinstance(part, str) and part in among[0].model_fields:
            among = _inner(among[0].model_fields[part].annotation) or among
    return list(among[0].model_fields)


def _inner(annotation: Any) -> list[type[Strict]]:
    """The settings classes in a type such as `list[Member]`, `Member | None` or a union."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return [annotation]
    return [found for part in get_args(annotation) for found in _inner(part)]


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
