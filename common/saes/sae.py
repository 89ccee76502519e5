"""One trained sparse autoencoder or transcoder, as every analysis uses it: encode and decode.

    f = activation((x - b_dec) W_enc + b_enc),   x^ = f W_dec + b_dec  (+ x W_skip^T for skip transcoders)

Weights have SAELens' orientation (W_enc [d_in d_sae], W_dec [d_sae d_out]) and act on raw activations: the scalar that
normalised the training data is folded in. BatchTopK and Matryoshka SAEs become JumpReLU SAEs with one threshold
(Bussmann et al. 2024), so that a token's latents never depend on its batch.

An autoencoder reconstructs what it reads. A transcoder reads x at one place and predicts what is written at another.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from common.core.errors import UserError

Activation = Literal["relu", "topk", "jumprelu", "gated", "matching_pursuit"]


@dataclass(frozen=True)
class About:
    """Where an SAE belongs and how it was made."""

    architecture: str
    model: str = ""
    hook: str = ""
    hook_out: str = ""
    seed: int = 0
    sparsity: float = 0.0


@dataclass(frozen=True)
class Sae:
    """Weights and activation. `r_mag` and `b_mag` belong to gated SAEs: there b_enc is the gate's bias."""

    about: About
    activation: Activation
    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, " d_sae"] | None = None
    k: int | None = None
    r_mag: Float[Tensor, " d_sae"] | None = None
    b_mag: Float[Tensor, " d_sae"] | None = None
    W_skip: Float[Tensor, "d_out d_in"] | None = None
    centred: bool = True

    def __post_init__(self) -> None:
        if self.W_enc.ndim != 2 or self.W_dec.ndim != 2:
            raise UserError(f"encoder {list(self.W_enc.shape)} and decoder {list(self.W_dec.shape)} are no matrices")
        d_in, d_sae = self.W_enc.shape
        if self.activation in ("topk", "matching_pursuit") and not 0 < (self.k or 0) <= d_sae:
            raise UserError(f"a TopK SAE needs 1 <= k <= {d_sae} latents, not k = {self.k}")
        needed = {"jumprelu": ["threshold"], "gated": ["r_mag", "b_mag"]}.get(self.activation, [])
        if absent := [name for name in needed if getattr(self, name) is None]:
            raise UserError(f"a {self.activation} SAE needs the tensor '{absent[0]}', which is missing")
        if self.W_dec.shape[0] != d_sae or (self.centred and self.W_dec.shape[1] != d_in):
            raise UserError(f"encoder {list(self.W_enc.shape)} and decoder {list(self.W_dec.shape)} do not fit")
        d_out = self.W_dec.shape[1]
        shapes = dict.fromkeys(("b_enc", "threshold", "r_mag", "b_mag"), (d_sae,))
        for name, shape in {**shapes, "b_dec": (d_out,), "W_skip": (d_out, d_in)}.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise UserError(
                    f"tensor '{name}' has the shape {list(value.shape)}, but an SAE with {d_in} dimensions and {d_sae} "
                    f"latents needs {list(shape)}; its weights were mixed up or damaged: fetch or train it again"
                )

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        return self.W_enc.shape[1]

    @property
    def transcodes(self) -> bool:
        """Whether it writes at another place than it reads."""
        about = self.about
        other = bool(about.hook_out) or self.W_skip is not None or "transcoder" in about.architecture
        return other or self.W_dec.shape[1] != self.d_in

    def pre_activations(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """z = (x - b_dec) W_enc + b_enc, without - b_dec for transcoders. UserError for another width or NaN."""
        if x.shape[-1] != self.d_in:
            raise UserError(
                f"this SAE reads {self.d_in}-dimensional activations at {self.about.hook or 'its hook'}; these have "
                f"{x.shape[-1]} dimensions: they come from another model or another place"
            )
        if not bool(torch.isfinite(x).all()):
            raise UserError("the activations hold NaN or infinity; look for the step of the model that made them")
        return (x - self.b_dec if self.centred else x) @ self.W_enc + self.b_enc

    def encode(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """Latents f."""
        z = self.pre_activations(x)
        if self.activation == "matching_pursuit":
            return self._pursue(x)
        if self.activation == "relu":
            return z.relu()
        if self.activation == "topk":
            values, latents = z.topk(self.k or 1, dim=-1)
            return torch.zeros_like(z).scatter(-1, latents, values.relu())
        if self.activation == "jumprelu":
            assert self.threshold is not None
            return torch.where(z > self.threshold, z, 0.0).relu()
        assert self.r_mag is not None
        assert self.b_mag is not None
        magnitude = ((z - self.b_enc) * self.r_mag.exp() + self.b_mag).relu()
        return torch.where(z > 0, magnitude, 0.0)

    def _pursue(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_sae"]:
        """k rounds of matching pursuit with the decoder rows, which have norm 1."""
        left, latents = x - self.b_dec, torch.zeros(*x.shape[:-1], self.d_sae, device=x.device)
        for _ in range(self.k or 1):
            value, best = (left @ self.W_dec.mT).relu().max(-1, keepdim=True)
            latents = latents.scatter_add(-1, best, value)
            left = left - value * self.W_dec[best[..., 0]]
        return latents

    def decode(
        self, latents: Float[Tensor, "*n d_sae"], x: Float[Tensor, "*n d_in"] | None = None
    ) -> Float[Tensor, "*n d_out"]:
        """Reconstruction x^ (or the predicted output). A skip transcoder also needs its input `x`."""
        out = latents @ self.W_dec + self.b_dec
        if self.W_skip is None:
            return out
        if x is None:
            raise ValueError("a skip transcoder decodes latents together with its input")
        return out + x @ self.W_skip.mT

    def reconstruct(self, x: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        """decode(encode(x))."""
        return self.decode(self.encode(x), x)

    def folded(self, scale: float, scale_out: float | None = None) -> "Sae":
        """The same SAE for raw activations, if this one was trained on `scale` times them. Latents do not change.

        UserError for matching pursuit, whose decoder rows must keep norm 1.
        """
        if self.activation == "matching_pursuit" and scale != 1:
            raise UserError(
                "matching pursuit needs decoder rows of norm 1; train it on activations that are not scaled"
            )
        out = scale if scale_out is None else scale_out
        return replace(
            self,
            W_enc=self.W_enc * scale,
            W_dec=self.W_dec / out,
            b_dec=self.b_dec / out,
            W_skip=None if self.W_skip is None else self.W_skip * scale / out,
        )

    def unit_decoder(self) -> "Sae":
        """The same SAE with unit decoder rows: latents carry the norm. UserError if a decoder row is zero."""
        norms = self.W_dec.norm(dim=1)
        if bool((norms == 0).any()):
            raise UserError("a decoder row is zero, so it cannot be scaled to norm 1; drop that latent first")
        return replace(
            self,
            W_enc=self.W_enc * norms,
            b_enc=self.b_enc * norms,
            W_dec=self.W_dec / norms[:, None],
            threshold=None if self.threshold is None else self.threshold * norms,
            b_mag=None if self.b_mag is None else self.b_mag * norms,
        )

    def check_belongs(self, model: str, hook: str) -> None:
        """UserError unless this SAE was trained on that model and hook."""
        if (self.about.model, self.about.hook) != (model, hook):
            raise UserError(
                f"this SAE belongs to {self.about.hook} of {self.about.model}, not to {hook} of {model}; "
                "train or load one for that place"
            )

    def to(self, device: str) -> "Sae":
        """A copy on another device."""
        moved: dict[str, Any] = {
            key: one.to(device) if isinstance(one, Tensor) else one for key, one in vars(self).items()
        }
        return Sae(**moved)
