"""Errors meant for the person at the terminal: one sentence that says what is wrong and how to mend it."""

import errno
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """Something the user can mend. Printed as `error: <sentence>` without a traceback; the exit code is 1."""


def from_os_error(error: OSError) -> UserError | None:
    """The sentence for an operating-system error that a user can mend, or None for any other error."""
    place = error.filename or "the results folder"
    if error.errno == errno.ENOSPC:
        free = ""
        if error.filename and (folder := _existing_parent(Path(error.filename))):
            free = f" ({shutil.disk_usage(folder).free / 1e6:.0f} MB free)"
        return UserError(f"the disk is full{free}: could not write {place}; free some space and run `make resume`")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return UserError(f"cannot write {place}: it is read-only for this user; make it writable and run `make resume`")
    return None


def from_broken_record(error: "ValidationError") -> UserError:
    """The sentence for a number that a step has computed and that no record may hold, such as a NaN in a metric."""
    first = error.errors()[0]
    place = ".".join([error.title, *map(str, first["loc"])])
    return UserError(f"{place}: {first['msg']} (found {first['input']!r}); the lines above say where; correct the step")


def _existing_parent(path: Path) -> Path | None:
    return next((folder for folder in [path, *path.parents] if folder.is_dir()), None)
