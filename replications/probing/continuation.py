"""Many short continuations of one prefix: the prefix is computed once, its keys and values serve all of them.

Continuations are padded on the left, so that their ends stand in one column; padding is masked as a key. What follows
a patched column can be run again alone (`rerun`), with the keys and values of the columns before it. Residual streams
are TransformerLens' `blocks.<layer>.hook_resid_pre`, index `n_layers` being the last block's `hook_resid_post`.
Position 0, the attention sink, belongs to the prefix, so no read or edited position is position 0.
"""

from dataclasses import dataclass

import einops
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.interp.decoder import Decoder


@dataclass
class Past:
    """Keys and values of some positions, one tensor a layer; batch 1 where all continuations share them."""

    k: list[Float[Tensor, "batch pos kv_head d_head"]]
    v: list[Float[Tensor, "batch pos kv_head d_head"]]
    mask: Bool[Tensor, "batch pos"]


@dataclass
class Run:
    """What a pass over continuations leaves behind; the residual stream perhaps of the last columns alone."""

    resid: Float[Tensor, "layer batch kept d_model"]
    past: Past
    at: Int[Tensor, "batch pos"]

    def picked(self, rows: list[int]) -> "Run":
        """Some of the continuations, each as often as it is named."""
        past = Past([k[rows] for k in self.past.k], [v[rows] for v in self.past.v], self.past.mask[rows])
        return Run(self.resid[:, rows], past, self.at[rows])

    def before(self, column: int) -> Past:
        """Keys and values of the columns before `column` (negative: counted from the end)."""
        mask = self.past.mask[:, :column]
        return Past([k[:, :column] for k in self.past.k], [v[:, :column] for v in self.past.v], mask)


def left_padded(rows: list[list[int]], device: str) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Tokens with zeros before them, and where a token is real."""
    length = max(map(len, rows))
    tokens = torch.tensor([[0] * (length - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[False] * (length - len(row)) + [True] * len(row) for row in rows], device=device)
    return tokens, mask


def places(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Of each token among the real ones of its row; padding shares the place of the first."""
    own = torch.arange(mask.shape[1], device=mask.device) - (~mask).sum(1, keepdim=True)
    return own.clamp(min=0)


class Prefix:
    """The tokens that all continuations begin with."""

    @torch.no_grad()
    def __init__(self, decoder: Decoder, tokens: list[int], stop: int | None = None) -> None:
        """`stop`: the block before which all continuations end (default: none)."""
        self.decoder, self.tokens = decoder, tokens
        row = torch.tensor([tokens], device=decoder.W_O[0].device)
        mask = torch.ones_like(row, dtype=torch.bool)
        x = decoder.embed(row, mask)
        self.past = _pass(decoder, x, 0, stop, torch.arange(len(tokens), device=row.device)[None], mask, []).past

    @torch.no_grad()
    def run(self, rows: list[list[int]], stop: int | None = None) -> Run:
        """All continuations `rows` through the blocks before `stop` (default: all)."""
        tokens, mask = left_padded(rows, str(self.decoder.W_O[0].device))
        at = len(self.tokens) + places(mask)
        return _pass(self.decoder, self._embed(tokens, at), 0, stop, at, mask, [self.past])

    @torch.no_grad()
    def branch(self, stems: Run, which: list[int], rows: list[list[int]], stop: int | None = None) -> Run:
        """Continuations of continuations: each of `rows` behind one of `stems`; residual streams of the new columns."""
        before = stems.picked(which)
        tokens, mask = left_padded(rows, str(self.decoder.W_O[0].device))
        at = before.at[:, -1:] + 1 + places(mask)
        run = _pass(self.decoder, self._embed(tokens, at), 0, stop, at, mask, [self.past, before.past])
        return joined(before, run, 0)

    @torch.no_grad()
    def extend(self, run: Run, tail: list[int]) -> Run:
        """The same tokens behind every continuation."""
        device = run.at.device
        at = run.at[:, -1:] + 1 + torch.arange(len(tail), device=device)
        x = self._embed(torch.tensor([tail], device=device).expand(len(at), -1), at)
        mask = torch.ones_like(at, dtype=torch.bool)
        return _pass(self.decoder, x, 0, None, at, mask, [self.past, run.past])

    @torch.no_grad()
    def rerun(self, run: Run, layer: int, x: Float[Tensor, "batch pos d_model"]) -> Run:
        """The last columns, as many as `x` has, from `layer` on with the residual stream `x`; earlier columns stay."""
        column = -x.shape[1]
        pasts = [self.past, run.before(column)]
        return _pass(self.decoder, x, layer, None, run.at[:, column:], run.past.mask[:, column:], pasts)

    def _embed(
        self, tokens: Int[Tensor, "batch pos"], at: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Residual streams before the first block, each token at its own place."""
        if self.decoder.bridge.cfg.positional_embedding_type == "rotary":  # a token's embedding knows no place
            return self.decoder.embed(tokens, torch.ones_like(tokens, dtype=torch.bool))
        full = torch.zeros(len(tokens), int(at.max()) + 1, dtype=torch.long, device=tokens.device)
        for column in range(tokens.shape[1]):  # in order: padding shares its place with the first real token
            full[torch.arange(len(tokens)), at[:, column]] = tokens[:, column]
        embedded = self.decoder.embed(full, torch.ones_like(full, dtype=torch.bool))
        return embedded.gather(1, at[..., None].expand(-1, -1, embedded.shape[-1]))


def joined(run: Run, tail: Run, columns: int) -> Run:
    """The last `columns` of a pass and its extension as one pass over both, for `rerun`."""
    layers = range(len(tail.past.k))
    past = Past(
        [torch.cat([run.past.k[layer], tail.past.k[layer]], 1) for layer in layers],
        [torch.cat([run.past.v[layer], tail.past.v[layer]], 1) for layer in layers],
        torch.cat([run.past.mask, tail.past.mask], 1),
    )
    kept = run.resid[:, :, run.resid.shape[2] - columns :]
    return Run(torch.cat([kept, tail.resid], 2), past, torch.cat([run.at, tail.at], 1))


def _pass(
    decoder: Decoder,
    x: Float[Tensor, "batch pos d_model"],
    first: int,
    stop: int | None,
    at: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    pasts: list[Past],
) -> Run:
    resid, keys, values = [], [], []
    steps = torch.arange(x.shape[1], device=x.device)
    own = (steps[:, None] >= steps) & mask[:, None, :] | torch.eye(len(steps), dtype=torch.bool, device=x.device)
    seen = [past.mask[:, None, :].expand(len(x), len(steps), -1) for past in pasts]
    allowed = torch.cat([*seen, own], -1)[:, None]
    for layer in range(first, decoder.n_layers if stop is None else stop):
        resid.append(x)
        normed = decoder.norm(layer, 0, x)
        k, v = decoder.keys(layer, normed, at), decoder.values(layer, normed)
        all_k = torch.cat([*(past.k[layer].expand(len(x), -1, -1, -1) for past in pasts), k], 1)
        all_v = torch.cat([*(past.v[layer].expand(len(x), -1, -1, -1) for past in pasts), v], 1)
        scores = decoder.scores(decoder.queries(layer, normed, at), all_k)
        pattern = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
        mid = x + decoder.write(layer, decoder.mix(pattern, all_v))
        x = mid + decoder.mlp(layer, mid)
        keys.append(k)
        values.append(v)
    return Run(torch.stack([*resid, x]), Past(keys, values, mask), at)


def logits(decoder: Decoder, final: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_vocab"]:
    """Next-token logits of final residual streams."""
    weight = decoder.bridge.unembed.W_U.detach()
    normed = decoder.bridge.ln_final(final.reshape(1, -1, final.shape[-1])).detach().reshape(final.shape)
    return einops.einsum(normed, weight, "... d, d token -> ... token")  # type: ignore[no-any-return]
