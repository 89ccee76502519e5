"""Sweeps over all heads: recomputing only what a patch changes, against one or two full passes a head.

On prompts of one template of mean length. *Activation patching* of every head at END: ours against
`transformer_lens.patching`, TransformerLens' own sweep of the same quantity, on the same prompts. *Path patching* into
five receiver sets (the paper's kinds, with fixed heads), one row each: ours against the four passes of Wang et al. with
TransformerLens hooks, which is what published code does. TransformerLens has no sweep of it: its
`get_act_patch_direct_path` is another quantity (the edge alone, without MLPs in between, at all positions, into each
head apart). The other side runs a few heads and is scaled to all; our side counts its cached passes, theirs does not.
The last row is all five sets on `MANY` prompts.

What can be gained depends on the prompts, since with more of them the ratio falls to that of the arithmetic, and on the
receivers. Into the logits one position of each layer below is computed, for queries
at END one position of each layer; for values and keys every position from the receiver to END, as the four passes must.
"""

import functools
import time
from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor
from transformer_lens import patching as tl
from transformer_lens.model_bridge import TransformerBridge

from benchmarks import Row, default_model
from common.data.models import load_model, load_tokenizer
from common.interp.decoder import Cache, Decoder
from common.interp.path_patching import Receivers, patch_heads, path_patch
from replications.ioi_circuit.batches import Batch, passes
from replications.ioi_circuit.dataset import draw_prompts, vocabulary
from replications.ioi_circuit.residual import read_difference

PROMPTS, MANY = 8, 64
TEMPLATE = 1  # of 17 tokens, the mean over templates (14 to 20)
SENDERS = [(16, 0), (10, 4)]
SETS = {
    "logits": ("end", None),
    "queries at END": ("end", Receivers("q", ((23, 0), (23, 3)))),
    "values at S2": ("s2", Receivers("v", ((19, 0), (20, 0)))),
    "keys at S2": ("s2", Receivers("k", ((19, 0), (20, 0)))),
    "keys at S1+1": ("s1_next", Receivers("k", ((17, 1),))),
}


def compare() -> Iterator[Row]:
    """Activation patching of heads at END, then path patching into five receiver sets."""
    folder = default_model()
    bridge = load_model(folder)
    drawn = draw_prompts(vocabulary(load_tokenizer(folder), 40), [100], per_cell=MANY // 2)
    prompts = [row for row in drawn if row.template == TEMPLATE]
    batch, many = Batch(prompts[:: MANY // PROMPTS], "cpu"), Batch(prompts, "cpu")
    decoder = Decoder(bridge, batch.mask.shape[1])
    with torch.no_grad():
        yield activation_row(bridge, decoder, batch)
        yield from (path_row(bridge, decoder, batch, name, SENDERS) for name in SETS)
        rows = [path_row(bridge, decoder, many, name, SENDERS[:1]) for name in SETS]
    yield Row(
        f"path patching into all five receiver sets, {MANY} prompts",
        sum(row.ours for row in rows),
        rows[0].instead,
        sum(row.theirs for row in rows),
        max((row.check for row in rows), key=lambda text: float(text.split()[4])),
    )


def activation_row(bridge: TransformerBridge, decoder: Decoder, batch: Batch) -> Row:
    """Denoising: each head's output on the prompt, put into the run on the ABC partner."""
    start, end = time.perf_counter(), batch.at("end")
    clean, partner = passes(decoder, batch)
    found = patch_heads(decoder, partner, clean, range(decoder.n_layers), end, end)
    ours_values = read_difference(bridge, found, batch.names).mean(1)
    ours = time.perf_counter() - start
    _, cache = bridge.run_with_cache(batch.tokens("original"), names_filter=lambda name: name.endswith("hook_z"))

    def metric(logits: Tensor) -> Tensor:
        last = logits[:, -1].gather(1, batch.names)
        return (last[:, 0] - last[:, 1]).mean()

    rows = pd.DataFrame([(layer, int(end[0]), head) for layer, head in SENDERS], columns=["layer", "pos", "head"])
    start = time.perf_counter()
    theirs_values = tl.get_act_patch_attn_head_out_by_pos(
        bridge, batch.tokens("abc"), cache, metric, index_df=rows, index_axis_names=None
    )
    a_head = (time.perf_counter() - start) / len(SENDERS)
    mine = ours_values[[layer * decoder.n_heads + head for layer, head in SENDERS]]
    gap = float((mine - theirs_values.flatten()).abs().max())
    heads = decoder.n_layers * decoder.n_heads
    return Row(
        f"activation patching of {heads} heads at END, {PROMPTS} prompts",
        ours,
        "transformer_lens.patching, one pass a head",
        a_head * heads,
        f"differ by at most {gap:.0e} logits",
    )


def path_row(
    bridge: TransformerBridge, decoder: Decoder, batch: Batch, name: str, senders: list[tuple[int, int]]
) -> Row:
    """All heads into one receiver set; the other side takes one or two passes a head, its cached passes not counted."""
    place, receivers = SETS[name]
    below = decoder.n_layers if receivers is None else receivers.layers[-1]
    start = time.perf_counter()
    clean, partner = passes(decoder, batch)
    final = path_patch(decoder, clean, partner, batch.at(place), batch.at("end"), receivers)  # type: ignore[arg-type]
    ours_values = read_difference(bridge, final, batch.names)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    slow = torch.stack([literal(bridge, batch, (clean, partner), sender, place, receivers) for sender in senders])
    a_head = (time.perf_counter() - start) / len(senders)
    gap = float((slow - ours_values[[layer * decoder.n_heads + head for layer, head in senders]]).abs().max())
    return Row(
        f"path patching of {below * decoder.n_heads} heads into {name}, {len(batch.prompts)} prompts",
        ours,
        "four passes with TransformerLens hooks",
        a_head * below * decoder.n_heads,
        f"differ by at most {gap:.0e} logits",
    )


def literal(
    bridge: TransformerBridge,
    batch: Batch,
    caches: tuple[Cache, Cache],
    sender: tuple[int, int],
    place: str,
    receivers: Receivers | None,
) -> Tensor:
    """Passes C and D of appendix B with hooks; the logit difference of each prompt."""
    clean, partner = caches
    tokens, at = batch.tokens("original"), batch.at(place)  # type: ignore[arg-type]
    rows = torch.arange(len(at))
    seen: dict[int, Tensor] = {}

    def freeze(value: Tensor, hook: object, layer: int) -> Tensor:
        frozen = clean.z[layer].clone()
        if layer == sender[0]:
            frozen[rows, at, sender[1]] = partner.z[layer][rows, at, sender[1]]
        return frozen

    def keep(value: Tensor, hook: object, layer: int) -> None:
        seen[layer] = value.clone()

    def patch(value: Tensor, hook: object, layer: int) -> Tensor:
        value = value.clone()
        for where, head in receivers.heads if receivers else ():
            if where == layer:
                value[rows, at, head] = seen[layer][rows, at, head]
        return value

    frozen = [
        (f"blocks.{n}.attn.hook_z", functools.partial(freeze, layer=n)) for n in range(bridge.cfg.n_layers)
    ]  # fmt: skip
    if receivers is None:
        logits = bridge.run_with_hooks(tokens, fwd_hooks=frozen)
    else:
        names = {layer: f"blocks.{layer}.attn.hook_{receivers.kind}" for layer in receivers.layers}
        watch = [(name, functools.partial(keep, layer=layer)) for layer, name in names.items()]
        bridge.run_with_hooks(tokens, fwd_hooks=[*frozen, *watch])
        patches = [(name, functools.partial(patch, layer=layer)) for layer, name in names.items()]
        logits = bridge.run_with_hooks(tokens, fwd_hooks=patches)
    last: Tensor = logits[:, -1].gather(1, batch.names)
    return last[:, 0] - last[:, 1]
