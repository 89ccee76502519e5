"""Checkpoints of training that was interrupted, and when they have to go.

A step takes up the checkpoint that it left behind. It knows its own by names, settings and seeds, but not by the
sources and the data that it was made with. So the launcher keeps one hash of what all replications share, and one of
each replication: sources, rules, settings. What it shares with none is no concern of another, and claims, figures and
tests concern no checkpoint. A checkpoint goes when a hash that it can depend on is not that of the last start.
"""

import hashlib
import json
import re
from pathlib import Path

from common.core.files import TEMPORARY_SUFFIX, write_text
from common.engine.failure import in_one_sentence

HERE = Path()  # the launcher stands in the project's folder
FOLDER = Path(
    "resources", "checkpoints"
)  # of `common.toys.training`; that of `common.saes.trainer` lie beside the outputs
STATE = ".state"
SHARED, TOYS = "shared", "toys"  # TOYS: all replications that train by `common.toys.training`
SOURCES = ("common", "config")
ENDINGS = (".py", ".yaml", ".smk")
NO_CONCERN = re.compile(r"common/(engine|publish)/.*\.py|.*/tests/.*|.*/claims\.yaml|.*figures\.py")
BESIDE = re.compile(
    r"[^.].*\.(json|safetensors)(\.[a-z_0-9]+)+(?<!\.json)|[^.]+\.(checkpoint|training)"
    rf"|[^.]+{re.escape(TEMPORARY_SUFFIX)}"
)


def program(root: Path = HERE) -> dict[str, str]:
    """SHA-256 over name and content of sources, rules and settings: of what is shared, of the replications that train
    toys, and of each replication."""

    def below(folder: Path) -> list[Path]:
        return [path for path in folder.rglob("*") if path.suffix in ENDINGS and path.is_file()]

    def hashed(paths: list[Path]) -> str:
        digest = hashlib.sha256()
        for name, path in sorted((path.relative_to(root).as_posix(), path) for path in paths):
            if not NO_CONCERN.fullmatch(name):
                digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return digest.hexdigest()

    shared = [path for name in SOURCES for path in below(root / name)]
    own = {folder.name: below(folder) for folder in (root / "replications").glob("*") if folder.is_dir()}
    toys = [paths for paths in own.values() if any(b"common.toys.training" in path.read_bytes() for path in paths)]
    return {name: hashed(paths) for name, paths in own.items()} | {
        SHARED: hashed([*shared, *root.glob("Snakefile"), *root.glob("envs/lock*.txt")]),
        TOYS: hashed([path for paths in toys for path in paths]),
    }


def found(root: Path = HERE) -> dict[Path, str]:
    """Every checkpoint of every scale, and whose it is. What is being written (hidden until it is complete) is none."""
    toys = {path: TOYS for path in (root / FOLDER).glob("*") if not path.name.startswith(".")}
    results = root / "results"
    beside = [path for path in results.rglob("*") if BESIDE.fullmatch(path.name) and path.is_file()]
    owners = {path: path.relative_to(results).parts for path in beside}
    return toys | {path: parts[1] if len(parts) > 1 else SHARED for path, parts in owners.items()}


def remove_stale(root: Path = HERE) -> int:
    """Removes checkpoints whose sources, settings or lock are not those of the last call; says so. Returns how many.

    Raises:
        UserError: the disk is full or read-only.
    """
    state, now = root / FOLDER / STATE, program(root)
    with in_one_sentence():
        before = _read(state)
        if before == now:
            return 0
        changed = {name for name in now if before.get(name) != now[name]}
        stale = [path for path, owner in found(root).items() if {SHARED, owner} & changed or owner not in now]
        for path in stale:
            path.unlink(missing_ok=True)
        write_text(state, json.dumps(now, indent=0) + "\n")
    if stale:
        print(f"Sources or settings have changed: {len(stale)} checkpoints removed, their training starts afresh.")
    return len(stale)


def _read(state: Path) -> dict[str, str]:
    """The hashes of the last start; none if there is no file of them."""
    try:
        return dict(json.loads(state.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}
