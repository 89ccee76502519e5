"""Reading the logits of names from the residual stream at END.

Logits are a known function of the last residual vector alone: final norm, then unembedding. `read_names` applies the
model's own norm module, so it is exact for LayerNorm and for RMSNorm, and returns logits relative to their mean over
the vocabulary. Softmax does not see that mean; without subtracting it the effect on one logit, unlike that on a
difference of logits, would depend on an arbitrary constant.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.core.errors import UserError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

TOLERANCE = 1e-3


def read_names(
    bridge: "TransformerBridge", residual: Float[Tensor, "batch read d_model"], names: Int[Tensor, "batch name"]
) -> Float[Tensor, "batch read name"]:
    """Logits of the names of each prompt, above the vocabulary mean, read from residual vectors at END.

    Products are summed vector by vector, so equal vectors give equal bits wherever they stand in the batch.
    """
    rows, bias = bridge.W_U.T, bridge.b_U
    mean_row, mean_bias = rows.mean(0), bias.mean()
    normalised = bridge.ln_final(residual)
    columns = [
        (normalised * (rows[name] - mean_row)[:, None]).sum(-1) + (bias[name] - mean_bias)[:, None]
        for name in names.unbind(1)
    ]
    return torch.stack(columns, dim=-1)


def read_difference(
    bridge: "TransformerBridge", residual: Float[Tensor, "*n batch d_model"], names: Int[Tensor, "batch two"]
) -> Float[Tensor, "*n batch"]:
    """logit(IO) - logit(S), without the vocabulary mean, which drops out."""
    rows, bias = bridge.W_U.T, bridge.b_U
    direction = rows[names[:, 0]] - rows[names[:, 1]]
    difference: Tensor = (bridge.ln_final(residual) * direction).sum(-1) + bias[names[:, 0]] - bias[names[:, 1]]
    return difference


def read_answer(bridge: "TransformerBridge", last: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_vocab"]:
    """Log-probabilities of the next token, float64, from the final residual stream."""
    logits: Tensor = bridge.ln_final(last) @ bridge.W_U + bridge.b_U
    return logits.double().log_softmax(-1)


def check_architecture(
    bridge: "TransformerBridge", tokens: Int[Tensor, "batch pos"], attention: Int[Tensor, "batch pos"]
) -> None:
    """Makes sure that heads write to the residual stream directly and that logits are read as assumed.

    Raises:
        UserError: the model caps its logits, or rescales what heads or MLPs write (as Gemma 2 and OLMo 2 do).
    """
    if bridge.cfg.output_logits_soft_cap > 0:
        raise UserError("this model caps its logits, which the direct path does not cover; leave it out")
    last = bridge.cfg.n_layers - 1
    parts = [f"blocks.{last}.{name}" for name in ("hook_resid_pre", "attn.hook_z", "hook_mlp_out", "hook_resid_post")]
    seen: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> None:
        seen[name] = value.detach()

    present = [name for name in parts if name in bridge.hook_dict]
    hooks = [(name, lambda value, hook, name=name: keep(name, value)) for name in present]
    logits = bridge.run_with_hooks(tokens, attention_mask=attention, fwd_hooks=hooks)
    before, z, mlp, after = (seen.get(name) for name in parts)
    assert before is not None
    assert z is not None
    assert after is not None
    total = before + torch.einsum("nphe,hed->npd", z, bridge.W_O[last])
    for written in (getattr(bridge.blocks[last].attn, "b_O", None), mlp):
        total = total if written is None else total + written
    real = attention.bool()
    if not _close(total[real], after[real]):
        raise UserError(
            "this model rescales what heads or MLPs write, which the direct path does not cover; leave it out"
        )
    names = tokens[:, :2]
    read = read_names(bridge, after, names)
    expected = torch.stack([logits[range(len(tokens)), :, name] for name in names.unbind(1)], -1)
    if not _close(read[real], (expected - logits.mean(-1, keepdim=True))[real]):
        raise UserError(
            "the logits of this model are not final norm and unembedding of the last residual; leave it out"
        )


def _close(measured: Tensor, expected: Tensor) -> bool:
    return bool((measured - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp(min=1))
