"""Neuron resampling (Bricken et al. 2023, appendix): silent latents restart at inputs that are badly reconstructed.

At a resampling step, every latent that has been silent for a window gets: as decoder row, one input drawn with
probability proportional to its squared loss, scaled to norm 1; as encoder row the same direction with 0.2 times the
mean norm of living encoder rows; bias 0; and zero Adam moments. (Copies in common use draw proportionally to the loss,
not its square, and from the current batch only.) Deviation: inputs are seen relative to b_dec, as the encoder sees
them, and losses are those of the present batch where the paper takes 819,200 inputs; make the batch large.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.saes.architectures.base import Weights, unit_rows

ENCODER_SHARE = 0.2


def resample(
    weights: Weights,
    moments: list[Weights],
    silent: Bool[Tensor, "instance d_sae"],
    x: Float[Tensor, "instance batch d_in"],
    errors: Float[Tensor, "instance batch"],
    generator: torch.Generator,
) -> int:
    """Changes weights and moments in place; returns how many latents were resampled."""
    done = 0
    for index in range(len(silent)):
        dead = silent[index].nonzero()[:, 0]
        if len(dead) == 0 or len(dead) == silent.shape[1]:
            continue
        chosen = torch.multinomial(errors[index].square().cpu(), len(dead), replacement=True, generator=generator)
        rows = unit_rows(x[index][chosen.to(x.device)] - weights["b_dec"][index])
        alive_norm = weights["W_enc"][index][~silent[index]].norm(dim=1).mean()
        weights["W_dec"][index][dead] = rows
        weights["W_enc"][index][dead] = rows * ENCODER_SHARE * alive_norm
        weights["b_enc"][index][dead] = 0.0
        for one in moments:
            for name in ("W_dec", "W_enc", "b_enc"):
                one[name][index][dead] = 0.0
        done += len(dead)
    return done
