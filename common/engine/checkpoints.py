"""Checkpoints of training that was interrupted, and when they have to go.

A step takes up the checkpoint that it left behind. It knows its own by names, settings and seeds, but not by the
sources and the data that it was made with. So the launcher keeps one hash over everything that a checkpoint can depend
on (sources, rules, settings, lock). When that hash is not that of the last start, every checkpoint goes.
"""

import hashlib
import re
from pathlib import Path

from common.core.files import TEMPORARY_SUFFIX, write_text
from common.engine.failure import in_one_sentence

HERE = Path()  # the launcher stands in the project's folder
FOLDER = Path(
    "resources", "checkpoints"
)  # of `common.toys.training`; that of `common.saes.trainer` lie beside the outputs
STATE = ".state"
SOURCES = ("common", "config", "replications")
ENDINGS = (".py", ".yaml", ".smk")
BESIDE = re.compile(rf"[^.].*\.(json|safetensors)(\.[a-z_0-9]+)+(?<!\.json)|[^.]+{re.escape(TEMPORARY_SUFFIX)}")


def program(root: Path = HERE) -> str:
    """SHA-256 over name and content of all sources, rules and settings, and of the lock."""
    below = (path for name in SOURCES for path in (root / name).rglob("*") if path.suffix in ENDINGS)
    digest = hashlib.sha256()
    for path in sorted([*below, *root.glob("Snakefile"), *root.glob("envs/lock*.txt")]):
        digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def found(root: Path = HERE) -> list[Path]:
    """Every checkpoint of every scale. What is being written (hidden until it is complete) is none."""
    own = [path for path in (root / FOLDER).glob("*") if not path.name.startswith(".")]
    return own + [path for path in (root / "results").rglob("*") if BESIDE.fullmatch(path.name) and path.is_file()]


def remove_stale(root: Path = HERE) -> int:
    """Removes all checkpoints if sources, settings or lock are not those of the last call; says so. Returns how many.

    Raises:
        UserError: the disk is full or read-only.
    """
    state, now = root / FOLDER / STATE, program(root)
    with in_one_sentence():
        if state.is_file() and state.read_text(encoding="utf-8").strip() == now:
            return 0
        stale = found(root)
        for path in stale:
            path.unlink(missing_ok=True)
        write_text(state, now + "\n")
    if stale:
        print(f"Sources or settings have changed: {len(stale)} checkpoints removed, their training starts afresh.")
    return len(stale)
