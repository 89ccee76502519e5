"""Steering: interventions on one activation, many side by side in one batch; `common.interp.generation` writes under
them.

Row r of a batch has its own prompt, its own direction or latent, and its own strength. Two kinds, x -> x':

    add      x' = x + strength v                     (Turner et al. 2023; v is a unit vector)
    clamp    x' = x + (strength - f_i(x)) W_dec_i    (Templeton et al. 2024: the error x - decode(f) is kept)

The latents f are those of the x that arrives, before any edit.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.errors import UserError
from common.saes.sae import Sae

Kind = Literal["add", "clamp"]


@dataclass(frozen=True)
class Steering:
    """One intervention for each row of a batch; rows with `active` False are left alone. UserError for bad numbers."""

    kind: Kind
    strength: Float[Tensor, " row"]
    direction: Float[Tensor, "row d_model"] | None = None
    sae: Sae | None = None
    latent: Int[Tensor, " row"] | None = None
    active: Bool[Tensor, " row"] | None = None

    def __post_init__(self) -> None:
        if not bool(torch.isfinite(self.strength).all()):
            raise UserError("a steering strength is NaN or infinite; give a finite number")
        if self.kind == "add":
            if self.direction is None:
                raise UserError("the intervention 'add' needs a direction for each row")
            return
        if self.sae is None or self.latent is None:
            raise UserError("the intervention 'clamp' needs an SAE and a latent for each row")
        if self.sae.transcodes:
            raise UserError("'clamp' edits what the SAE reads, and a transcoder writes elsewhere; take an SAE")
        if len(self.latent) and not 0 <= int(self.latent.min()) <= int(self.latent.max()) < self.sae.d_sae:
            raise UserError(f"this SAE has the latents 0 to {self.sae.d_sae - 1}; {int(self.latent.max())} is not one")

    def __call__(self, x: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        """The activation after the intervention, computed in float32 and returned in the dtype that came in."""
        edited = self._edited(x.float()).to(x.dtype)
        return edited if self.active is None else torch.where(self.active[:, None, None], edited, x)

    def _edited(self, x: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        strength = self.strength[:, None, None]
        if self.kind == "add":
            assert self.direction is not None
            return x + strength * self.direction[:, None, :]
        assert self.sae is not None
        assert self.latent is not None
        latents = self.sae.encode(x)
        place = self.latent[:, None, None].expand(*x.shape[:2], 1)
        change = (strength - latents.gather(-1, place)) * self.sae.W_dec[self.latent][:, None, :]
        return x + change

    def to(self, device: str) -> "Steering":
        """A copy on another device."""

        def moved(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        return replace(
            self,
            strength=self.strength.to(device),
            direction=moved(self.direction),
            sae=None if self.sae is None else self.sae.to(device),
            latent=moved(self.latent),
            active=moved(self.active),
        )
