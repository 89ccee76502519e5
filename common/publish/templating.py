"""Renders the templates in `common/publish/templates/`. Values are escaped unless a template marks them as safe."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"
PLAIN_UNITS = ("1", "share", None)
ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def signs(text: str) -> str:
    """`>=` and `<=` as one sign each."""
    return text.replace(">=", "≥").replace("<=", "≤")


def behind(unit: str | None) -> str:
    """A unit as it stands behind a number; nothing for a plain one."""
    return "" if unit in PLAIN_UNITS else " %" if unit == "percent" else f" {unit}"


ENVIRONMENT.filters["signs"] = signs


def render(template: str, **values: Any) -> str:
    """The text of a template with these values."""
    return ENVIRONMENT.get_template(template).render(**values)
