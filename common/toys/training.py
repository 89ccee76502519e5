"""The training engine: many models in one batched job, AdamW, checkpoints that resume bit-exactly.

All instances live in one matrix [instance parameter], and torch's fused kernel updates a row in one pass over memory.
Learning rate and clipping are per instance, and an instance's weights never depend on its neighbours. Batches are a
pure function of the step number. So nothing but weights, moments and measurements has to be stored to go on where a run
stopped.

AdamW: Loshchilov and Hutter 2019, decoupled weight decay multiplied by the learning rate, as in torch.optim.AdamW (a
test compares the two). The schedule is a linear warm-up followed by a constant rate or by half a cosine.
"""

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.adamw import adamw

from common.core.errors import UserError
from common.core.files import atomic
from common.core.settings import ROOT
from common.toys.settings import Optimisation

Weights = dict[str, Tensor]
CHECKPOINTS = ROOT / "resources" / "checkpoints"
CHECKPOINT_SECONDS = 20.0
LOG_SECONDS = 10.0
EPSILON = 1e-8
LOOK_EVERY = 50  # steps, on a GPU, between looks at what is not finite: each look waits for the GPU
FINITE = -1.0
STORED = ("point", "first", "second", "losses", "snapshots")


class Job(NamedTuple):
    """What is trained. `loss` gives the mean loss of every instance at a step, from that step's own batch.

    `measure` is called before the steps in `measure_at` (and after the last step, if `steps` is in it). What it returns
    is stacked on a leading axis. At the steps of `snapshots_at` the weights are kept, stacked likewise. `rates`
    multiplies the learning rate of each instance.
    """

    name: str
    weights: Weights
    loss: Callable[[Weights, int], Float[Tensor, " instance"]]
    measure: Callable[[Weights], Weights]
    measure_at: list[int]
    snapshots_at: list[int]
    rates: Float[Tensor, " instance"]
    tokens_per_step: int


class Trained(NamedTuple):
    """Weights at the steps of `snapshots_at`, training loss of every step, and the measurements."""

    snapshots: Weights
    losses: Float[Tensor, "step instance"]
    measured: Weights


class State(NamedTuple):
    """All that a checkpoint holds."""

    step: int
    point: Float[Tensor, "instance parameter"]
    first: Float[Tensor, "instance parameter"]
    second: Float[Tensor, "instance parameter"]
    losses: Float[Tensor, "step instance"]
    snapshots: Float[Tensor, "snapshot instance parameter"]
    measured: Weights


def train(job: Job, settings: Optimisation, *, folder: Path = CHECKPOINTS) -> Trained:
    """Trains to the end, resuming from a checkpoint of the same job if there is one; removes it at the end.

    Raises:
        UserError: a loss or gradient is not finite (names step and instance), or the disk is full.
    """
    path = folder / f"{identity(job, settings)}.safetensors"
    names, sizes = list(job.weights), [value[0].shape for value in job.weights.values()]
    state = _load(path, job, settings) or _start(job)
    started = saved = logged = time.perf_counter()
    begun, groups = state.step, _equal(job.rates.tolist())
    broken = torch.full_like(job.rates, FINITE)
    look = LOOK_EVERY if job.rates.device.type == "cuda" else 1
    for step in range(state.step, settings.steps + 1):
        if step in job.measure_at:
            with torch.no_grad():
                found = job.measure(_unpack(state.point, names, sizes))
            state = state._replace(measured=_append(state.measured, found))
        if step in job.snapshots_at:
            state = state._replace(snapshots=torch.cat([state.snapshots, state.point[None]]))
        if step == settings.steps:
            break
        state, finite = _step(job, settings, state, names, sizes, groups)
        broken = torch.where(finite | (broken != FINITE), broken, step)
        if (step + 1) % look == 0 or step == settings.steps - 1:
            _check(job, broken)
        now = time.perf_counter()
        if now - saved >= CHECKPOINT_SECONDS:
            _save(path, state)
            saved = now
        if now - logged >= LOG_SECONDS or step == settings.steps - 1:
            speed = job.tokens_per_step * (step + 1 - begun) / (now - started)
            mean = float(state.losses[-1].mean())
            print(f"{job.name}: step {step + 1} of {settings.steps}, loss {mean:.3f}, {speed:.0f} tokens/s", flush=True)
            logged = now
    path.unlink(missing_ok=True)
    return Trained(_unpack(state.snapshots, names, sizes), state.losses, state.measured)


def identity(job: Job, settings: Optimisation) -> str:
    """Name of the job's checkpoint: a hash of its name, settings, initial weights, rates and schedules."""
    digest = hashlib.sha256(f"{job.name} {settings.model_dump_json()} {job.measure_at} {job.snapshots_at}".encode())
    for name, value in {**job.weights, "rates": job.rates}.items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def learning_rate(settings: Optimisation, step: int) -> float:
    """Rate of step 0, 1, ...: linear warm-up, then constant or half a cosine that would reach 0 after the last step."""
    if step < settings.warmup or settings.decay == "constant":
        return settings.learning_rate * min(1.0, (step + 1) / (settings.warmup + 1))
    done = (step - settings.warmup) / (settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def _start(job: Job) -> State:
    point = torch.cat([value.flatten(1) for value in job.weights.values()], dim=1)
    empty = torch.zeros(0, len(point), device=point.device)
    return State(0, point, torch.zeros_like(point), torch.zeros_like(point), empty, point[None][:0], {})


def _equal(rates: list[float]) -> dict[float, list[int]]:
    """Instances by their rate: those of one rate are updated in one call."""
    return {rate: [index for index, own in enumerate(rates) if own == rate] for rate in dict.fromkeys(rates)}


def _step(
    job: Job,
    settings: Optimisation,
    state: State,
    names: list[str],
    sizes: list[torch.Size],
    groups: dict[float, list[int]],
) -> tuple[State, Bool[Tensor, " instance"]]:
    """The state after a step, and whether loss and gradient of each instance were finite."""
    point = state.point.detach().requires_grad_()
    losses = job.loss(_unpack(point, names, sizes), state.step)
    [gradient] = torch.autograd.grad(losses.sum(), [point])
    norm = gradient.norm(dim=1)
    gradient.mul_((settings.clip / norm.clamp(min=settings.clip))[:, None])
    rate = learning_rate(settings, state.step)
    every = (state.point, gradient, state.first, state.second)
    apart = len(groups) > 1 or not point.is_cuda  # on a GPU it is one call for one tensor, where all rates are equal
    rows = list(zip(*(x.unbind() if apart else [x] for x in every), strict=True))
    for own, some in groups.items():
        points, slopes, first, second = map(list, zip(*(rows[index] for index in some[: len(rows)]), strict=True))
        done = list(torch.full((len(points),), float(state.step), device=norm.device).unbind())
        adamw(
            points, slopes, first, second, [], done, fused=True, amsgrad=False, maximize=False, lr=rate * own,
            beta1=settings.beta1, beta2=settings.beta2, weight_decay=settings.weight_decay, eps=EPSILON,
        )  # fmt: skip
    losses = losses.detach()
    new = state._replace(step=state.step + 1, losses=torch.cat([state.losses, losses[None]]))
    return new, torch.isfinite(losses + norm)


def _check(job: Job, broken: Float[Tensor, " instance"]) -> None:
    """UserError for the first instance whose loss or gradient was not finite. `broken` is the step of each."""
    steps = broken.tolist()
    if worst := [(step, instance) for instance, step in enumerate(steps) if step != FINITE]:
        step, instance = min(worst)
        raise UserError(
            f"{job.name}: loss or gradient of instance {instance} is not finite at step {step:.0f}; "
            "lower the learning rate"
        )


def _append(stacked: Weights, found: Weights) -> Weights:
    return {
        name: torch.cat([stacked[name], value[None]]) if name in stacked else value[None].clone()
        for name, value in found.items()
    }


def _unpack(point: Float[Tensor, "*lead parameter"], names: list[str], sizes: list[torch.Size]) -> Weights:
    parts = torch.split(point, [size.numel() for size in sizes], dim=-1)
    return {name: part.reshape(*part.shape[:-1], *size) for name, part, size in zip(names, parts, sizes, strict=True)}


def _save(path: Path, state: State) -> None:
    tensors = {name: getattr(state, name) for name in STORED}
    tensors |= {f"measured.{name}": value for name, value in state.measured.items()}
    with atomic(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)


def _load(path: Path, job: Job, settings: Optimisation) -> State | None:
    """The checkpoint, or None if there is none or it cannot be read: the run then starts afresh and says so."""
    if not path.exists():
        return None
    device = job.rates.device
    try:
        stored = {name: value.to(device) for name, value in load_file(path).items()}
        prefix = "measured."
        measured = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
        point, first, second, losses, snapshots = (stored[name] for name in STORED)
        state = State(len(losses), point, first, second, losses, snapshots, measured)
    except (SafetensorError, KeyError, OSError):
        print(f"{job.name}: the checkpoint {path} cannot be read; starting afresh")
        return None
    print(f"{job.name}: resuming at step {state.step} of {settings.steps}")
    return state
