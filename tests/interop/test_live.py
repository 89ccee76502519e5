"""Ours saved, SAELens loads; SAELens saved, ours loads: same latents and reconstructions, for each architecture.

`make test-interop` runs this where `sae-lens` is installed (`envs/interop.lock`). Trained ones come from a few steps of
either library's own training. So every export path is walked: the threshold of BatchTopK and Matryoshka, folded input
scales, decoder norms. SAELens has no cross-layer transcoder and no TopK transcoder to exchange.
"""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

sae_lens = pytest.importorskip("sae_lens", reason="needs the environment of `make test-interop`")

from sae_lens.registry import get_sae_class, get_sae_training_class  # noqa: E402
from sae_lens.saes.sae import TrainStepInput  # noqa: E402

from common.saes.architectures.base import Batch  # noqa: E402
from common.saes.recipe import Recipe, Training  # noqa: E402
from common.saes.saelens import load_saelens, save_saelens  # noqa: E402
from common.saes.trainer import train  # noqa: E402
from tests.interop.make_golden import ARCHITECTURES, D_IN, D_SAE, drawn  # noqa: E402

torch.set_num_threads(1)  # tensors are tiny

HOOK, HOOK_OUT = "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"
SETTINGS = Training(steps=25, batch=128, learning_rate=0.01, warmup=2, dead_after=512)
OURS = (
    "relu_bricken", "relu_april", "gated", "topk", "batch_topk", "jumprelu", "matryoshka", "transcoder",
    "skip_transcoder",
)  # fmt: skip


def inputs(n=200, seed=9):
    return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(seed)) + 0.5


def same(ours, theirs, x):
    """Both give the same latents and outputs, and both fire."""
    with torch.no_grad():
        latents = theirs.encode(x)
        out = theirs.forward(x)
    assert (latents != 0).float().mean() > 0.01
    assert torch.allclose(ours.encode(x), latents, atol=1e-5)
    assert torch.allclose(ours.reconstruct(x), out, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("name", OURS)
def test_ours_saved_and_loaded_by_saelens(tmp_path, name, scale):
    def batches(step, source):
        x = inputs(SETTINGS.batch, step)[None] * scale
        return Batch(x, x.flip(-1) if "transcoder" in name else x)

    recipe = Recipe(architecture=name, d_sae=D_SAE, sparsity=3.0, seed=1)
    [one] = train([recipe], batches, SETTINGS, tmp_path / "checkpoint")
    about = replace(one.sae.about, model="m", hook=HOOK, hook_out=HOOK_OUT if "transcoder" in name else "")
    sae = replace(one.sae.folded(scale), about=about)
    save_saelens(sae, tmp_path / "sae", density=torch.full((D_SAE,), 0.1))
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "sae")
    same(sae, theirs, inputs())
    same(load_saelens(tmp_path / "sae"), theirs, inputs())
    assert theirs.cfg.metadata.model_name == "m"
    assert theirs.cfg.metadata.hook_name == HOOK


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_saelens_saved_and_loaded_by_ours(tmp_path, name):
    theirs = drawn(name, torch.Generator().manual_seed(4))
    theirs.save_model(tmp_path)
    same(load_saelens(tmp_path), theirs, inputs())


@pytest.mark.parametrize("name", ["standard", "gated", "topk", "batchtopk", "jumprelu", "matryoshka_batchtopk"])
def test_trained_and_saved_by_saelens(tmp_path, name):
    sae_class, config_class = get_sae_training_class(name)
    more = {"k": 3} if "topk" in name else {}
    more |= {"matryoshka_widths": [4, D_SAE]} if "matryoshka" in name else {}
    torch.manual_seed(2)
    sae = sae_class(config_class(d_in=D_IN, d_sae=D_SAE, device="cpu", **more))
    optimiser = torch.optim.Adam(sae.parameters(), lr=0.01)
    for step in range(SETTINGS.steps):
        x, never = inputs(128, step), torch.zeros(D_SAE, dtype=torch.bool)
        output = sae.training_forward_pass(
            TrainStepInput(x, dict.fromkeys(sae.get_coefficients(), 0.01), never, step, True)
        )
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
    sae.cfg.metadata.model_name, sae.cfg.metadata.hook_name = "m", HOOK
    sae.save_inference_model(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    same(load_saelens(tmp_path), theirs, inputs())
    load_saelens(tmp_path).check_belongs("m", HOOK)


def test_golden_folders_are_what_this_version_writes(tmp_path):
    """The committed folders, which `make test` reads without SAELens, still give this version's numbers."""
    from tests.common.test_saes_files import GOLDEN

    for folder in sorted(GOLDEN.iterdir()):
        expected = load_file(folder / "expected.safetensors")
        same(load_saelens(folder), sae_lens.SAE.load_from_disk(folder), expected["x"])
    assert {folder.name for folder in GOLDEN.iterdir()} == set(ARCHITECTURES)
    assert get_sae_class("jumprelu_skip_transcoder")
