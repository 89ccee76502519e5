"""One run of the workflow, as the command line asks for it: the settings of a scale, checked against the registries."""

from typing import cast

from pydantic import Field

from common.core.errors import UserError
from common.core.lock import read_lock
from common.core.settings import SCALES, Kind, Scale, ScaleSettings, Strict, load_scale
from common.data.corpora import CALIBRATION_SEEDS
from common.data.models import registry

PLACE_BYTES = 10 * 2**30
OUTSIDE = f"below {CALIBRATION_SEEDS.start} or from {CALIBRATION_SEEDS.stop} on"


class Run(Strict):
    """One run of the workflow: the scale's settings with what the command line chose. `results` names its folder."""

    scale: Scale
    results: str
    device: str
    seeds: list[int]
    kind: Kind
    models: list[str]
    hub: bool
    own_seeds: dict[str, list[int]] = Field(default_factory=dict)

    def of(self, replication: str) -> "Run":
        """The same with the seeds of one replication."""
        return self.model_copy(update={"seeds": self.own_seeds.get(replication, self.seeds)})


def load_run(scale: str, *, calibrate: bool = False, models: str = "", hub: bool = False, seeds: str = "") -> Run:
    """What `make SCALE=... MODELS=a,b HUB=1` asks for, checked. UserError for an unknown scale or model.

    With `calibrate` the calibration seeds are used, with `seeds` fresh ones; results go to a folder of their own.
    """
    settings = load_scale(scale)
    known = registry()
    chosen = models.split(",") if models else [*settings.models, *(settings.hub_models if hub else [])]
    for name in chosen:
        if name not in known:
            raise UserError(f"unknown model '{name}': config/models.yaml has {', '.join(known)}")
        if known[name].source == "hub" and not hub:
            raise UserError(
                f"model '{name}' comes from a model hub, which is switched off; "
                "run with HUB=1 on a machine that reaches a hub, or leave it out of MODELS"
            )
    for seeds_of in () if calibrate or seeds else (settings.seeds, *settings.own_seeds.values()):
        if kept := [seed for seed in seeds_of if seed in CALIBRATION_SEEDS]:
            raise UserError(
                f"config/scales/{scale}.yaml: scoring seed {kept[0]} would be measured on calibration documents; "
                f"choose seeds {OUTSIDE}"
            )
    if other := [seed for seed in settings.calibration_seeds if seed not in CALIBRATION_SEEDS]:
        raise UserError(
            f"config/scales/{scale}.yaml: calibration seed {other[0]} would be measured on what scores are made on; "
            f"choose seeds from {CALIBRATION_SEEDS.start} to {CALIBRATION_SEEDS.stop - 1}"
        )
    kind: Kind = "calibration" if calibrate else "fresh" if seeds else "scored"
    used = {
        "scored": settings.seeds,
        "calibration": settings.calibration_seeds,
        "fresh": fresh_seeds(seeds) if seeds else [],
    }[kind]
    own_seeds = settings.own_seeds if kind == "scored" else {}
    if calibrate:
        own_seeds = {name: load_scale(scale, name).calibration_seeds for name in settings.own_seeds}
    folder = {"scored": "", "calibration": "-calibration", "fresh": "".join(f"-{seed}" for seed in ["fresh", *used])}
    return Run(
        scale=cast(Scale, scale),
        results=f"results/{scale}{folder[kind]}",
        device=settings.device,
        seeds=used,
        own_seeds=own_seeds,
        kind=kind,
        models=chosen,
        hub=hub,
    )


def fresh_seeds(given: str) -> list[int]:
    """The seeds of `make fresh SEEDS=5,6,7`. UserError for ones that are no seeds or draw calibration documents."""
    words = [word for part in given.split(",") if (word := part.strip())]
    if wrong := [word for word in words if not word.isdecimal()]:
        raise UserError(f"'{wrong[0]}' is no seed; give whole numbers, as in SEEDS=5,6,7")
    seeds = [int(word) for word in words]
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise UserError(f"SEEDS={given} are not two or more different seeds; give them as in SEEDS=5,6,7")
    if kept := [seed for seed in seeds if seed in CALIBRATION_SEEDS]:
        raise UserError(f"seed {kept[0]} would draw calibration documents; choose fresh seeds {OUTSIDE}")
    return seeds


def check_fresh(seeds: list[int], names: list[str]) -> None:
    """UserError for a seed that one of these replications has used.

    Used are their scoring and calibration seeds at any scale, and those in their locks.
    """
    for name in names:
        known: dict[int, str] = {}
        for scale in SCALES:
            settings: ScaleSettings = load_scale(scale, name)
            known |= dict.fromkeys(settings.calibration_seeds, f"a calibration seed of {name} at scale {scale}")
            known |= dict.fromkeys(settings.seeds, f"a scoring seed of {name} at scale {scale}")
        for entry in (entry for entries in read_lock(name).claims.values() for entry in entries.values()):
            sealed = [*entry.seal.calibration_seeds, *entry.seal.scoring_seeds] if entry.seal else []
            known |= dict.fromkeys({*entry.scored_seeds, *sealed} - set(known), f"in the claims.lock of {name}")
        if used := [seed for seed in seeds if seed in known]:
            raise UserError(f"seed {used[0]} is not fresh: it is {known[used[0]]}; choose one that was never used")


def gpu_places(device: str) -> int:
    """How many steps may share the GPU: small models leave most of it idle, and each place has `PLACE_BYTES`."""
    if device != "cuda":
        return 1
    import torch

    return max(1, int(torch.cuda.get_device_properties(0).total_memory) // PLACE_BYTES)


def need_gpu(run: Run) -> None:
    """UserError if the run computes on a GPU and there is none. Results can be read and sealed without it."""
    if run.device != "cuda":
        return
    import torch

    if not torch.cuda.is_available():
        build = "this torch build has no CUDA support" if torch.version.cuda is None else "torch finds no CUDA device"
        raise UserError(
            f"SCALE={run.scale} needs an NVIDIA GPU, but {build}; use SCALE=laptop, or run `make clean-env` and "
            f"`make SCALE={run.scale} TORCH=registry` on a machine with a GPU"
        )
