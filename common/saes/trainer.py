"""Trains a whole sweep of SAEs in one pass over a stream of activations.

Members of one architecture and shape form a group and share every tensor operation (leading `instance` axis); groups
take turns on the same batch. Batches are a pure function of the step number. So a checkpoint holds weights, moments and
counters only, and a resumed run ends with the same bytes. Adam with bias correction, per-member clipping, linear
warm-up and a linear decay over the last part; weights and moments are float32. Unit-norm architectures lose the
gradient along each decoder row before Adam and are renormalised after the step.

The L1 coefficient of penalised architectures follows the L0 aimed at. In each step its logarithm moves by

    gain * tanh(4 (L0 / L0* - 1 + 20 dL0 / L0*)),

where dL0 is how far the running mean of L0 moved in that step. Without the last term the coefficient still grows while
L0 falls, and L0 overshoots. (synth-sae-bench damps its controller too, by a smaller gain while L0 approaches.) The
coefficient rests while the price of active latents rises.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.core.errors import UserError
from common.core.files import atomic
from common.saes.architectures import ARCHITECTURES
from common.saes.architectures.base import (
    Batch,
    Context,
    Losses,
    Progress,
    Weights,
    check_batch,
    member,
    stacked,
    variance,
)
from common.saes.architectures.base import Batches as Batches  # part of the interface of `train`
from common.saes.optimiser import adam, project, renormalise
from common.saes.recipe import Recipe, Training, k_now, learning_rate, price_now, resampling_steps
from common.saes.resampling import restart_silent
from common.saes.sae import Sae

FIRST_COEFFICIENT = 0.02
FORGET = 0.9  # of running means; the BatchTopK authors use 0.99 in runs with thousands of times more steps
DAMPING = 20.0  # of the controller, in steps
TRACES = ("l0", "fvu", "dead", "decoder_norm", "coefficient")
LOG_SECONDS = 10.0


class Group(NamedTuple):
    """Members that train side by side."""

    recipes: list[Recipe]
    weights: Weights
    first: Weights
    second: Weights
    progress: Progress


class Trained(NamedTuple):
    """One member: its recipe, its SAE in training units, its training-time weights, and its traces."""

    recipe: Recipe
    sae: Sae | None
    weights: Weights
    progress: Progress
    traces: dict[str, Float[Tensor, " trace"]]


def make_groups(recipes: list[Recipe]) -> list[list[Recipe]]:
    """Recipes in order, those that share architecture, shape and source together."""
    found: dict[tuple[object, ...], list[Recipe]] = {}
    for recipe in recipes:
        key = (recipe.architecture, recipe.d_sae, recipe.layers, recipe.source)
        found.setdefault(key, []).append(recipe)
    return list(found.values())


def train(
    recipes: list[Recipe],
    batches: Batches,
    settings: Training,
    checkpoint: Path,
    *,
    data: str = "",
    device: str = "cpu",
    constrain: Callable[[Weights], None] | None = None,
    keep: bool = False,
) -> list[Trained]:
    """Trains all members, resuming from `checkpoint` if it is of the same run; removes it once all are exported.

    Args:
        recipes: the sweep; the result has the same order.
        batches: see `Batches`. A batch whose leading axis is not 1 has one slice per member of a group.
        settings: how to train.
        checkpoint: a safetensors file outside the declared outputs.
        data: names the stream, so that a checkpoint of other data is not taken up.
        device: "cpu" or "cuda".
        constrain: changes the weights of a group in place after each of its steps; name it in `data`.
        keep: leave the checkpoint to the caller, who removes it when what was trained is on disk.

    Raises:
        UserError: activations, targets, a loss or a gradient are not finite (names step and member).
    """
    shared = {source: batches(0, source) for source in sorted({recipe.source for recipe in recipes})}
    groups = [_start(group, shared[group[0].source], device) for group in make_groups(recipes)]
    identity = _identity(recipes, settings, data)
    step, traces = _load(checkpoint, groups, identity)
    started = logged = time.perf_counter()
    begun = step
    while step < settings.steps:
        shared = {source: batches(step, source) for source in shared}
        found = [_step(group, shared[group.recipes[0].source], settings, step) for group in groups]
        for group in groups if step + 1 in resampling_steps(settings) else []:
            if group.recipes[0].architecture == "relu_bricken":
                restart_silent(group.weights, [group.first, group.second], group.progress, group.recipes, settings,
                               batches, step)  # fmt: skip
        if step % settings.trace_every == 0 or step == settings.steps - 1:
            traced = [
                _trace(group, losses, shared[group.recipes[0].source], settings)
                for group, losses in zip(groups, found, strict=True)
            ]
            traces.append(torch.cat(traced, dim=1).cpu())
        if constrain:
            for group in groups:
                constrain(group.weights)
        step += 1
        if step % settings.checkpoint_every == 0 and step < settings.steps:
            _save(checkpoint, groups, traces, step, identity)
        now = time.perf_counter()
        if now - logged >= LOG_SECONDS or step == settings.steps:
            speed = settings.batch * (step - begun) / (now - started)
            print(f"step {step} of {settings.steps}, {speed:.0f} activations/s for {len(recipes)} SAEs", flush=True)
            logged = now
    table = torch.stack(traces)
    members = [one for group in groups for one in group.recipes]
    parts = [(group, index) for group in groups for index in range(len(group.recipes))]
    done = {}
    for column, (group, index) in enumerate(parts):
        recipe, weights, progress = group.recipes[index], member(group.weights, index), _slice(group.progress, index)
        sae = (
            None
            if recipe.architecture == "cross_layer"
            else ARCHITECTURES[recipe.architecture].export(weights, recipe, progress)
        )
        lines = {name: table[:, row, column] for row, name in enumerate(TRACES)}
        done[id(members[column])] = Trained(recipe, sae, weights, progress, lines)
    if not keep:
        checkpoint.unlink(missing_ok=True)
    return [done[id(recipe)] for recipe in recipes]


def first_weights(recipes: list[Recipe], batch: Batch, device: str) -> Weights:
    """Where a group starts, given its first batch."""
    architecture = ARCHITECTURES[recipes[0].architecture]
    members = []
    for index, recipe in enumerate(recipes):
        own = Batch(*(one[index : index + 1] if len(one) > 1 else one for one in batch))
        members.append(architecture.initial(recipe, own, torch.Generator().manual_seed(recipe.seed)))
    return {name: value.contiguous().to(device) for name, value in stacked(members).items()}


def _start(recipes: list[Recipe], batch: Batch, device: str) -> Group:
    weights = first_weights(recipes, batch, device)
    zeros = [{name: torch.zeros_like(value) for name, value in weights.items()} for _ in range(2)]
    instances, latents = len(recipes), weights["W_dec"].shape[1]
    progress = Progress(
        torch.zeros(instances, latents, dtype=torch.long, device=device),
        torch.full((instances,), FIRST_COEFFICIENT, device=device),
        torch.zeros(instances, device=device),
        torch.zeros(instances, dtype=torch.float64, device=device),
    )
    return Group(recipes, weights, zeros[0], zeros[1], progress)


def _step(group: Group, batch: Batch, settings: Training, step: int) -> Losses:
    """One optimiser step of one group; weights and progress change in place."""
    recipes, weights, progress = group.recipes, group.weights, group.progress
    architecture = ARCHITECTURES[recipes[0].architecture]
    d_in = weights.get("W_enc", weights["W_dec"]).shape[-1]  # matching pursuit has no encoder
    check_batch(batch, d_in * recipes[0].layers, weights["W_dec"].shape[-1], step)
    dead = progress.silent >= settings.dead_after
    for value in weights.values():
        value.requires_grad_()
    price = price_now(settings, step)
    context = Context(recipes, k_now(recipes, settings, step), progress, dead, settings.bandwidth, price)
    losses = architecture.losses(weights, batch, context)
    gradients = dict(zip(weights, torch.autograd.grad(losses.loss.sum(), list(weights.values())), strict=True))
    with torch.no_grad():
        for value in weights.values():
            value.requires_grad_(False)
        if architecture.unit_norm:
            project(gradients["W_dec"], weights["W_dec"])
        norm = torch.stack([torch.linalg.vector_norm(one.flatten(1), dim=1) for one in gradients.values()]).norm(dim=0)
        if not bool(torch.isfinite(losses.loss + norm).all()):
            bad = recipes[int((~torch.isfinite(losses.loss + norm)).nonzero()[0])]
            raise UserError(
                f"step {step}: loss or gradient of {bad.architecture} (width {bad.d_sae}, seed {bad.seed}) is not "
                "finite; lower the learning rate"
            )
        if bool((norm > settings.clip).any()):
            scale = settings.clip / norm.clamp(min=settings.clip)
            gradients = {name: one * scale.reshape(-1, *[1] * (one.ndim - 1)) for name, one in gradients.items()}
        moved, first, second = ([values[name] for name in gradients] for values in (weights, group.first, group.second))
        rate = learning_rate(settings, step, recipes[0].d_sae)
        adam(moved, list(gradients.values()), first, second, architecture.beta1, rate, step + 1)
        if architecture.unit_norm:
            renormalise(weights["W_dec"])
        _advance(progress, losses, recipes, settings, controlled=architecture.controlled and price == 1)
    return losses._replace(loss=losses.loss.detach(), error=losses.error.detach(), l0=losses.l0.detach())  # no graph


@torch.no_grad()
def _trace(group: Group, losses: Losses, batch: Batch, settings: Training) -> Float[Tensor, "trace instance"]:
    """What `TRACES` names, after a step."""
    dead = (group.progress.silent >= settings.dead_after).float().mean(1)
    norms = group.weights["W_dec"].norm(dim=-1).mean(-1)
    return torch.stack([losses.l0, losses.error / variance(batch.y), dead, norms, group.progress.coefficient])


def _advance(
    progress: Progress, losses: Losses, recipes: list[Recipe], settings: Training, *, controlled: bool
) -> None:
    """Counts silence, and moves running means and coefficients."""
    fired = losses.fired > 0
    progress.silent.copy_(torch.where(fired, 0, progress.silent + settings.batch))
    first = progress.l0 == 0
    mean = torch.where(first, losses.l0, torch.lerp(losses.l0.to(progress.l0), progress.l0, 0.9))
    moved = torch.where(first, 0, mean - progress.l0)
    progress.l0.copy_(mean)
    if losses.smallest is not None:
        smallest = losses.smallest.double()
        started = progress.threshold > 0
        progress.threshold.copy_(torch.where(started, FORGET * progress.threshold + (1 - FORGET) * smallest, smallest))
    if controlled:
        aim = torch.tensor([recipe.sparsity for recipe in recipes], device=progress.l0.device)
        progress.coefficient.mul_(
            (settings.controller_gain * torch.tanh(4 * ((mean + DAMPING * moved) / aim - 1))).exp()
        )


def _slice(progress: Progress, index: int) -> Progress:
    return Progress(*(getattr(progress, name)[index : index + 1].clone() for name in vars(progress)))


def _identity(recipes: list[Recipe], settings: Training, data: str) -> str:
    text = json.dumps([one.model_dump() for one in recipes]) + settings.model_dump_json() + data
    return hashlib.sha256(text.encode()).hexdigest()


def _tensors(groups: list[Group]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for number, group in enumerate(groups):
        parts = {"weights": group.weights, "first": group.first, "second": group.second}
        found |= {f"{number}.{part}.{name}": value for part, own in parts.items() for name, value in own.items()}
        found |= {f"{number}.progress.{name}": value for name, value in vars(group.progress).items()}
    return found


def _save(path: Path, groups: list[Group], traces: list[Tensor], step: int, identity: str) -> None:
    tensors = {**_tensors(groups), "traces": torch.stack(traces)}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={"identity": identity, "step": str(step)})


def _load(path: Path, groups: list[Group], identity: str) -> tuple[int, list[Tensor]]:
    """Fills the groups from a checkpoint of this run and returns its step and traces; otherwise 0 and nothing."""
    if not path.exists():
        return 0, []
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
        stored = load_file(path)
        own = _tensors(groups)
        if metadata.get("identity") != identity or stored.keys() != {*own, "traces"}:
            print(f"{path} belongs to another run; starting afresh")
            return 0, []
    except (SafetensorError, OSError):
        print(f"the checkpoint {path} cannot be read; starting afresh")
        return 0, []
    for name, value in own.items():
        value.copy_(stored[name])
    print(f"resuming at step {metadata['step']}")
    return int(metadata["step"]), list(stored["traces"])
