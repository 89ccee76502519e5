"""One prompt's forward pass with attention patterns and norm denominators held constant. It is the linear part of the
local replacement model (Ameisen et al. 2025, section "Constructing an attribution graph for a prompt").

With patterns A and denominators s constant and the outputs of all MLPs given, the residual stream is linear in
embeddings and MLP outputs:

    mid_l = x_l + sum_h A_lh norm(x_l) W_V W_O + bias,   x_{l+1} = mid_l + m_l,   norm(x) = gain (x - mean) / s + bias

(no mean for RMSNorm). `forward` runs this map, `back_norm` and `back_attention` its transpose. With these a whole batch
of targets is followed down the layers in one sweep (graph.py). Models with or without biases are covered: GPT-2, Llama,
and the small transformer of `common.toys`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class FrozenPass:
    """Constants of one prompt, and what its MLPs read and wrote."""

    tokens: Int[Tensor, " pos"]
    embeddings: Float[Tensor, "pos d_model"]
    patterns: Float[Tensor, "layer head pos pos"]
    W_V: Float[Tensor, "layer head d_model d_head"]
    W_O: Float[Tensor, "layer head d_head d_model"]
    gain_attn: Float[Tensor, "layer d_model"]
    gain_mlp: Float[Tensor, "layer d_model"]
    gain_final: Float[Tensor, " d_model"]
    scale_attn: Float[Tensor, "layer pos"]
    scale_mlp: Float[Tensor, "layer pos"]
    scale_final: Float[Tensor, " pos"]
    bias_attn: Float[Tensor, "layer d_model"]
    """what attention adds whatever it reads, that of its norm included"""
    bias_mlp: Float[Tensor, "layer d_model"]
    """of the norm before the MLP"""
    bias_final: Float[Tensor, " d_model"]
    mlp_in: Float[Tensor, "layer pos d_model"]
    mlp_out: Float[Tensor, "layer pos d_model"]
    W_U: Float[Tensor, "d_model d_vocab"]
    logits: Float[Tensor, " d_vocab"]
    """at the last position"""
    centred: bool
    """LayerNorm, not RMSNorm"""

    @property
    def n_layers(self) -> int:
        return len(self.patterns)

    @property
    def length(self) -> int:
        return len(self.tokens)

    def norm(
        self, x: Float[Tensor, "*n d_model"], gain: Tensor, scale: Float[Tensor, "*n"]
    ) -> Float[Tensor, "*n d_model"]:
        """The norm without its bias, its denominator given."""
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return x / scale[..., None] * gain

    def back_norm(
        self, g: Float[Tensor, "*n d_model"], gain: Tensor, scale: Float[Tensor, "*n"]
    ) -> Float[Tensor, "*n d_model"]:
        """Its transpose."""
        g = g * gain / scale[..., None]
        return g - g.mean(-1, keepdim=True) if self.centred else g

    def attend(self, layer: int, x: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_model"]:
        """What the heads of a layer add to the residual stream `x`, without biases."""
        v = einsum(
            self.norm(x, self.gain_attn[layer], self.scale_attn[layer]),
            self.W_V[layer],
            "pos d, head d e -> head pos e",
        )
        return einsum(self.patterns[layer] @ v, self.W_O[layer], "head pos e, head e d -> pos d")

    def back_attention(self, layer: int, g: Float[Tensor, "n pos d_model"]) -> Float[Tensor, "n pos d_model"]:
        """The transpose of `attend`, for many gradients at once."""
        n, pos, _ = g.shape
        heads = self.patterns.shape[1]
        to_z = rearrange(self.W_O[layer], "head e d -> d (head e)")
        z = rearrange(g.reshape(n * pos, -1) @ to_z, "(n pos) (head e) -> head pos (n e)", n=n, head=heads)
        v = rearrange(self.patterns[layer].mT @ z, "head pos (n e) -> (n pos) (head e)", n=n)
        back = (v @ rearrange(self.W_V[layer], "head d e -> (head e) d")).reshape(n, pos, -1)
        return self.back_norm(back, self.gain_attn[layer], self.scale_attn[layer].expand(n, -1))

    def forward(
        self, embeddings: Float[Tensor, "pos d_model"], writes: Float[Tensor, "layer pos d_model"]
    ) -> tuple[Float[Tensor, "layer pos d_model"], Float[Tensor, "pos d_model"]]:
        """What each MLP and the unembedding read, given embeddings and MLP outputs; zeros for both give the biases."""
        read, x = [], embeddings
        for layer, (_, mid) in enumerate(self.walk(embeddings, writes)):
            read.append(self.norm(mid, self.gain_mlp[layer], self.scale_mlp[layer]) + self.bias_mlp[layer])
            x = mid + writes[layer]
        return torch.stack(read), self.norm(x, self.gain_final, self.scale_final) + self.bias_final

    def walk(
        self, embeddings: Float[Tensor, "pos d_model"], writes: Float[Tensor, "layer pos d_model"]
    ) -> Iterator[tuple[Float[Tensor, "pos d_model"], Float[Tensor, "pos d_model"]]]:
        """Of each layer the stream before attention and before the MLP, given embeddings and MLP outputs."""
        x = embeddings
        for layer in range(self.n_layers):
            mid = x + self.attend(layer, x) + self.bias_attn[layer]
            yield x, mid
            x = mid + writes[layer]
