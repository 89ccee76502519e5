"""Step: does a dictionary of the untouched model still explain the model one fine-tune away?

An SAE that was trained on the untouched model reads the residual stream of the tuned ones, on the same held-out tokens
of ordinary text (documentation, code, chat): FVU, L0, and the cross-entropy that each model loses when its own residual
stream is replaced by the reconstruction (Kissane et al. 2024 ask this of base and chat models). Beside them:

sham       the model that refuses requests about food
shuffled   the untouched model plus the change of the refusing one, the rows and the columns of every matrix permuted
           and given random signs: in the same places a change of the same norm, rank and singular values that was not
           learned

`moved` is sum |x' - x|^2 over the variance of x, the untouched activations; `missed` the share of the shift x' - x that
reconstructions do not follow, sum |(x' - x) - (R(x') - R(x))|^2 over sum |x' - x|^2.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import write_metrics
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.saes.metrics import FORMULAS, fvu, l0
from common.saes.sae import Sae
from common.saes.saelens import load_saelens
from replications.refusal_direction.chat import Batch, before_block, final_states, layers
from replications.refusal_direction.comparisons import Metrics
from replications.refusal_direction.comparisons import seeds as over_seeds
from replications.refusal_direction.folders import load
from replications.refusal_direction.settings import MeasureTransfer, TransferSettings

NUMBERS = {  # unit, formula
    "fvu": ("1", FORMULAS["fvu"]),
    "l0": ("latents", FORMULAS["l0"]),
    "delta_ce": ("nats", FORMULAS["delta_ce"] + ", each model's own loss"),
    "moved": ("1", "moved: sum |x' - x|^2 / sum |x - mean x|^2, x of the untouched model"),
    "missed": ("1", "missed: sum |(x' - x) - (R(x') - R(x))|^2 / sum |x' - x|^2"),
}


class Held(NamedTuple):
    """Held-out windows, padded on the right; `used` are positions of the kind that the SAE was trained on."""

    batch: Batch
    used: Bool[Tensor, "window pos"]

    def take(self, rows: slice | Tensor) -> "Held":
        """Some of the windows."""
        return Held(self.batch[rows], self.used[rows])

    def scored(self) -> Bool[Tensor, "window pos"]:
        """Used positions with a real next token."""
        following = torch.zeros_like(self.used)
        following[:, :-1] = self.batch.mask[:, 1:].bool()
        return self.used & following


class TransferFiles(Files):
    before: Path
    """`manifest.json` of the untouched model"""
    tuned: list[Path]
    """of the refusing model of every seed"""
    sham: Path
    """of a sham model, read by the SAE of every seed"""
    index: Path
    """`index.json` of the trained SAEs, whose folders lie beside it"""
    held_out: Path
    """their held-out windows"""
    metrics: Path
    models: Path
    """one row per model and seed"""


def transfer(files: TransferFiles, settings: MeasureTransfer, run: RunInfo) -> None:
    """Reads every model with the dictionaries of the untouched one."""
    sizes, seeds, before, device = settings.transfer, settings.seeds, files.before, run.device
    saes = [load_saelens(files.index.parent / f"{sizes.sae}-s{seed}", device) for seed in seeds]
    hook = saes[0].about.hook
    for sae in saes:
        sae.check_belongs(before.parent.name, hook)
    if not hook.endswith("hook_resid_pre"):
        raise UserError(f"part transfer reads the residual stream before a block, and '{sizes.sae}' reads {hook}")
    layer = int(hook.split(".")[1])
    held = windows(load_file(files.held_out), sizes.windows, device)
    untouched = load(before, torch.float32, device)
    clean = stream(untouched, held, layer, sizes.batch)
    rows = []

    def put(name: str, model: Any, chosen: list[int]) -> None:
        x = clean if model is untouched else stream(model, held, layer, sizes.batch)
        own = own_loss(model, held, layer, x, sizes)
        for at in chosen:
            found = described(model, saes[at], held, layer, x, clean, own, sizes)
            rows.append({"model": name, "seed": seeds[at], **found})

    every = list(range(len(seeds)))
    put("before", untouched, every)
    put("sham", load(files.sham, torch.float32, device), every)
    for at, path in enumerate(track(files.tuned, "models")):
        learned = load(path, torch.float32, device)
        put("tuned", learned, [at])
        put("shuffled", shuffled(load(before, torch.float32, device), learned, seeds[at]), [at])
    frame = pd.DataFrame(rows)
    write_metrics(files.metrics, summary(frame))
    write_table(files.models, frame)


def windows(stored: dict[str, Tensor], count: int, device: str) -> Held:
    """At most `count` of the held-out windows, evenly over all corpora."""
    rows = spaced(len(stored["tokens"]), count)
    tokens, real, used = (stored[key][rows].to(device) for key in ("tokens", "real", "used"))
    return Held(Batch(tokens, real.long()), used)


def spaced(length: int, count: int) -> Tensor:
    """`count` places, or all, evenly over a list."""
    return torch.linspace(0, length - 1, min(length, count)).round().long()


def stream(model: Any, held: Held, layer: int, at_once: int) -> Float[Tensor, "window pos d_model"]:
    """Residual stream before block `layer`."""
    return torch.cat([before_block(model, part.batch, layer) for part in pieces(held, at_once)])


def pieces(held: Held, at_once: int) -> list[Held]:
    return [held.take(slice(start, start + at_once)) for start in range(0, len(held.used), at_once)]


@torch.inference_mode()
def described(
    model: Any,
    sae: Sae,
    held: Held,
    layer: int,
    x: Float[Tensor, "window pos d_model"],
    clean: Float[Tensor, "window pos d_model"],
    loss: float,
    sizes: TransferSettings,
) -> dict[str, float]:
    """What the dictionary makes of the activations `x` of a model with that loss; `clean` are of the untouched one."""
    own, old = x[held.used], clean[held.used]
    found, latents = sae.reconstruct(own), sae.encode(own)
    shift, followed = own - old, found - sae.reconstruct(old)
    moved, variance = shift.double().square().sum(), (old - old.mean(0)).double().square().sum()
    missed = (shift - followed).double().square().sum() / moved if float(moved) > 0 else torch.tensor(0.0)
    replaced = x.clone()
    replaced[held.used] = found
    return {
        "fvu": fvu(own, found),
        "l0": l0(latents),
        "delta_ce": own_loss(model, held, layer, replaced, sizes) - loss,
        "ce": loss,
        "moved": float(moved / variance),
        "missed": float(missed),
    }


@torch.inference_mode()
def own_loss(
    model: Any, held: Held, layer: int, x: Float[Tensor, "window pos d_model"], sizes: TransferSettings
) -> float:
    """`cross_entropy` on the windows that are set aside for it."""
    rows = spaced(len(x), sizes.loss_windows).to(x.device)
    return cross_entropy(model, held.take(rows), layer, x[rows], sizes.batch)


def cross_entropy(model: Any, held: Held, layer: int, x: Float[Tensor, "window pos d_model"], at_once: int) -> float:
    """Nats per scored token with `x` as the residual stream before the block."""
    losses = []
    for part, values in zip(pieces(held, at_once), torch.split(x, at_once), strict=True):
        final = final_states(model, part.batch, (layer, values))
        score = part.scored()
        target = part.batch.ids.roll(-1, 1)[score]
        losses.append(F.cross_entropy(model.lm_head(final[score]).float(), target, reduction="none"))
    return float(torch.cat(losses).double().mean())


@torch.no_grad()
def shuffled(before: Any, tuned: Any, seed: int) -> Any:
    """`before`, changed in place by the change of `tuned`, rows and columns of every matrix permuted, with random
    signs."""
    draws = torch.Generator().manual_seed(seed)
    for own, other in zip(layers(before).parameters(), layers(tuned).parameters(), strict=True):
        if own.ndim == 2:
            change = (other - own).cpu()
            for size in change.shape:  # permutes rows and turns the matrix on its side, twice
                signs = torch.randint(0, 2, (size, 1), generator=draws) * 2.0 - 1
                change = (change[torch.randperm(size, generator=draws)] * signs).mT
            own.add_(change.to(own.device))
    return before


def summary(frame: pd.DataFrame) -> Metrics:
    """Intervals over seeds; differences are paired by seed, that is by dictionary."""
    found: Metrics = {}
    for name, (unit, formula) in NUMBERS.items():
        values = {model: [float(one) for one in own[name]] for model, own in frame.groupby("model", sort=False)}
        found[f"{name}_before"] = over_seeds(values["before"], unit, formula)
        untouched = {"untouched": values["before"]}
        others = untouched | {model: values[model] for model in ("sham", "shuffled")}
        found[f"{name}_tuned"] = over_seeds(values["tuned"], unit, formula, **others)
        for model in ("sham", "shuffled"):
            found[f"{name}_{model}"] = over_seeds(values[model], unit, formula, **untouched)
    return found


if __name__ == "__main__":
    run_step(transfer)
