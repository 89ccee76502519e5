"""Python runs this at its start where this folder is on the path: every process of a run then has the pretended GPU."""

import common.core.settings as settings
from tests.pretended_gpu.device import install

load_scale = settings.load_scale
settings.load_scale = lambda *given: load_scale(*given).model_copy(update={"device": "cuda"})

import common.engine.config as config  # noqa: E402, it takes the changed function along

load_run = config.load_run


def apart(scale, **chosen):
    """Results of such a run have a folder of their own."""
    run = load_run(scale, **chosen)
    return run.model_copy(update={"results": f"{run.results}-pretended-gpu"})


config.load_run = apart
install()
