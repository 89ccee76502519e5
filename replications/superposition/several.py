"""Runs several steps in one process: `+ <step> <its options> + <step> <its options> ...`.

Importing torch takes longer than many of the measuring steps themselves. The steps stay what they are, one typed
function each; `measure` collects them.
"""

import sys
from collections.abc import Callable
from itertools import groupby
from typing import Any

import tyro

from common.core.errors import UserError
from common.core.step import run_command
from replications.superposition.wiring import MARK


def run_several(*steps: Callable[..., Any]) -> None:
    """Runs what the command line names, in its order."""
    known = {step.__name__: step for step in steps}

    def command() -> None:
        for name, *options in split(sys.argv[1:]):
            if name not in known:
                raise UserError(f"unknown step {name}; known are {', '.join(known)}")
            tyro.cli(known[name], args=options)

    run_command(command)


def split(words: list[str]) -> list[list[str]]:
    """The words of each step, its name first."""
    return [list(part) for mark, part in groupby(words, MARK.__eq__) if not mark]
