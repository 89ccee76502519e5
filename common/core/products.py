"""Who multiplies float32 matrices: oneDNN, on AMD processors with AVX-512, for which MKL has kernels of half the width.

PyTorch gives float32 products to MKL, and to oneDNN only where they may be rounded to bfloat16. oneDNN rounds them only
on processors with tiles for bfloat16 (AMX). Elsewhere it computes in float32, there more than twice as fast as MKL.
A probe makes sure that nothing is rounded. Only steps about language models ask: their products and those of their SAEs
are large. Toy models would train six times slower, with fused attention over few positions.

`ONEDNN=0` in the environment leaves all products to MKL.
"""

import os
from functools import cache
from pathlib import Path

ROUNDING = 1e-5  # relative error of a product; about 4e-7 in float32, 3e-3 in bfloat16
CPUINFO = Path("/proc/cpuinfo")


@cache
def by_onednn() -> bool:
    """Whether this machine multiplies float32 matrices of language models in oneDNN. None with a GPU does."""
    import torch

    gpu = torch.cuda.is_available()  # has a setting of the same kind, of an older sort that does not bear the new one
    amd = CPUINFO.exists() and "AuthenticAMD" in CPUINFO.read_text(errors="replace")
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return os.environ.get("ONEDNN") != "0" and amd and wide and not gpu and not _rounds()


def use_onednn(*, training: bool = False) -> None:
    """Gives the float32 products of this process to oneDNN, where `by_onednn` says so.

    oneDNN keeps what it has compiled for the last 1,024 shapes, with working memory for each. In the training of
    dictionaries shapes change from step to step: with 64 kept it takes 2 GB less and 5 % more time.
    """
    import torch

    if training:  # before the probe, since it is read at the first product
        os.environ |= dict.fromkeys(("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), "64")
    if by_onednn():
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]


def _rounds() -> bool:
    """Whether oneDNN rounds float32 products here."""
    import torch

    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 64, generator=generator) for _ in range(2))
    before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
    try:
        exact = a.double() @ b.double()
        return bool(((a @ b).double() - exact).norm() > ROUNDING * exact.norm())
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before  # type: ignore[attr-defined]
