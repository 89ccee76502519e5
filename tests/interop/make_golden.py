"""Writes small SAELens folders and what SAELens computes with them. Runs in an environment that has `sae-lens`.

    python tests/interop/make_golden.py tests/common/golden

Made with sae-lens 6.54.12. `expected.safetensors` holds inputs, latents and reconstructions.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from sae_lens.registry import get_sae_class
from safetensors.torch import save_file

D_IN, D_SAE = 6, 10
OUT = {"d_out": D_IN, "apply_b_dec_to_input": False}
ARCHITECTURES = {
    "standard": {},
    "gated": {},
    "topk": {"k": 3, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {},
    "transcoder": OUT,
    "skip_transcoder": OUT,
    "jumprelu_transcoder": OUT,
    "jumprelu_skip_transcoder": OUT,
}


def drawn(name: str, generator: torch.Generator) -> Any:
    """An SAE of that architecture with random weights."""
    sae_class, config_class = get_sae_class(name)
    sae = sae_class(config_class(d_in=D_IN, d_sae=D_SAE, device="cpu", **ARCHITECTURES[name]))
    with torch.no_grad():
        for key, value in sae.named_parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * (0.3 if key.startswith("r_mag") else 0.7))
            if key == "threshold":
                value.abs_()
    sae.cfg.metadata.model_name, sae.cfg.metadata.hook_name = "golden", "blocks.1.hook_resid_pre"
    return sae


def main(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, D_IN, generator=generator)
    for name in ARCHITECTURES:
        sae = drawn(name, generator)
        sae.save_model(folder / name)
        with torch.no_grad():
            latents = sae.encode(x)
            found = sae.forward(x) if "skip" in name else sae.decode(latents)
        save_file({"x": x, "latents": latents, "out": found}, folder / name / "expected.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
