"""A guardrail made of one SAE latent, and attacks that the latent cannot see.

The guard holds latent i of an SAE at a value v in the residual stream before block l, at every template token behind
the instruction: x <- x + (v - f_i(x)) d_i, the error kept. Latents of this SAE depend on x through their encoder row
e_i alone, so a change of x that is orthogonal to e_i leaves what the latent reads as it is, whatever it does to the
model.

removed     the part of r orthogonal to e_i projected out of the guarded activation
optimised   a shift, one vector per template token, shared by all requests, orthogonal to e_i and of bounded norm,
            found by projected gradient descent on KL(attacked || no guard) of the first token: the way back to what the
            model does without the guard, not merely away from refusal

A shift decomposes into what the other latents carry, decode(encode(x + s)) - decode(encode(x)), and what only the error
carries, the rest.

Only template tokens change and attention looks back, so what stands before them is run once (`enter`) and its keys and
values are shared by all conditions. Where an answer is written (`written`), guard and attack act on every token of it
too, the optimised shift with its vector for the last template token.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from common.saes.sae import Sae
from replications.refusal_direction.chat import Batch, editing, first_token_kl, starting_at, unit

STEP = 0.1  # of the bound
Stream = Float[Tensor, "*draw batch pos d_model"]
Edit = Callable[[Tensor], Tensor]  # of a `Stream`


class Entered(NamedTuple):
    """Requests up to block `layer`: residual stream at the template tokens, keys and values of what stands before them
    for every block, and those of the template tokens for the blocks `below`, which no condition changes."""

    layer: int
    x: Float[Tensor, "batch pos d_model"]
    batch: Batch
    keys: list[tuple[Tensor, Tensor]]
    below: list[tuple[Tensor, Tensor]]


class Guard(NamedTuple):
    """Latent `latent` of `sae`, held at `value`."""

    sae: Sae
    latent: int
    value: float

    @property
    def row(self) -> Float[Tensor, " d_model"]:
        """The unit encoder row: all that the latent reads."""
        return unit(self.sae.W_enc[:, self.latent])

    def on(self, x: Stream, *, keep_error: bool = True) -> Stream:
        """The guarded activation."""
        return self.sae.clamp(x, self.latent, self.value, keep_error=keep_error)

    def reads(self, x: Stream) -> Float[Tensor, "*draw batch"]:
        """What the latent reads at the last template token."""
        return self.sae.encode(x[..., -1, :])[..., self.latent]

    def unseen(self, shift: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The part of a shift that the latent does not read."""
        return shift - (shift @ self.row)[..., None] * self.row

    def parts(self, x: Stream, shift: Stream) -> tuple[Stream, Stream]:
        """The shift as carried by the other latents, and by the error."""
        latents = self.sae.reconstruct(x + shift) - self.sae.reconstruct(x)
        return latents, shift - latents


def enter(model: Any, batch: Batch, layer: int, n_post: int) -> Entered:
    """Runs the requests once."""
    seen: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        seen.append(x[:, -n_post:])
        return x

    with torch.no_grad(), editing(model, layer, keep):
        options = {"attention_mask": batch.mask, "position_ids": batch.places, "use_cache": True}
        cache = model.model(input_ids=batch.ids, **options).past_key_values
    every = [(one.keys, one.values) for one in cache.layers]
    head, post = ([(keys[:, :, at], values[:, :, at]) for keys, values in every] for at in _sides(n_post))
    return Entered(layer, seen[0].float().clone(), batch, head, post[:layer])


def _sides(n_post: int) -> tuple[slice, slice]:
    """What stands before the template tokens, and these."""
    return slice(None, -n_post), slice(-n_post, None)


def answer_logits(model: Any, entered: Entered, x: Stream) -> Float[Tensor, "*draw batch d_vocab"]:
    """Logits of the first token of the answer, float32, with `x` in place of the residual stream before the block."""
    logits, _ = _first(model, entered, x)
    return rearrange(logits, "(c b) v -> c b v", c=x.shape[0]) if x.ndim == 4 else logits


def _first(model: Any, entered: Entered, x: Stream) -> tuple[Float[Tensor, "row d_vocab"], DynamicCache]:
    """The logits, and the keys and values that they came from; at the template tokens those of the blocks above alone.
    Rows are requests, draw after draw."""
    draws = x.shape[0] if x.ndim == 4 else 1
    rows = x.flatten(0, 1) if x.ndim == 4 else x
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(entered.keys):
        cache.update(keys.repeat(draws, 1, 1, 1), values.repeat(draws, 1, 1, 1), layer)
    batch = entered.batch.repeat(draws)
    with starting_at(model, entered.layer):
        final = model.model(
            inputs_embeds=rows.to(model.dtype),
            attention_mask=batch.mask,
            position_ids=batch.places[:, -x.shape[-2] :],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    return model.lm_head(final[:, -1]).float(), cache


@torch.no_grad()
def written(model: Any, entered: Entered, x: Stream, edit: Edit, new_tokens: int) -> Int[Tensor, "row step"]:
    """The first greedy tokens of every answer, with `x` in place of the residual stream at the template tokens, and
    `edit` of it at every token that follows. To be classified in memory, and dropped. Rows as in `_first`."""
    logits, cache = _first(model, entered, x)
    draws = len(logits) // len(entered.batch)
    for layer, (keys, values) in enumerate(entered.below):
        cache.update(keys.repeat(draws, 1, 1, 1), values.repeat(draws, 1, 1, 1), layer)
    batch = entered.batch.repeat(draws)
    mask, places = batch.mask, batch.places[:, -1:]

    def change(rows: Float[Tensor, "row 1 d_model"]) -> Float[Tensor, "row 1 d_model"]:
        stream = rearrange(rows.float(), "(c b) p d -> c b p d", c=draws) if x.ndim == 4 else rows.float()
        return edit(stream).reshape(rows.shape).to(rows.dtype)

    tokens = [logits.argmax(-1, keepdim=True)]
    with editing(model, entered.layer, change):
        for _ in range(new_tokens - 1):
            mask, places = F.pad(mask, (0, 1), value=1), places + 1
            options = {"attention_mask": mask, "position_ids": places, "past_key_values": cache, "use_cache": True}
            final = model.model(input_ids=tokens[-1], **options).last_hidden_state
            tokens.append(model.lm_head(final[:, -1]).argmax(-1, keepdim=True))
    return torch.cat(tokens, 1)


def optimised(model: Any, entered: Entered, guard: Guard, *, bound: float, steps: int) -> Float[Tensor, "pos d_model"]:
    """The shift of at most `bound` per token, orthogonal to the encoder row, under which the guarded requests are
    answered as they are without the guard: least mean KL(attacked || no guard) of the first token, the same measure by
    which the way back is judged on other topics. Steps of a tenth of the bound along its gradient, projected back. The
    best one seen."""
    guarded = guard.on(entered.x)
    with torch.no_grad():
        free = answer_logits(model, entered, entered.x)
    shift = torch.zeros_like(guarded[0])
    best, least = shift, float("inf")
    for step in range(steps + 1):
        shift.requires_grad_(True)
        away = first_token_kl(answer_logits(model, entered, guarded + shift), free).mean()
        if float(away.detach()) < least:
            best, least = shift.detach().clone(), float(away.detach())
        if step == steps:
            break
        (slope,) = torch.autograd.grad(away, shift)
        moved = shift.detach() - STEP * bound * unit(guard.unseen(slope))
        shift = guard.unseen(moved * (bound / moved.norm(dim=-1, keepdim=True).clamp(min=bound)))
    return best


def random_shifts(
    guard: Guard, x: Float[Tensor, "batch pos d_model"], like: Float[Tensor, "batch pos d_model"], draws: int, seed: int
) -> Float[Tensor, "draw batch pos d_model"]:
    """Gaussian shifts with the covariance of the activations `x` at each token, in the same subspace, every token's
    with the norm it has in `like`. A direction is shared by all requests."""
    weights = torch.randn(draws, len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    noise = torch.einsum("cb,bpd->cpd", weights, x - x.mean(0))[:, None]
    shifts: Tensor = unit(guard.unseen(noise)) * like.norm(dim=-1, keepdim=True)
    return shifts


def removal(guard: Guard, x: Stream, r: Float[Tensor, " d_model"]) -> Stream:
    """The shift that takes out of the guarded activation its component along the part of r that the latent misses."""
    hidden = unit(guard.unseen(r))
    return -(guard.on(x) @ hidden)[..., None] * repeat(hidden, "d -> p d", p=x.shape[-2])
