"""What the rule files need to run several steps in one process (`several`). Imports nothing heavy."""

from collections.abc import Mapping

from common.engine.rules import flags

MARK = "+"


def calls(steps: Mapping[str, str], files: Mapping[str, str], options: Mapping[str, str]) -> str:
    """The command line for the lines whose files these are, named `<line>__<option>`; other files are left out.

    >>> calls({"intro": "measure_intro"}, {"intro__table": "t.csv"}, {"intro": "--seeds 0 1"})
    '+ measure_intro --table t.csv --seeds 0 1'
    """
    given: dict[str, dict[str, str]] = {}
    for name, path in files.items():
        line, mark, option = name.partition("__")
        if mark:
            given.setdefault(line, {})[option] = str(path)
    return " ".join(f"{MARK} {steps[line]} {flags(own)} {options.get(line, '')}".strip() for line, own in given.items())
