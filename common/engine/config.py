"""One run of the workflow, as the command line asks for it: the settings of a scale, checked against the registries."""

from typing import cast

from common.core.errors import UserError
from common.core.settings import Scale, Strict, load_scale
from common.data.models import registry


class Run(Strict):
    """One run of the workflow: the scale's settings with what the command line chose. `results` names its folder."""

    scale: Scale
    results: str
    device: str
    seeds: list[int]
    models: list[str]
    hub: bool


def load_run(scale: str, *, calibrate: bool = False, models: str = "", hub: bool = False) -> Run:
    """What `make SCALE=... MODELS=a,b HUB=1` asks for, checked. UserError for an unknown scale, model or missing GPU.

    With `calibrate` the calibration seeds are used and results go to a folder of their own.
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
    if settings.device == "cuda":
        _need_cuda(scale)
    return Run(
        scale=cast(Scale, scale),
        results=f"results/{scale}-calibration" if calibrate else f"results/{scale}",
        device=settings.device,
        seeds=settings.calibration_seeds if calibrate else settings.seeds,
        models=chosen,
        hub=hub,
    )


def _need_cuda(scale: str) -> None:
    import torch

    if not torch.cuda.is_available():
        build = "this torch build has no CUDA support" if torch.version.cuda is None else "torch finds no CUDA device"
        raise UserError(
            f"SCALE={scale} needs an NVIDIA GPU, but {build}; use SCALE=laptop, or run `make clean-env` and "
            f"`make SCALE={scale} TORCH=registry` on a machine with a GPU"
        )
