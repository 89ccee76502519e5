"""A decoder-only transformer as plain tensor operations, for interventions that hooks make slow.

`Decoder` takes its weights from a `TransformerBridge` and repeats that model's forward pass piece by piece: norm,
queries, keys, values, rotation, attention, output, MLP. Each piece works on any set of positions and any leading axes,
so an intervention recomputes only what it changes. That may be one position, a window of late positions, or many
patched copies of one prompt at once. Keys and values stay per key-value head, as the model has them (grouped-query
attention).

It covers pre-norm models with LayerNorm or RMSNorm, learned or rotary positions (rotation in halves), and sequential
attention and MLP: GPT-2, Llama and their like. `Decoder` compares itself with the bridge when it is made and refuses
any model that it does not reproduce.

Positions are counted from 0; padding is on the right. Float32, no gradients unless the caller switches them on.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import einops
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.errors import UserError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TOLERANCE = 1e-3
PROBE_LENGTH = 6

Edit = Callable[[int, Tensor], Tensor]
"""Given a layer and its head outputs z [batch pos head d_head], returns the z to go on with."""


@dataclass
class Cache:
    """What one forward pass leaves behind, one entry per layer."""

    resid_pre: list[Float[Tensor, "batch pos d_model"]] = field(default_factory=list)
    resid_mid: list[Float[Tensor, "batch pos d_model"]] = field(default_factory=list)
    k: list[Float[Tensor, "batch pos kv_head d_head"]] = field(default_factory=list)
    v: list[Float[Tensor, "batch pos kv_head d_head"]] = field(default_factory=list)
    z: list[Float[Tensor, "batch pos head d_head"]] = field(default_factory=list)
    final: Tensor = field(default_factory=lambda: torch.empty(0))

    def chunk(self, parts: int) -> list["Cache"]:
        """The caches of equal parts of the batch, in order."""
        lists = {name: [each.chunk(parts) for each in value] for name, value in vars(self).items() if name != "final"}
        finals = self.final.chunk(parts)
        return [
            Cache(**{name: [each[place] for each in value] for name, value in lists.items()}, final=finals[place])
            for place in range(parts)
        ]


class Decoder:
    """The weights of a bridge and the pieces of its forward pass.

    Raises:
        UserError: the model is not of the covered kind, or its forward pass is not reproduced to `TOLERANCE`.
    """

    def __init__(self, bridge: "TransformerBridge", length: int) -> None:
        """`length` is the longest prompt in tokens. UserError if the model's context is shorter."""
        cfg = bridge.cfg
        if length > cfg.n_ctx:
            raise UserError(f"prompts of {length} tokens are longer than the model's context of {cfg.n_ctx}")
        if cfg.parallel_attn_mlp or cfg.normalization_type not in ("LN", "LNPre", "RMS", "RMSPre"):
            raise UserError("this model's blocks are not norm, attention, norm, MLP in sequence; leave it out")
        self.bridge = bridge
        self.n_layers, self.n_heads, self.d_head = cfg.n_layers, cfg.n_heads, cfg.d_head
        self.n_kv_heads = cfg.n_key_value_heads or cfg.n_heads
        self.group = self.n_heads // self.n_kv_heads
        blocks = bridge.blocks
        self._norms = [(_norm(block.ln1, cfg), _norm(block.ln2, cfg)) for block in blocks]
        self._q = [_projection(block.attn.W_Q, block.attn.b_Q) for block in blocks]
        self._k = [_projection(block.attn.W_K, block.attn.b_K) for block in blocks]
        self._v = [_projection(block.attn.W_V, block.attn.b_V) for block in blocks]
        self._o = [_output(block.attn.W_O, block.attn.b_O) for block in blocks]
        self.W_O = [block.attn.W_O.detach() for block in blocks]
        self.W_V = [block.attn.W_V.detach() for block in blocks]
        self._rotation: list[tuple[Tensor, Tensor]] | None = None
        device = self._q[0][0].device
        if cfg.positional_embedding_type == "rotary":
            self._rotation = self._measure_rotation(max(length, PROBE_LENGTH), device)
        self._check(device)

    def expanded(self) -> "Decoder":
        """The same model with keys and values for every query head: copies of those of its group."""
        wide = copy.copy(self)
        wide.group, wide.n_kv_heads = 1, self.n_heads
        wide._k, wide._v = ([self._copied(*each) for each in weights] for weights in (self._k, self._v))
        return wide

    def embed(self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d"]:
        """The residual stream before the first block."""
        seen: list[Tensor] = []
        hooks = [("blocks.0.hook_resid_pre", lambda value, hook: seen.append(value))]
        self.bridge.run_with_hooks(tokens, attention_mask=mask.long(), fwd_hooks=hooks, stop_at_layer=1)
        return seen[0]

    def norm(self, layer: int, which: int, x: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The norm before attention (`which` = 0) or before the MLP (1)."""
        normed: Tensor = self._norms[layer][which](x)
        return normed

    def queries(
        self, layer: int, normed: Float[Tensor, "*n d_model"], at: Int[Tensor, "*m"]
    ) -> Float[Tensor, "*n head d_head"]:
        """Rotated queries at positions `at`, which broadcast against the leading axes of `normed`."""
        return self._rotated(layer, self._split(normed, self._q[layer]), at)

    def keys(
        self, layer: int, normed: Float[Tensor, "*n d_model"], at: Int[Tensor, "*m"]
    ) -> Float[Tensor, "*n kv_head d_head"]:
        """Rotated keys at positions `at`."""
        return self._rotated(layer, self._split(normed, self._k[layer]), at)

    def values(self, layer: int, normed: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n kv_head d_head"]:
        """Values; they carry no position."""
        return self._split(normed, self._v[layer])

    def each_head(
        self,
        layer: int,
        kind: Literal["q", "k", "v"],
        normed: Float[Tensor, "head batch pos d_model"],
        at: Int[Tensor, " pos"],
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Queries, keys (rotated) or values when every head reads a stream of its own."""
        weight, bias = {"q": self._q, "k": self._k, "v": self._v}[kind][layer]
        per_head = einops.rearrange(weight, "(head d_head) d_model -> head d_head d_model", d_head=self.d_head)
        found = torch.einsum("hbpd,hed->bphe", normed, per_head)
        if bias is not None:
            found = found + einops.rearrange(bias, "(head d_head) -> head d_head", d_head=self.d_head)
        return found if kind == "v" else self._rotated(layer, found, at)

    def output_bias(self, layer: int) -> Tensor | float:
        """What an attention layer adds whatever its heads do."""
        bias = self._o[layer][1]
        return 0.0 if bias is None else bias

    def scores(
        self, q: Float[Tensor, "batch query head d_head"], k: Float[Tensor, "batch key kv_head d_head"]
    ) -> Float[Tensor, "batch head query key"]:
        """Attention scores before mask and softmax."""
        grouped = einops.rearrange(q, "b q (kv g) d -> b kv (g q) d", g=self.group)
        scores = grouped @ einops.rearrange(k, "b k kv d -> b kv d k") * self.d_head**-0.5
        per_head: Tensor = einops.rearrange(scores, "b kv (g q) k -> b (kv g) q k", g=self.group)
        return per_head

    def mix(
        self, pattern: Float[Tensor, "batch head query key"], v: Float[Tensor, "batch key kv_head d_head"]
    ) -> Float[Tensor, "batch query head d_head"]:
        """Values averaged with the attention pattern: the head outputs z."""
        grouped = einops.rearrange(pattern, "b (kv g) q k -> b kv (g q) k", g=self.group)
        z = grouped @ einops.rearrange(v, "b k kv d -> b kv k d")
        return einops.rearrange(z, "b kv (g q) d -> b q (kv g) d", g=self.group)

    def write(self, layer: int, z: Float[Tensor, "*n head d_head"]) -> Float[Tensor, "*n d_model"]:
        """What all heads of a layer add to the residual stream."""
        return F.linear(z.flatten(-2), *self._o[layer])

    def mlp(self, layer: int, mid: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """What the MLP of a layer adds to the residual stream `mid`, its norm included."""
        flat = self._norms[layer][1](mid).reshape(1, -1, mid.shape[-1])
        out: Tensor = self.bridge.blocks[layer].mlp.original_component(flat)
        return out.reshape(mid.shape)

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        edit: Edit | None = None,
        *,
        mlp_edit: Edit | None = None,
        keep: bool = False,
        patterns: Callable[[int, Tensor], None] | None = None,
        resume: tuple[int, Tensor] | None = None,
    ) -> Cache:
        """One pass over all positions. `edit` may replace the head outputs of each layer.

        Args:
            tokens: right-padded prompts.
            mask: True where a token is real.
            edit: see `Edit`.
            mlp_edit: the same for MLP outputs [batch pos d_model].
            keep: fill the lists of the cache; otherwise only `final` is set.
            patterns: called with each layer's attention pattern.
            resume: a layer and the residual stream before it; earlier layers are skipped.

        Returns:
            The cache, `final` being the residual stream after the last block.
        """
        cache = Cache()
        first, x = (0, self.embed(tokens, mask)) if resume is None else resume
        at = torch.arange(tokens.shape[1], device=tokens.device)
        allowed = (at[:, None] >= at[None, :]) & mask[:, None, None, :]
        allowed = allowed | torch.eye(len(at), dtype=torch.bool, device=tokens.device)
        for layer in range(first, self.n_layers):
            normed = self.norm(layer, 0, x)
            k, v = self.keys(layer, normed, at), self.values(layer, normed)
            pattern = masked_softmax(self.scores(self.queries(layer, normed, at), k), allowed)
            if patterns is not None:
                patterns(layer, pattern)
            z = self.mix(pattern, v)
            if keep:
                cache.resid_pre.append(x)
                cache.k.append(k)
                cache.v.append(v)
                cache.z.append(z)
            mid = x + self.write(layer, z if edit is None else edit(layer, z))
            if keep:
                cache.resid_mid.append(mid)
            out = self.mlp(layer, mid)
            x = mid + (out if mlp_edit is None else mlp_edit(layer, out))
        cache.final = x
        return cache

    def _split(self, normed: Tensor, weights: tuple[Tensor, Tensor | None]) -> Tensor:
        return einops.rearrange(F.linear(normed, *weights), "... (head d_head) -> ... head d_head", d_head=self.d_head)

    def _copied(self, matrix: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        def each(x: Tensor) -> Tensor:
            return einops.repeat(x, "(kv d) ... -> (kv g d) ...", d=self.d_head, g=self.group)

        return each(matrix), None if bias is None else each(bias)

    def _rotated(self, layer: int, x: Tensor, at: Tensor) -> Tensor:
        if self._rotation is None:
            return x
        cos, sin = (table[at][..., None, :] for table in self._rotation[layer])
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat([-high, low], -1) * sin

    def _measure_rotation(self, length: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Cosines and sines of all positions, as each layer of the bridge receives them."""
        seen: dict[str, Tensor] = {}

        def keep(value: Tensor, hook: Any) -> None:
            seen[hook.name] = value[0].detach()

        names = [f"blocks.{layer}.attn.hook_{part}" for layer in range(self.n_layers) for part in ("cos", "sin")]
        tokens = torch.zeros(1, length, dtype=torch.long, device=device)
        with torch.no_grad():
            self.bridge.run_with_hooks(
                tokens, attention_mask=torch.ones_like(tokens), fwd_hooks=[(name, keep) for name in names]
            )
        if any(seen[name].shape[-1] != self.d_head for name in names):
            raise UserError("this model rotates only part of each head, which is not covered; leave it out")
        return [(seen[cos], seen[sin]) for cos, sin in zip(names[::2], names[1::2], strict=True)]

    def _check(self, device: torch.device) -> None:
        """One padded and one full prompt through the bridge and through the pieces."""
        tokens = torch.arange(2 * PROBE_LENGTH, device=device).reshape(2, PROBE_LENGTH) % self.bridge.cfg.d_vocab
        mask = torch.ones_like(tokens, dtype=torch.bool)
        mask[0, -2:] = False
        last = f"blocks.{self.n_layers - 1}.hook_resid_post"
        seen: list[Tensor] = []
        with torch.no_grad():
            hooks = [(last, lambda value, hook: seen.append(value))]
            self.bridge.run_with_hooks(tokens, attention_mask=mask.long(), fwd_hooks=hooks)
            found = self.forward(tokens, mask).final
        difference = (found - seen[0])[mask].abs().max()
        if difference > TOLERANCE * seen[0][mask].abs().max().clamp(min=1):
            raise UserError("this model's forward pass is not that of GPT-2 or Llama; leave it out")


def masked_softmax(
    scores: Float[Tensor, "batch head query key"], allowed: Bool[Tensor, "..."]
) -> Float[Tensor, "batch head query key"]:
    """Attention pattern; `allowed` broadcasts and is True where a query may look."""
    return scores.masked_fill(~allowed, float("-inf")).softmax(-1)


def _norm(module: Any, cfg: Any) -> Callable[[Tensor], Tensor]:
    weight = module.weight.detach()
    bias = getattr(module, "bias", None)
    shape = (weight.shape[0],)
    if cfg.normalization_type.startswith("RMS"):
        return lambda x: F.rms_norm(x, shape, weight, cfg.eps)
    return lambda x: F.layer_norm(x, shape, weight, None if bias is None else bias.detach(), cfg.eps)


def _projection(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """From [head d_model d_head] to the matrix of one linear map onto all heads."""
    matrix = einops.rearrange(weight.detach(), "head d_model d_head -> (head d_head) d_model").contiguous()
    return matrix, None if bias is None else bias.detach().flatten()


def _output(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    matrix = einops.rearrange(weight.detach(), "head d_head d_model -> d_model (head d_head)").contiguous()
    return matrix, None if bias is None else bias.detach()
