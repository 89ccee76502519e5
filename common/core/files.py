"""Reading and writing files so that a file that exists is complete: temporary file, fsync, rename."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from common.core.errors import UserError

TEMPORARY_SUFFIX = ".part-landmarks"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed and renamed, on any error removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{TEMPORARY_SUFFIX}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(0o644)  # safetensors writes private files
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sweep_temporary_files(folder: Path) -> None:
    """Removes what killed jobs left behind below `folder`."""
    for path in folder.rglob(f".*{TEMPORARY_SUFFIX}*"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically: sorted keys, two-space indent, no NaN or Infinity (ValueError)."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file. UserError if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run `make` to create it") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run `make resume`") from None


class _UniqueKeys(yaml.CSafeLoader):
    """Refuses a key that is written twice; the plain loader takes the last and says nothing."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        todo = [node]
        while todo:
            one = todo.pop()
            if isinstance(one, yaml.MappingNode):
                todo += [value for _, value in one.value]
                _refuse_doubled([key for key, _ in one.value])
            elif isinstance(one, yaml.SequenceNode):
                todo += one.value
        return node


def _refuse_doubled(keys: list[yaml.Node]) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key in keys:
        place, line = (key.tag, str(key.value)), key.start_mark.line + 1
        if place in lines:
            raise yaml.YAMLError(f"the key '{key.value}' is in lines {lines[place]} and {line}; keep one of the two")
        lines[place] = line


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. UserError if it is missing, not UTF-8 or not YAML, or has a key twice."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
