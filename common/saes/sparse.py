"""Sparse kernels of the TopK family: exact selection, and gradients that touch selected latents only.

A dense SAE step costs about 12 B d F operations, of which the encoder's forward pass is 2 B d F. When k of F latents
are kept, everything else can be done on B k entries. The decoder is a bag of k rows per token, and so is each gradient
(Gao et al. 2024, appendix D). Here every one of these bags is `embedding_bag`, which runs on CPU and GPU without
writing out the [B k d] intermediate. For gradients of weights the entries are sorted by latent first.

All members of a sweep share one call: entry n belongs to row `rows[n]` of [instance batch] and to latent `cols[n]` of
[instance d_sae]. The result equals the dense path up to rounding; a test compares values and all gradients.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

HEIGHT = 8  # of the columns in which candidates are looked for
SAMPLE = 16  # tokens of a batch, at least, that suggest the smallest value kept
AMPLE = 1.5  # times as many entries are looked at


class Pattern(NamedTuple):
    """Kept entries, sorted by row, and the permutation that sorts them by latent."""

    rows: Int[Tensor, " entry"]
    cols: Int[Tensor, " entry"]
    row_starts: Int[Tensor, " rows_and_one"]
    by_latent: Int[Tensor, " entry"]
    latent_starts: Int[Tensor, " latents_and_one"]
    instances: int
    batch: int

    @property
    def d_sae(self) -> int:
        return (len(self.latent_starts) - 1) // self.instances

    def counts(self) -> Int[Tensor, "instance d_sae"]:
        """How often each latent was kept."""
        return rearrange(self.latent_starts.diff(), "(instance d_sae) -> instance d_sae", instance=self.instances)

    def l0(self) -> Float[Tensor, " instance"]:
        """Kept entries per token."""
        return self.counts().sum(1) / self.batch

    def only(self, keep: Bool[Tensor, " entry"]) -> "Pattern":
        """The pattern of a subset of the entries."""
        return make_pattern(self.rows[keep], self.cols[keep], self.instances, self.batch, self.d_sae)


def make_pattern(
    rows: Int[Tensor, " entry"], cols: Int[Tensor, " entry"], instances: int, batch: int, d_sae: int
) -> Pattern:
    """Indexes entries that are sorted by row."""
    latents = instances * d_sae
    if cols.is_cuda or latents > 2**16:
        by_latent = torch.argsort(cols, stable=True)
    else:  # a radix sort, which takes a fraction of the time
        by_latent = torch.from_numpy(cols.numpy().astype(np.uint16).argsort(kind="stable"))
    return Pattern(
        rows, cols, starts(rows, instances * batch), by_latent, starts(cols, latents), instances, batch
    )  # fmt: skip


def starts(places: Int[Tensor, " entry"], bags: int) -> Int[Tensor, " bags_and_one"]:
    """Where each bag begins once entries are sorted by their bag, and the end."""
    return F.pad(torch.bincount(places, minlength=bags).cumsum(0), (1, 0))


def pattern_at(index: Int[Tensor, " entry"], shape: torch.Size) -> Pattern:
    """The pattern of flat positions, row by row, in a tensor [instance batch d_sae]."""
    instances, batch, d_sae = shape
    rows = index // d_sae
    cols = index - (rows - rows // batch) * d_sae  # without a remainder, which takes as long as a division
    return make_pattern(rows, cols, instances, batch, d_sae)


def top_per_token(z: Float[Tensor, "instance batch d_sae"], k: list[float]) -> Int[Tensor, " entry"]:
    """Flat positions, row by row, of the k (rounded) largest positive entries of each token; k may differ between
    members."""
    wanted = [min(round(one), z.shape[-1]) for one in k]
    most, equal = max(wanted), len(set(wanted)) == 1
    values, latents = largest(z, most, ordered=not equal)
    kept = values > 0
    if not equal:
        kept &= torch.tensor(wanted, device=z.device)[:, None, None] > torch.arange(most, device=z.device)
    start = rearrange(torch.arange(z.shape[0] * z.shape[1], device=z.device) * z.shape[2], "(i b) -> i b 1", i=len(z))
    return (start + latents)[kept]


def largest(
    z: Float[Tensor, "instance batch d_sae"], k: int, *, ordered: bool = True
) -> tuple[Float[Tensor, "instance batch k"], Int[Tensor, "instance batch k"]]:
    """As `topk` over latents, twice as fast: the k largest of a row lie in the k columns with the largest maxima."""
    columns = -(-z.shape[-1] // HEIGHT)
    if 2 * k > columns:
        return z.topk(k, dim=-1, sorted=ordered)
    table = in_columns(z)
    best = table.amax(2).topk(k, dim=-1, sorted=False).indices
    values = table.gather(3, repeat(best, "i b k -> i b height k", height=HEIGHT)).flatten(2)
    values, place = values.topk(k, dim=-1, sorted=ordered)
    return values, best.gather(2, place % k) + place // k * columns


def in_columns(z: Float[Tensor, "*lead d_sae"]) -> Float[Tensor, "*lead height column"]:
    """Latents in columns of `HEIGHT`, padded with -inf where that does not come out even."""
    columns = -(-z.shape[-1] // HEIGHT)
    left = columns * HEIGHT - z.shape[-1]
    whole = F.pad(z, (0, left), value=float("-inf")) if left else z  # padding by nothing would copy
    return rearrange(whole, "... (height column) -> ... height column", column=columns)


def above(z: Float[Tensor, "batch d_sae"], level: float) -> Int[Tensor, " entry"]:
    """Flat positions, row by row, of the entries above `level`."""
    if z.is_cuda:
        return (z.flatten() > level).nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(z.detach().numpy().ravel() > level))  # a quarter of torch's time


def top_of_batch(
    z: Float[Tensor, "instance batch d_sae"], k: list[float]
) -> tuple[Int[Tensor, " entry"], Float[Tensor, " instance"]]:
    """Flat positions, row by row, of the k times batch largest positive entries of each member, and the smallest kept
    value.

    Looked at are the entries above a level that some of the tokens suggest, and all positive ones if these are too few.
    """
    found, smallest = [], []
    size = z.shape[1] * z.shape[2]
    for member, count in enumerate(k):
        flat, wanted = z[member].flatten(), min(round(count * z.shape[1]), size)
        candidates = above(z[member], likely_level(z[member], count))
        if len(candidates) < wanted:
            candidates = above(z[member], 0.0)
        kept = flat.index_select(0, candidates)
        if len(candidates) > wanted:
            best = (kept >= kth_largest(kept, wanted)).nonzero()[:wanted, 0]  # equal ones: the first
            candidates, kept = candidates.index_select(0, best), kept.index_select(0, best)
        found.append(candidates + member * size)
        smallest.append(kept.min() if len(kept) else torch.zeros((), device=z.device))
    return torch.cat(found), torch.stack(smallest)


def kth_largest(values: Float[Tensor, " n"], k: int) -> float:
    """The k-th largest value."""
    if values.is_cuda:
        return float(values.topk(k).values[-1])  # `kthvalue` has no deterministic kernel there
    return float(np.partition(values.numpy(), len(values) - k)[len(values) - k])


def likely_level(z: Float[Tensor, "batch d_sae"], k: float) -> float:
    """The value above which `AMPLE` times k entries per token lie in `SAMPLE` of the tokens, and at least 0."""
    some = z[:: max(1, len(z) // SAMPLE)].flatten()
    return max(0.0, float(some.topk(min(len(some), max(1, round(AMPLE * k * len(some) / z.shape[1])))).values[-1]))


def bags(
    table: Float[Tensor, "entry d"],
    index: Int[Tensor, " n"],
    starts: Int[Tensor, " bags_and_one"],
    weights: Float[Tensor, " n"],
) -> Float[Tensor, "bag d"]:
    """Weighted sums of rows of `table`, one sum per bag."""
    return F.embedding_bag(
        index.int(), table, starts.int(), mode="sum", per_sample_weights=weights, include_last_offset=True
    )


class _EncodeAt(torch.autograd.Function):
    """Pre-activations at the kept entries, with gradients for encoder and biases from these entries alone."""

    @staticmethod
    def forward(
        ctx: Any, W_enc: Tensor, b_enc: Tensor, b_in: Tensor, x: Tensor, values: Tensor, pattern: Pattern
    ) -> Tensor:
        ctx.save_for_backward(W_enc, b_in, x)
        ctx.pattern = pattern
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        W_enc, b_in, x = ctx.saved_tensors
        pattern, [gradient] = ctx.pattern, gradients
        instances, d_sae, _ = W_enc.shape
        ordered = gradient.index_select(0, pattern.by_latent)
        rows = pattern.rows.index_select(0, pattern.by_latent)
        if len(x) < instances:
            rows = rows % pattern.batch
        to_weight = bags(x.flatten(0, 1), rows, pattern.latent_starts, ordered)
        to_weight = rearrange(to_weight, "(instance d_sae) d -> instance d_sae d", instance=instances)
        to_bias = torch.zeros(instances * d_sae, device=x.device).index_add_(0, pattern.cols, gradient)
        to_bias = rearrange(to_bias, "(instance d_sae) -> instance d_sae", instance=instances)
        to_weight.addcmul_(to_bias[..., None], b_in[:, None], value=-1)
        to_input_bias = -(to_bias[:, None] @ W_enc)[:, 0] if ctx.needs_input_grad[2] else None
        return to_weight, to_bias, to_input_bias, None, None, None


class _DecodeAt(torch.autograd.Function):
    """Sum over kept latents of value times decoder row. Both gradients are found latent by latent, so that each row is
    read once. That of a row is a bag of output gradients; those of the values are the bag's gradients for its
    weights."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(values, W_dec)
        ctx.pattern = pattern
        out = bags(W_dec.flatten(0, 1), pattern.cols, pattern.row_starts, values)
        return rearrange(out, "(instance batch) d -> instance batch d", instance=pattern.instances)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, W_dec = ctx.saved_tensors
        pattern, order = ctx.pattern, ctx.pattern.by_latent
        gradient = gradients[0].flatten(0, 1).contiguous()
        with torch.enable_grad():
            weights = values.index_select(0, order).requires_grad_()
            rows = bags(gradient, pattern.rows.index_select(0, order), pattern.latent_starts, weights)
        [ordered] = torch.autograd.grad(rows, [weights], W_dec.flatten(0, 1))
        to_weight = rearrange(rows.detach(), "(instance d_sae) d -> instance d_sae d", instance=pattern.instances)
        return torch.empty_like(ordered).index_copy_(0, order, ordered), to_weight, None


def encode_at(
    x: Float[Tensor, "shared_or_instance batch d_in"],
    W_enc: Float[Tensor, "instance d_sae d_in"],
    b_enc: Float[Tensor, "instance d_sae"],
    b_in: Float[Tensor, "instance d_in"],
    z: Float[Tensor, "instance batch d_sae"],
    index: Int[Tensor, " entry"],
    pattern: Pattern,
) -> Float[Tensor, " entry"]:
    """Entries of z = (x - b_in) W_enc^T + b_enc, computed before without gradients, with their gradients attached.

    `index` are their flat positions in z, `pattern` is that of `pattern_at`.
    """
    value: Tensor = _EncodeAt.apply(W_enc, b_enc, b_in, x, z.flatten().index_select(0, index), pattern)  # type: ignore[no-untyped-call]
    return value


def decode_at(
    values: Float[Tensor, " entry"], W_dec: Float[Tensor, "instance d_sae d_out"], pattern: Pattern
) -> Float[Tensor, "instance batch d_out"]:
    """The reconstruction without bias."""
    found: Tensor = _DecodeAt.apply(values, W_dec, pattern)  # type: ignore[no-untyped-call]
    return found
