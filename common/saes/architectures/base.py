"""What every architecture provides, and what the trainer hands to it.

Members of one architecture and shape train side by side on a leading `instance` axis. Encoder and decoder are stored as
rows of latents, W_enc [instance d_sae d_in] and W_dec [instance d_sae d_out]; `export` turns one member into a `Sae`.
Inputs are scaled to a mean squared norm of 1 (Lieberum et al. 2024), and losses are in that unit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.errors import UserError
from common.saes.recipe import Recipe
from common.saes.sae import About, Activation, Sae

Weights = dict[str, Tensor]


class Batch(NamedTuple):
    """Inputs and targets; the same tensor for autoencoders. A leading axis of 1 is shared by all members."""

    x: Float[Tensor, "shared_or_instance batch d_in"]
    y: Float[Tensor, "shared_or_instance batch d_out"]


Batches = Callable[[int, str], Batch]
"""Given a step and the name of a source, returns that step's batch: a pure function, asked once a step for all groups
of the source, and for some steps again by those that resample."""


@dataclass
class Progress:
    """State of a group beside its weights. All of it is in the checkpoint."""

    silent: Int[Tensor, "instance d_sae"]
    """activations since each latent fired"""
    coefficient: Float[Tensor, " instance"]
    """of the L1 penalty, moved by the controller"""
    l0: Float[Tensor, " instance"]
    """running mean"""
    threshold: Float[Tensor, " instance"]
    """running mean of the smallest kept value (BatchTopK), float64"""


class Context(NamedTuple):
    """What a loss may look at."""

    recipes: list[Recipe]
    k: list[float]
    """latents kept per token at this step (TopK family)"""
    progress: Progress
    dead: Bool[Tensor, "instance d_sae"]
    bandwidth: float
    price: float = 1.0
    """share of the price of active latents that is asked at this step"""


class Losses(NamedTuple):
    """Per member: what is minimised, the mean squared error, L0, how often each latent fired, smallest kept value."""

    loss: Float[Tensor, " instance"]
    error: Float[Tensor, " instance"]
    l0: Float[Tensor, " instance"]
    fired: Int[Tensor, "instance d_sae"]
    smallest: Float[Tensor, " instance"] | None = None


class Architecture(Protocol):
    """One small file each in this folder."""

    unit_norm: bool  # decoder rows are renormalised after each step, and gradients along them are removed before it
    controlled: bool  # a coefficient follows the L0 aimed at
    beta1: float  # of Adam

    def initial(self, recipe: Recipe, batch: Batch, generator: torch.Generator) -> Weights:
        """Weights of one member, without the instance axis, from a batch of data (leading axis 1)."""

    def losses(self, weights: Weights, batch: Batch, context: Context) -> Losses:
        """Forward pass of all members."""

    def export(self, weights: Weights, recipe: Recipe, progress: Progress) -> Sae:
        """One member (its progress has an instance axis of 1), in the units it was trained in."""


def unit_rows(rows: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Rows scaled to norm 1."""
    unit: Tensor = rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return unit


def random_rows(d_sae: int, d: int, generator: torch.Generator) -> Float[Tensor, "d_sae d"]:
    """Directions drawn evenly from the sphere."""
    return unit_rows(torch.randn(d_sae, d, generator=generator))


def tied(recipe: Recipe, batch: Batch, generator: torch.Generator, *, sparse: bool = True) -> Weights:
    """Random unit decoder rows, b_dec at the geometric median, and the encoder equal to the decoder but for one factor.

    The factor fits the first reconstruction to the data by least squares, so that its FVU is below 1. Unit rows alone
    start many times too long: the FVU is 7 at 32 latents a dimension, and Adam kills latents while it shortens them.
    With `sparse` the first reconstruction keeps the `sparsity` times batch largest entries, else all positive ones.
    """
    x = batch.x[0]
    rows, middle = random_rows(recipe.d_sae, x.shape[-1], generator).to(x), geometric_median(x)
    z = ((x - middle) @ rows.mT).relu()
    if sparse:
        z = z * (z >= active_level(z, recipe.sparsity))
    found = z @ rows
    factor = ((x - middle) * found).sum() / found.square().sum()
    return {"W_enc": rows * factor, "b_enc": torch.zeros_like(rows[:, 0]), "W_dec": rows, "b_dec": middle}


def active_level(z: Float[Tensor, "batch d_sae"], l0: float) -> Float[Tensor, ""]:
    """The value that `l0` entries of a token reach on average."""
    return z.flatten().topk(max(1, round(l0 * len(z)))).values[-1]


def geometric_median(x: Float[Tensor, "batch d"], rounds: int = 30) -> Float[Tensor, " d"]:
    """The point with the smallest mean distance to the data (Weiszfeld's iteration)."""
    point = x.mean(0)
    for _ in range(rounds):
        weight = 1 / (x - point).norm(dim=1).clamp(min=1e-6)
        point = weight @ x / weight.sum()
    return point


def pre_activations(weights: Weights, batch: Batch, *, centred: bool = True) -> Float[Tensor, "instance batch d_sae"]:
    """z = (x - b_dec) W_enc + b_enc of all members."""
    bias = weights["b_enc"]
    if centred:
        bias = bias - (weights["W_enc"] @ weights["b_dec"][..., None])[..., 0]
    x = batch.x.expand(len(bias), -1, -1)
    return torch.baddbmm(bias[:, None], x, weights["W_enc"].mT)


def mean_square(error: Float[Tensor, "*lead batch d"]) -> Float[Tensor, "*lead"]:
    """Mean over tokens of the squared norm."""
    return error.square().sum(-1).mean(-1)


def squared_error(y: Float[Tensor, "*lead d"], found: Float[Tensor, "*lead2 d"]) -> Float[Tensor, " instance"]:
    """Mean over tokens of the squared norm of y - found."""
    return mean_square(y - found)


def dense_counts(latents: Float[Tensor, "instance batch d_sae"]) -> Int[Tensor, "instance d_sae"]:
    """How many tokens each latent fires on."""
    return (latents.detach() != 0).sum(1)


def variance(y: Float[Tensor, "shared_or_instance batch d"]) -> Float[Tensor, " shared_or_instance"]:
    """Mean squared distance from the batch mean."""
    return mean_square(y - y.mean(1, keepdim=True))


def check_batch(batch: Batch, d_in: int, d_out: int, step: int) -> None:
    """UserError naming the step unless inputs and targets have these widths and are finite."""
    for name, value, width in (("activations", batch.x, d_in), ("targets", batch.y, d_out)):
        if name == "targets" and value is batch.x and d_in == d_out:
            return
        if not bool(torch.isfinite(value.sum())) and not bool(torch.isfinite(value).all()):
            raise UserError(f"step {step}: the {name} hold NaN or infinity; harvest them again")
        if value.shape[-1] != width:
            raise UserError(
                f"step {step}: these {name} have {value.shape[-1]} dimensions, those before had {width}; one source "
                "must come from one model and one hook"
            )


def stacked(members: list[Weights]) -> Weights:
    """Adds the instance axis."""
    return {name: torch.stack([one[name] for one in members]) for name in members[0]}


def member(weights: Weights, index: int) -> Weights:
    """Removes it."""
    return {name: value[index].detach().clone() for name, value in weights.items()}


def as_sae(weights: Weights, recipe: Recipe, activation: Activation, **more: Any) -> Sae:
    """One member as a `Sae`; `more` is what its activation needs beside the four usual tensors."""
    about = About(recipe.architecture, seed=recipe.seed, sparsity=recipe.sparsity)
    W_enc = rearrange(weights["W_enc"], "d_sae d_in -> d_in d_sae").contiguous()
    return Sae(about, activation, W_enc, weights["b_enc"], weights["W_dec"], weights["b_dec"], **more)


def constant(value: Tensor, like: Float[Tensor, " d_sae"]) -> Float[Tensor, " d_sae"]:
    """One threshold for all latents."""
    return repeat(value.to(like), "1 -> d_sae", d_sae=len(like))
