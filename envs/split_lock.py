"""Splits one resolved requirements file into the three hashed lock files (see envs/README.md).

pip in hash mode prefers candidates whose hash is stated in an index link, so one entry that allows both the CPU build
and the CUDA build of torch always installs CUDA. Hence: `lock-torch-cpu.txt`, `lock-torch.txt` and `lock.txt`.
"""

import re
import sys
from pathlib import Path

BESIDE_TORCH = re.compile(r"(torch|triton|nvidia-.+|cuda-.+)==")
# Source only and imported nowhere: installing it would need an unhashed build environment.
DROPPED = re.compile(r"transformers-stream-generator==")


def entries(text: str) -> list[str]:
    """One string per requirement: its `name==version` line and its hash lines, without comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [entry for entry in re.split(r"\n(?=[a-z0-9])", "\n".join(lines)) if entry.strip()]


def main(resolved: str, data: str, cpu_hashes: str, folder: str) -> None:
    found = entries(Path(resolved).read_text())
    torch = next(entry for entry in found if entry.startswith("torch=="))
    version = torch.split()[0].removeprefix("torch==")
    hashes = [line.split()[0] for line in Path(cpu_hashes).read_text().splitlines() if not line.startswith("#")]
    cpu = " \\\n".join([f"torch=={version}+cpu", *(f"    --hash=sha256:{digest}" for digest in hashes)])
    rest = [entry for entry in found if not BESIDE_TORCH.match(entry) and not DROPPED.match(entry)]
    files = {
        "lock-torch-cpu.txt": [cpu],
        "lock-torch.txt": [entry for entry in found if BESIDE_TORCH.match(entry)],
        "lock.txt": sorted(rest + entries(Path(data).read_text())),
    }
    for name, content in files.items():
        Path(folder, name).write_text("\n".join(entry.strip() for entry in content) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
