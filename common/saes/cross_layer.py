"""One trained cross-layer transcoder (`architectures/cross_layer`), as an analysis uses it: encode, decode, and a
safetensors file.

    f^l = TopK(x^l W_enc^l + b_enc^l),   y^^l = sum over l' <= l of f^l' W_dec^(l'->l) + b_dec^l

Inputs and targets have layers on the feature axis, x [token (layer d_in)] and y [token (layer d_out)]; latents have an
axis for their layer. No exchange format covers these weights, so the file holds them as they are trained, with the
layers beside them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.core.errors import UserError
from common.core.files import atomic
from common.saes.architectures.base import Weights
from common.saes.architectures.cross_layer import causal, split
from common.saes.recipe import Recipe

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


@dataclass(frozen=True)
class CrossLayerTranscoder:
    """Rows of `W_dec` are latents, layer by layer; entries before a latent's own layer are 0."""

    W_enc: Float[Tensor, "layer d_sae d_in"]
    b_enc: Float[Tensor, "layer d_sae"]
    W_dec: Float[Tensor, "latent wide_out"]
    b_dec: Float[Tensor, " wide_out"]
    k: int

    @classmethod
    def of(cls, weights: Weights, recipe: Recipe, scale: float = 1.0, scale_out: float = 1.0) -> "CrossLayerTranscoder":
        """What the trainer returned, for raw data if it was trained on `scale` times inputs and `scale_out` times
        targets. UserError if another architecture was trained."""
        if recipe.architecture != "cross_layer":
            raise UserError(f"{recipe.architecture} is no cross-layer transcoder; use the Sae that was trained")
        W_dec = weights["W_dec"]
        W_dec = W_dec * causal(recipe.layers, recipe.d_sae, W_dec.shape[1], W_dec.device) / scale_out
        b_dec = weights["b_dec"] / scale_out
        return cls(weights["W_enc"] * scale, weights["b_enc"], W_dec, b_dec, int(recipe.sparsity))

    @property
    def layers(self) -> int:
        return self.W_enc.shape[0]

    def encode(self, x: Float[Tensor, "*n wide_in"]) -> Float[Tensor, "*n layer d_sae"]:
        """Latents of all layers. UserError for another width, NaN or infinity."""
        wide = self.layers * self.W_enc.shape[2]
        if x.shape[-1] != wide:
            raise UserError(
                f"this cross-layer transcoder reads {wide} dimensions; these activations have {x.shape[-1]}"
            )
        if not bool(torch.isfinite(x).all()):
            raise UserError("the activations hold NaN or infinity; look for the step of the model that made them")
        z = einsum(split(x, self.layers), self.W_enc, "... layer d, layer d_sae d -> ... layer d_sae") + self.b_enc
        values, latents = z.topk(self.k, dim=-1)
        return torch.zeros_like(z).scatter(-1, latents, values.relu())

    def decode(self, latents: Float[Tensor, "*n layer d_sae"]) -> Float[Tensor, "*n wide_out"]:
        """Predicted outputs of all layers."""
        return rearrange(latents, "... layer d_sae -> ... (layer d_sae)") @ self.W_dec + self.b_dec

    def save(self, path: Path) -> None:
        """Writes the file."""
        with atomic(path) as temporary:
            save_file({name: getattr(self, name).contiguous() for name in NAMES}, temporary, {"k": str(self.k)})


def load_cross_layer(path: Path) -> CrossLayerTranscoder:
    """Reads what `save` wrote. UserError if the file is missing, damaged or another one."""
    try:
        with safe_open(path, framework="pt") as handle:
            tensor: Callable[[str], Tensor] = handle.get_tensor
            found = [tensor(name) for name in NAMES]
            k = (handle.metadata() or {}).get("k", "")
    except (SafetensorError, OSError):
        found, k = [], ""
    if not found or not k.isdecimal():
        raise UserError(f"{path} holds no cross-layer transcoder; train it again")
    W_enc, b_enc, W_dec, b_dec = found
    return CrossLayerTranscoder(W_enc, b_enc, W_dec, b_dec, int(k))
