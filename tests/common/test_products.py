"""Float32 products of language models: in oneDNN where that is faster, and nowhere rounded."""

import pytest
import torch

from common.core import products

AMD, INTEL = "vendor_id\t: AuthenticAMD\n", "vendor_id\t: GenuineIntel\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Sets what the processor is taken for and whether oneDNN rounds there; returns what is decided."""
    before = torch.backends.mkldnn.matmul.fp32_precision

    def on(vendor=AMD, instructions="AVX512", rounds=False, onednn=None, gpu=False):
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(vendor)
        monkeypatch.setattr(products, "CPUINFO", cpuinfo)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
        monkeypatch.setattr(products, "_rounds", lambda: rounds)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.delenv("ONEDNN", raising=False)
        if onednn is not None:
            monkeypatch.setenv("ONEDNN", onednn)
        products.by_onednn.cache_clear()
        return products.by_onednn()

    yield on
    products.by_onednn.cache_clear()
    torch.backends.mkldnn.matmul.fp32_precision = before


def test_onednn_multiplies_where_mkl_uses_half_the_width_and_nothing_is_rounded(machine):
    assert machine()
    assert not machine(vendor=INTEL)
    assert not machine(instructions="AVX2")
    assert not machine(rounds=True)
    assert not machine(onednn="0")
    assert not machine(gpu=True)


def test_products_go_there_only_where_it_pays(machine):
    machine(vendor=INTEL)
    products.use_onednn()
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"
    machine()
    products.use_onednn()
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"


def test_a_rounded_product_is_noticed(monkeypatch):
    products._rounds()
    assert torch.backends.mkldnn.matmul.fp32_precision == "none", "the probe leaves no trace"
    plain = torch.Tensor.__matmul__

    def rounded(a, b):
        return plain(a.bfloat16(), b.bfloat16()).float() if a.dtype == torch.float32 else plain(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert products._rounds()


def test_products_are_as_exact_as_before(machine):
    """On machines where oneDNN rounds, `by_onednn` says no by itself."""
    products.by_onednn.cache_clear()
    products.use_onednn()
    a, b = (torch.randn(300, 300, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert torch.dist((a @ b).double(), a.double() @ b.double()) < products.ROUNDING * (a @ b).norm()
