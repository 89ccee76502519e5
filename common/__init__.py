"""Typed utilities shared by at least two replications. Reading order and axis glossary: common/README.md."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read by huggingface_hub at import; common.materialise alone may lift it
