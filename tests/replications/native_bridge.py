"""A small model of TransformerLens' own kind, for steps that take any bridge."""

from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge


def native_bridge(n_layers: int) -> TransformerBridge:
    """Two heads a layer, MLPs, eleven tokens; seeded."""
    cfg = TransformerBridgeConfig(
        n_layers=n_layers, d_model=16, n_heads=2, d_head=8, d_vocab=11, n_ctx=10, d_mlp=32, act_fn="relu",
        normalization_type="LN", attn_only=False, positional_embedding_type="standard",
        architecture="TransformerLensNative", seed=0,
    )  # fmt: skip
    return TransformerBridge.boot_native(cfg)
