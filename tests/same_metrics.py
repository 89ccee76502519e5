"""Says which numbers of one results folder another lacks: `python -m tests.same_metrics OLD NEW [replication ...]`.

For a change of structure that must not change a value. Each metric of OLD must be found in the same part of NEW, under
whatever name. It may be a metric, a control or a difference, with the same value and interval. Exit code 1 if one is
missing.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RELATIVE, ABSOLUTE = 1e-9, 1e-12
Numbers = tuple[float, float, float]


def numbers(metrics: dict[str, Any]) -> Iterator[tuple[str, Numbers]]:
    """Name and (value, ci_low, ci_high) of every metric, control and difference."""
    for name, metric in metrics.items():
        found = {name: metric}
        for control in metric.get("controls", []):
            found[f"{name} against {control['name']}"] = control
            found[f"{name} minus {control['name']}"] = control["difference"]
        yield from ((key, (item["value"], item["ci_low"], item["ci_high"])) for key, item in found.items())


def same(one: Numbers, other: Numbers) -> bool:
    """Whether two numbers and their intervals agree to rounding; the sign of a difference may be turned."""

    def close(a: Numbers, b: Numbers) -> bool:
        return all(math.isclose(x, y, rel_tol=RELATIVE, abs_tol=ABSOLUTE) for x, y in zip(a, b, strict=True))

    value, low, high = other
    return close(one, other) or close(one, (-value, -high, -low))


def main(old: Path, new: Path, *names: str) -> int:
    """Prints what is missing; returns the exit code."""
    missing = total = 0
    for path in sorted(old.glob("*/*/*/metrics.json")):
        part = path.relative_to(old)
        if names and part.parts[0] not in names:
            continue
        if not (new / part).exists():
            print(f"{part}: missing")
            missing += 1
            continue
        known = [found for _, found in numbers(json.loads((new / part).read_text()))]
        for name, wanted in numbers(json.loads(path.read_text())):
            total += 1
            if not any(same(wanted, found) for found in known):
                print(f"{part}: {name} = {wanted} is not there")
                missing += 1
    print(f"{total} numbers looked for, {missing} missing")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
