"""Typed utilities shared by at least two replications. Reading order and axis glossary: common/README.md."""

import gc
import os

gc.set_threshold(200_000, 20, 100)  # imports make millions of objects that stay; looking through them cost a fifth
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read by huggingface_hub at import; common.materialise alone may lift it
