"""Collects activations of a language model at one hook, the forward pass stopped right behind it.

Documents are cut into windows of a fixed length. Dropped is the first position of each window, where attention has
nothing else to look at (attention sink). Dropped are also special tokens, padding, and tokens whose norm exceeds 10
times the median (Marks et al., dictionary_learning). The model may run in bfloat16 where the processor computes in it;
shards then hold bfloat16.
"""

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.errors import UserError
from common.core.step import track
from common.data.corpora import Split, read_corpus
from common.data.models import encode

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

OUTLIER = 10.0  # times the median norm
AT_ONCE = 65_536  # activations that are moved at a time
CORPUS = 1_000_000  # documents of the n-th corpus are numbered from n times this on


class Windows(NamedTuple):
    """Right-padded token windows."""

    tokens: Int[Tensor, "window pos"]
    real: Bool[Tensor, "window pos"]
    document: Int[Tensor, " window"]


class Harvest(NamedTuple):
    """Kept activations, and how many tokens were dropped for which reason."""

    x: Float[Tensor, "token d_model"]
    document: Int[Tensor, " token"]
    token_id: Int[Tensor, " token"]
    dropped: dict[str, int]


def windows(
    folders: list[Path],
    split: Split,
    tokenizer: "PreTrainedTokenizerBase",
    length: int,
    budgets: list[int],
    *,
    per_document: int | None = None,
    seed: int = 0,
) -> Windows:
    """Windows of `length` tokens from documents in random order, up to a budget of tokens for each corpus.

    `per_document` limits the windows of one document, so that documents count as independent. UserError if a corpus is
    empty.
    """
    tokens, document = [], []
    for place, (folder, left) in enumerate(zip(folders, budgets, strict=True)):
        documents = read_corpus(folder, split)
        if not documents:
            raise UserError(f"corpus {folder.name} has no documents in split {split}; use a larger scale")
        order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed)).tolist()
        for at in order:
            ids = encode(tokenizer, documents[at].text)
            parts = [ids[start : start + length] for start in range(0, len(ids), length)]
            for part in parts[:per_document]:
                if left <= 0 or len(part) < length // 4:
                    break
                tokens.append(part)
                document.append(place * CORPUS + at)
                left -= len(part)
            if left <= 0:
                break
    if not tokens:
        raise UserError(f"no document of split {split} is long enough; lower the window length")
    wide = max(map(len, tokens))
    padded = torch.tensor([part + [0] * (wide - len(part)) for part in tokens])
    real = torch.tensor([[True] * len(part) + [False] * (wide - len(part)) for part in tokens])
    return Windows(padded, real, torch.tensor(document))


def check_hook(bridge: "TransformerBridge", hook: str) -> int:
    """The layer of a hook `blocks.<layer>.*`. UserError listing the nearest names if the model lacks it."""
    if hook not in bridge.hook_dict:
        near = difflib.get_close_matches(hook, list(bridge.hook_dict), 3)
        raise UserError(f"this model has no hook '{hook}'; near names: {', '.join(near) or 'none'}")
    parts = hook.split(".")
    if parts[0] != "blocks" or not parts[1].isdigit():
        raise UserError(f"hook '{hook}' belongs to no block; use one that begins with blocks.<layer>.")
    return int(parts[1])


def kept_tokens(
    tokens: Int[Tensor, "window pos"], real: Bool[Tensor, "window pos"], special: list[int]
) -> dict[str, Bool[Tensor, "window pos"]]:
    """Masks of what is dropped before the model is asked, by reason. They do not overlap."""
    first = torch.zeros_like(real)
    first[:, 0] = True
    is_special = torch.isin(tokens, torch.tensor(special, device=tokens.device)) & real & ~first
    return {"first position": first, "special token": is_special}


def run_to_hook(
    bridge: "TransformerBridge",
    tokens: Int[Tensor, "window pos"],
    real: Bool[Tensor, "window pos"],
    hooks: dict[str, int],
) -> dict[str, Float[Tensor, "window pos d_model"]]:
    """Activations at several hooks (name to layer) from one pass that stops behind the last one."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor, object], None]:
        def hook(value: Tensor, hook: object) -> None:
            seen[name] = value.detach()

        return hook

    stop = max(layer + (not name.endswith("hook_resid_pre")) for name, layer in hooks.items())
    places = []
    for name, layer in hooks.items():
        ends = name.endswith("hook_resid_pre") and layer > 0  # what a block reads is what the one before leaves behind
        places.append((f"blocks.{layer - 1}.hook_resid_post" if ends else name, keep(name)))
    bridge.run_with_hooks(tokens, attention_mask=real.long(), fwd_hooks=places, stop_at_layer=max(stop, 1))
    return seen


@torch.inference_mode()
def harvest(
    bridge: "TransformerBridge", source: Windows, hooks: list[str], special: list[int], batch: int, device: str
) -> dict[str, Harvest]:
    """Activations of all windows at each hook; the same tokens in the same order at every hook."""
    layers = {hook: check_hook(bridge, hook) for hook in hooks}
    masks = kept_tokens(source.tokens, source.real, special)
    used = source.real & ~torch.stack(list(masks.values())).any(0)
    by_length = source.real.sum(1).argsort(stable=True)  # windows of one length go together: little padding
    whole: dict[str, Tensor] = {}  # filled in place: nothing is held twice
    norms = {hook: torch.empty(int(used.sum())) for hook in hooks}
    documents, token_ids, at = [], [], 0
    for rows in track(list(torch.split(by_length, batch)), "harvest"):
        wide = int(source.real[rows].sum(1).max())
        tokens, real, use = (value[rows, :wide] for value in (source.tokens, source.real, used))
        found = run_to_hook(bridge, tokens.to(device), real.to(device), layers)
        ends = at + int(use.sum())
        for hook in hooks:
            x = found[hook].cpu()[use]
            whole.setdefault(hook, x.new_empty(len(norms[hook]), x.shape[1]))[at:ends] = x
            norms[hook][at:ends] = x.float().norm(dim=1)
        documents.append(source.document[rows, None].expand_as(tokens)[use])
        token_ids.append(tokens[use])
        at = ends
    good = torch.ones(at, dtype=torch.bool)
    for norm in norms.values():  # one mask for all hooks keeps them aligned
        good &= norm <= OUTLIER * norm.median()
    dropped = {reason: int(mask.sum()) for reason, mask in masks.items()} | {"outlier": int((~good).sum())}
    document, token_id = torch.cat(documents)[good], torch.cat(token_ids)[good]
    return {hook: Harvest(_packed(x, good), document, token_id, dropped) for hook, x in whole.items()}


def _packed(x: Float[Tensor, "token d_model"], good: Bool[Tensor, " token"]) -> Float[Tensor, "good d_model"]:
    """The good rows, moved to the front of `x`, whose memory they share."""
    at = 0
    for part, keep in zip(torch.split(x, AT_ONCE), torch.split(good, AT_ONCE), strict=True):
        rows = part[keep]
        x[at : at + len(rows)] = rows
        at += len(rows)
    return x[:at]


def batched(rows: int, size: int) -> Iterator[slice]:
    """Slices that cover range(rows)."""
    yield from (slice(start, min(start + size, rows)) for start in range(0, rows, size))
