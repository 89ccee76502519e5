"""The generated blocks of `docs/performance.md`: `profile`, from `figures/profile.json`, and `benchmarks`, from
`figures/benchmarks.json`. Where there is no record yet, a block says which command makes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.core.files import read_json
from common.core.settings import ROOT

PAGE = ROOT / "docs" / "performance.md"
PROFILE, BENCHMARKS = "profile.json", "benchmarks.json"
LARGEST = 10  # steps with a row of their own


def profile_block(profile: Mapping[str, Any]) -> str:
    """Totals, replications, costliest steps with their share, critical path."""
    steps: dict[str, dict[str, float]] = profile["steps"]
    cpu, cores = sum(one["cpu_s"] for one in steps.values()), profile["cores"]
    path = [(name, steps[name]["wall_s"]) for name in profile["critical_path"]]
    clock = f"{profile['clock_s'] / 60:.0f} minutes by the clock" if profile["clock_s"] else "made in several runs"
    lines = [
        f"Scale `{profile['scale']}` on {cores} cores, {profile['machine']}: {len(steps)} steps, {cpu / 60:.1f} CPU "
        f"minutes, {clock} (at least {cpu / cores / 60:.1f} with every core busy).",
        "",
        "| part | CPU, min | share | largest step, GB |",
        "|---|---|---|---|",
    ]
    groups: dict[str, list[dict[str, float]]] = {}
    for name, one in steps.items():
        groups.setdefault(name.split("/")[0] if "/" in name else "documents", []).append(one)
    for name, members in sorted(groups.items(), key=lambda item: -sum(one["cpu_s"] for one in item[1])):
        own = sum(one["cpu_s"] for one in members)
        memory = max(one["peak_rss_mb"] for one in members) / 1000
        lines.append(f"| {name} | {own / 60:.1f} | {own / cpu:.0%} | {memory:.1f} |")
    lines += ["", "| step | CPU, s | wall, s | GB | share | sum |", "|---|---|---|---|---|---|"]
    total = 0.0
    for name, one in sorted(steps.items(), key=lambda item: -item[1]["cpu_s"])[:LARGEST]:
        total += one["cpu_s"]
        numbers = f"{one['cpu_s']:.0f} | {one['wall_s']:.0f} | {one['peak_rss_mb'] / 1000:.1f}"
        lines.append(f"| {name} | {numbers} | {one['cpu_s'] / cpu:.1%} | {total / cpu:.0%} |")
    shown = " -> ".join(f"{name} {seconds:.0f}" for name, seconds in path if seconds >= 1)
    lines += ["", f"Critical path, {sum(seconds for _, seconds in path):.0f} s of wall time: {shown}."]
    if profile["missing"]:
        lines.append(f"Not finished: {', '.join(profile['missing'])}.")
    return "\n".join(lines)


def profile_totals(profile: Mapping[str, Any]) -> str:
    """`58 CPU minutes, 31 by the clock on 2 cores, at most 4.1 GB of memory in one step`."""
    steps: list[dict[str, float]] = list(profile["steps"].values())
    clock = f", {profile['clock_s'] / 60:.0f} by the clock on {profile['cores']} cores" if profile["clock_s"] else ""
    memory = max(one["peak_rss_mb"] for one in steps) / 1000
    cpu = sum(one["cpu_s"] for one in steps)
    return f"{cpu / 60:.0f} CPU minutes{clock}, at most {memory:.1f} GB of memory in one step"


def benchmarks_block(record: Mapping[str, Any]) -> str:
    """The table of `make bench`: median and range of both sides, and of the ratio of each pair of runs."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [
        f"{record['machine']}, {record['threads']} thread; {versions}. Median [least, most] of {record['runs']} runs, "
        "both sides in turn; CPU seconds.",
        "",
        "| task | ours, s | instead | theirs, s | ratio | same answer |",
        "|---|---|---|---|---|---|",
    ]
    for row in (row for rows in record["rows"].values() for row in rows):
        ours, theirs, ratio = (spread(row[key]) for key in ("ours", "theirs", "ratio"))
        lines.append(f"| {row['task']} | {ours} | {row['instead']} | {theirs} | {ratio} | {row['check']} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """`2.1 [2, 2.4]`, `110 [109, 113]`."""
    ordered = sorted(values)
    middle, least, most = (
        f"{one:.2g}" if one < 100 else f"{one:.0f}" for one in (ordered[len(ordered) // 2], ordered[0], ordered[-1])
    )
    return f"{middle} [{least}, {most}]"


def blocks(folder: Path) -> dict[str, str]:
    """The blocks of the page by name, from the records in `folder`."""
    found = {"profile": "No run is profiled yet: `make`, then `make profile`."}
    found["benchmarks"] = "No timings are recorded yet: `make bench`."
    if (folder / PROFILE).exists():
        found["profile"] = profile_block(read_json(folder / PROFILE))
    if (folder / BENCHMARKS).exists():
        found["benchmarks"] = benchmarks_block(read_json(folder / BENCHMARKS))
    return found
