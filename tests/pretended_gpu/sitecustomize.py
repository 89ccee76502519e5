"""Python runs this at its start where this folder is on the path. Every process of a run then computes on a GPU: the
real one, or else the pretended one. Results of such a run have a folder of their own."""

import os
import shutil

import common.core.settings as settings
from tests.pretended_gpu.device import install

# asking torch would keep the steps that this process forks off the GPU
REAL = shutil.which("nvidia-smi") is not None and "PRETEND" not in os.environ
load_scale = settings.load_scale
settings.load_scale = lambda *given: load_scale(*given).model_copy(update={"device": "cuda"})

import common.engine.config as config  # noqa: E402, it takes the changed function along

load_run = config.load_run


def apart(scale, **chosen):
    run = load_run(scale, **chosen)
    return run.model_copy(update={"results": f"{run.results}-{'on' if REAL else 'pretended'}-gpu"})


config.load_run = apart
if not REAL:
    install()
