"""Direct path of every head to the logits: one batched edit of the last residual, against one hooked pass a head.

Instead: what a TransformerLens user writes, a hook on the last residual stream and one forward pass for each head (here
timed on a few heads and scaled to all). Ours: both cached passes are counted.
"""

import time
from collections.abc import Iterator

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from benchmarks import Row, default_model
from common.data.models import load_model, load_tokenizer
from common.interp.decoder import Decoder
from replications.ioi_circuit.collect import run_versions
from replications.ioi_circuit.dataset import Prompt, draw_prompts, vocabulary
from replications.ioi_circuit.direct_path import direct_residual

HEADS = [(23, 3), (29, 1), (10, 4)]


def compare() -> Iterator[Row]:
    """One row: all heads of the default model, on one prompt of each template and order."""
    folder = default_model()
    bridge = load_model(folder)
    rows = draw_prompts(vocabulary(load_tokenizer(folder), 40), [100], per_cell=1)
    with torch.no_grad():
        start = time.perf_counter()
        kept = run_versions(Decoder(bridge, 40), rows, batch_size=10, small_group=1)
        names = torch.tensor([[row.io_id, row.s_id] for row in rows])
        final, z, other = kept["final.original"], kept["z.original"], kept["z.abc"]
        effects = direct_residual(bridge, final, z, other, names, batch_size=10)
        ours = time.perf_counter() - start
        start = time.perf_counter()
        literal = torch.stack([hooked(bridge, rows, names, z, other, layer, head) for layer, head in HEADS], 1)
        a_head = (time.perf_counter() - start) / len(HEADS)
    found = torch.stack([effects[:, layer, head] for layer, head in HEADS], 1)
    gap = float(((found[..., 0] - found[..., 1]) - literal).abs().max())
    n_heads = bridge.cfg.n_layers * bridge.cfg.n_heads
    yield Row(
        f"direct path of {n_heads} heads, {len(rows)} prompts (model passes included)",
        ours,
        "TransformerBridge.run_with_hooks, one pass a head",
        a_head * n_heads,
        f"effects differ by at most {gap:.0e} logits",
    )


def hooked(
    bridge: TransformerBridge, rows: list[Prompt], names: Tensor, z: Tensor, other: Tensor, layer: int, head: int
) -> Tensor:
    """Change of the logit difference of each prompt: one forward pass with a hook on the last residual stream."""
    ends = torch.tensor([row.positions.end for row in rows])
    used, at = int(ends.max()) + 1, torch.arange(len(rows))
    tokens = torch.tensor([row.versions["original"].tokens for row in rows])[:, :used]
    attention = torch.tensor([row.attention for row in rows])[:, :used]
    change = (other[:, layer, head] - z[:, layer, head]) @ bridge.W_O[layer, head]
    before: list[Tensor] = []

    def swap(value: Tensor, hook: object) -> Tensor:
        before.append(value[at, ends].clone())
        value = value.clone()
        value[at, ends] += change
        return value

    name = f"blocks.{bridge.cfg.n_layers - 1}.hook_resid_post"
    patched = bridge.run_with_hooks(tokens, attention_mask=attention, fwd_hooks=[(name, swap)])[at, ends]
    clean = bridge.ln_final(before[0]) @ bridge.W_U
    effect: Tensor = (patched - clean).gather(1, names)
    return effect[:, 0] - effect[:, 1]
