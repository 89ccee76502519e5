"""Neuron resampling (Bricken et al. 2023, appendix): silent latents restart at inputs that are badly reconstructed.

At a resampling step, every latent that has been silent for a window gets
- as decoder row, one input drawn with probability proportional to its squared loss, scaled to norm 1;
- as encoder row, the same direction with 0.2 times the mean norm of living encoder rows;
- bias 0 and zero Adam moments.

Inputs come from the latest `resample_pool` batches and are drawn without replacement, so that no two latents restart as
the same one. Copies in common use draw from one batch with replacement, proportionally to the loss and not its square.

Deviations: inputs are seen relative to b_dec, as the encoder sees them. The paper's pool has 819,200 inputs.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.saes.architectures.base import Batches, Progress, Weights, pre_activations, unit_rows
from common.saes.recipe import Recipe, Training

ENCODER_SHARE = 0.2


@torch.no_grad()
def restart_silent(
    weights: Weights,
    moments: list[Weights],
    progress: Progress,
    recipes: list[Recipe],
    settings: Training,
    batches: Batches,
    step: int,
) -> None:
    """Restarts the dead latents of a group after `step`, with a generator of each member's own seed."""
    pool, errors = [], []
    for past in range(max(0, step + 1 - settings.resample_pool), step + 1):
        batch = batches(past, recipes[0].source)
        pool.append(batch.x.expand(len(recipes), -1, -1))
        found = pre_activations(weights, batch).relu() @ weights["W_dec"] + weights["b_dec"][:, None]
        errors.append((batch.x - found).square().sum(-1))
    silent = progress.silent >= settings.dead_after
    generators = [torch.Generator().manual_seed(1_000_003 * (recipe.seed + 1) + step) for recipe in recipes]
    done = resample(weights, moments, silent, torch.cat(pool, dim=1), torch.cat(errors, dim=1), generators)
    progress.silent[silent] = 0
    print(f"step {step}: resampled {done} latents", flush=True)


def resample(
    weights: Weights,
    moments: list[Weights],
    silent: Bool[Tensor, "instance d_sae"],
    x: Float[Tensor, "instance pool d_in"],
    errors: Float[Tensor, "instance pool"],
    generators: list[torch.Generator],
) -> int:
    """Changes weights and moments in place; returns how many latents were resampled: at most as many as there are
    inputs with a loss."""
    done = 0
    for index in range(len(silent)):
        dead = silent[index].nonzero()[:, 0]
        if len(dead) == 0 or len(dead) == silent.shape[1]:
            continue
        chance = errors[index].double().square().cpu()
        dead = dead[: int((chance > 0).sum())]
        chosen = torch.multinomial(chance, len(dead), replacement=False, generator=generators[index])
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
