"""Step: writes `provenance.json`: commit, lock, settings, models, versions, device and seeds behind the results."""

import hashlib
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from pydantic import Field

from common.core.files import read_json, sha256, write_json
from common.core.products import by_onednn
from common.core.settings import ROOT, Scale, Strict
from common.core.step import Files, run_step
from common.data.models import fast_dtype

LOCKS = ":(exclude)replications/*/claims.lock"
SOURCES = ("common", "config", "replications")
REPORTED = ("torch", "transformer-lens", "transformers", "snakemake", "einops", "jaxtyping", "numpy", "scipy", "pandas")


def git_state() -> dict[str, str | bool | None]:
    """Commit (40 hex) and whether tracked files differ from it, or sources have joined that it lacks; None for both
    outside a git checkout. Locks of claims do not count: the launcher itself writes into them before it scores, and
    their state is recorded apart."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", LOCKS)
        new = _git("ls-files", "--others", "--exclude-standard", "--", *SOURCES)
        return {"commit": commit, "dirty": bool(changed or new)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def config_hash() -> str:
    """SHA-256 over the names and contents of every YAML file in config/ and replications/."""
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("config/**/*.yaml"), *ROOT.glob("replications/*/*.yaml")]):
        digest.update(f"{path.relative_to(ROOT)} {sha256(path)}\n".encode())
    return digest.hexdigest()


def lock_hash() -> str:
    """SHA-256 over the lock files in envs/."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(ROOT.glob("envs/lock*.txt")))).hexdigest()


def device_name(device: str) -> str:
    """The processor, or the GPU that torch uses."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return re.sub(r"\((R|TM)\)| Processor| CPU", "", name)


def instructions() -> str:
    """What the processor computes with, as torch names it, whether in bfloat16, too, and whether oneDNN multiplies
    float32 matrices of language models; results have the same bytes only where this is the same."""
    import torch

    found = [str(torch.backends.cpu.get_cpu_capability())]
    if fast_dtype() == torch.bfloat16:
        found.append("bfloat16 in tiles" if torch.cpu._is_amx_tile_supported() else "bfloat16")
    return ", ".join([*found, *(["oneDNN"] if by_onednn() else [])])


def dtypes(language_models: bool) -> str:
    """What was computed in. Language models harvest, are fine-tuned and write in bfloat16 where that is fast."""
    if not language_models:
        return "float32, float64 for long sums"
    name = str(fast_dtype()).removeprefix("torch.")
    return f"float32, float64 for long sums; {name} for harvesting, fine-tuning and writing"


class ProvenanceFiles(Files):
    provenance: Path
    """`provenance.json`, in the folder of the run or of one replication"""


class Recorded(Strict):
    """The run that is recorded. Of one replication also its name and `state` (`common.publish.reference`), which can
    change while nothing else does."""

    scale: Scale
    seeds: list[int]
    own_seeds: dict[str, list[int]] = Field(default_factory=dict)
    models: list[str]
    device: str
    name: str = ""
    state: str = ""


def provenance(files: ProvenanceFiles, settings: Recorded) -> None:
    """Writes `provenance.json`. Models are those of the run; of one replication, those that it has results of."""
    out = files.provenance
    names = [name for name in settings.models if not settings.name or (out.parent / name).is_dir()]
    manifests = [ROOT / "resources" / "models" / name / "manifest.json" for name in names]
    write_json(
        out,
        {
            **git_state(),
            **({"state": settings.state} if settings.name else {}),
            "scale": settings.scale,
            "seeds": settings.seeds,
            "own_seeds": settings.own_seeds,
            "lock_sha256": lock_hash(),
            "config_sha256": config_hash(),
            "models": {path.parent.name: read_json(path) for path in manifests},
            "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in REPORTED}},
            "device": device_name(settings.device),
            "instructions": instructions(),
            "platform": platform.platform(),
            "dtype": dtypes(bool(names)),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


if __name__ == "__main__":
    run_step(provenance)
