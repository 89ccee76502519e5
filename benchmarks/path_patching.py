"""Path patching of many senders: recomputing only what a patch changes, against full passes with batched heads.

Instead: the passes of Wang et al. (2022, appendix B) with TransformerLens hooks as a careful user runs them. All heads
of a layer share a batch, and only heads of the sender's layer and above are frozen. The pass that reads the receivers
stops behind them, and the last position alone is unembedded. Both sides count their two cached passes and do the same
senders on the same prompts, of one template of mean length. TransformerLens has no sweep of it: its
`get_act_patch_direct_path` is another quantity (the edge alone, without MLPs in between, into each head apart).

What can be gained depends on the receivers. Into the logits ours computes one position of each layer above the sender.
For values at S2 it computes every position from S2 to END, as the peer computes all.
"""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from benchmarks import Task, default_model
from common.core.errors import UserError
from common.data.models import load_model, load_tokenizer
from common.interp.decoder import Decoder
from common.interp.path_patching import Receivers, path_patch
from replications.ioi_circuit.batches import Batch, passes
from replications.ioi_circuit.dataset import draw_prompts, vocabulary
from replications.ioi_circuit.residual import read_difference

PROMPTS, TEMPLATE = 2, 1  # 17 tokens, the mean over templates (14 to 20)
LAYERS = (4, 16)  # of the senders, all heads of each
SETS = {
    "logits": ("end", None),
    "values at S2": ("s2", Receivers("v", ((19, 0), (20, 0)))),
}
AGREE = 0.01  # logits


def tasks() -> Iterator[Task]:
    """Two receiver sets."""
    folder = default_model()
    bridge = load_model(folder)
    drawn = draw_prompts(vocabulary(load_tokenizer(folder), 40), [100], per_cell=PROMPTS // 2)
    batch = Batch([row for row in drawn if row.template == TEMPLATE], "cpu")
    decoder = Decoder(bridge, batch.mask.shape[1])
    n_senders = len(LAYERS) * decoder.n_heads
    for name in SETS:
        yield Task(
            f"path patching of {n_senders} heads into {name}, {len(batch.prompts)} prompts",
            functools.partial(ours, decoder, batch, name),
            "hooks of TransformerLens, heads of a layer batched, last position unembedded",
            functools.partial(theirs, bridge, batch, name),
            check,
        )


def check(mine: Tensor, other: Tensor) -> str:
    """How far both sides are from each other. UserError if rounding does not explain it."""
    gap = float((mine - other).abs().max())
    if not gap < AGREE:
        raise UserError(f"path patching differs by {gap:.2f} logits from the literal passes")
    return f"differ by at most {gap:.0e} logits"


@torch.no_grad()
def ours(decoder: Decoder, batch: Batch, name: str) -> Tensor:
    """The logit difference for each sender and prompt."""
    place, receivers = SETS[name]
    clean, partner = passes(decoder, batch)
    senders = {(layer, head) for layer in LAYERS for head in range(decoder.n_heads)}
    final = path_patch(decoder, clean, partner, batch.at(place), batch.at("end"), receivers, senders)  # type: ignore[arg-type]
    found: Tensor = read_difference(decoder.bridge, final, batch.names)
    return found


@torch.no_grad()
def theirs(bridge: TransformerBridge, batch: Batch, name: str) -> Tensor:
    """The same with hooks, one layer of senders at a time."""
    place, receivers = SETS[name]
    at, n_heads = batch.at(place), bridge.cfg.n_heads  # type: ignore[arg-type]
    _, clean = bridge.run_with_cache(batch.tokens("original"), names_filter=is_z, logits_to_keep=1)
    _, partner = bridge.run_with_cache(batch.tokens("abc"), names_filter=is_z, logits_to_keep=1)
    tokens, at, names = batch.tokens("original").repeat(n_heads, 1), at.repeat(n_heads), batch.names.repeat(n_heads, 1)
    rows, sender = torch.arange(len(tokens)), torch.arange(n_heads).repeat_interleave(len(batch.prompts))
    found = []
    for layer in LAYERS:

        def freeze(value: Tensor, hook: object, now: int, layer: int = layer) -> Tensor:
            z: Tensor = clean[f"blocks.{now}.attn.hook_z"].repeat(n_heads, 1, 1, 1)
            if now == layer:
                z[rows, at, sender] = partner[f"blocks.{now}.attn.hook_z"].repeat(n_heads, 1, 1, 1)[rows, at, sender]
            return z

        above = range(layer, bridge.cfg.n_layers if receivers is None else receivers.layers[-1])
        frozen = [(f"blocks.{now}.attn.hook_z", functools.partial(freeze, now=now)) for now in above]
        if receivers is None:
            logits = bridge.run_with_hooks(tokens, fwd_hooks=frozen, logits_to_keep=1)
        else:
            seen: dict[str, Tensor] = {}

            def keep(value: Tensor, hook: object, name: str, seen: dict[str, Tensor] = seen) -> None:
                seen[name] = value.clone()

            def patch(value: Tensor, hook: object, name: str, seen: dict[str, Tensor] = seen) -> Tensor:
                heads = [head for where, head in receivers.heads if name.startswith(f"blocks.{where}.")]
                value = value.clone()
                for head in heads:
                    value[rows, at, head] = seen[name][rows, at, head]
                return value

            places = [f"blocks.{one}.attn.hook_{receivers.kind}" for one in receivers.layers]
            watch = [(one, functools.partial(keep, name=one)) for one in places]
            bridge.run_with_hooks(tokens, fwd_hooks=[*frozen, *watch], stop_at_layer=receivers.layers[-1] + 1)
            patches = [(one, functools.partial(patch, name=one)) for one in places]
            logits = bridge.run_with_hooks(tokens, fwd_hooks=patches, logits_to_keep=1)
        two = logits[:, -1].gather(1, names)
        found.append((two[:, 0] - two[:, 1]).view(n_heads, -1))
    return torch.cat(found)


def is_z(name: str) -> bool:
    """Head outputs before W_O."""
    return name.endswith("hook_z")
