"""What rule files need: options for a step's command line, the hash of its sources, and the tie to its process."""

import os
import shlex
from collections.abc import Mapping
from typing import Any

from common.sources import source_hash

__all__ = ["flags", "source_hash", "tie_steps_to_this_process"]


def tie_steps_to_this_process() -> None:
    """Steps started from here die with this process (see `common.cli.die_with_workflow`)."""
    os.environ["WORKFLOW_PID"] = str(os.getpid())


def flags(settings: Mapping[str, Any], **more: Any) -> str:
    """Command-line options: `{"n_features": 5, "densities": [1.0, 0.5]}` gives `--n-features 5 --densities 1.0 0.5`.

    Nested mappings become dotted names, booleans `--name` or `--no-name`, None is left out.
    """
    return " ".join(_flag(name, value) for name, value in {**settings, **more}.items() if value is not None)


def _flag(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return flags({f"{name}.{key}": item for key, item in value.items()})
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    if isinstance(value, list | tuple):
        return f"--{option} {' '.join(shlex.quote(str(item)) for item in value)}"
    return f"--{option} {shlex.quote(str(value))}"
