"""Typed utilities for replications; most serve several. Reading order and axis glossary: common/README.md."""

import gc
import os

gc.set_threshold(200_000, 20, 100)  # imports make millions of objects that stay; looking through them cost a fifth
os.environ.setdefault(
    "HF_HUB_OFFLINE", "1"
)  # read by huggingface_hub at import; common.data.materialise alone may lift it
