"""Writing: a model continues many prompts in one batch, and an edit of one activation may act on every row meanwhile.

An edit acts at the last prompt token and at every written one, as in Rimsky et al. 2024. Rows of one prompt then share
the keys and values of what comes before. Or it acts on the whole prompt too, as in Templeton et al. 2024. The first
position is never edited: it is an attention sink, whose norm is many times that of the others. Edits that steer are in
`common.saes.steering`. Hook names are TransformerLens'; the model is a plain Hugging Face one, which writes faster
(tests compare with hooks on a `TransformerBridge`).
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.core.errors import UserError
from common.data.models import fast_dtype, verify_folder
from common.interp.module_hooks import hooked, on_input, on_output

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import DynamicCache

Edit = Callable[[Tensor], Tensor]
ROWS = 16  # whose logits are worked on at a time, so that they stay in the processor's cache
PLACES = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out")


def load_writer(folder: Path, device: str = "cpu", dtype: torch.dtype | None = None) -> "PreTrainedModel":
    """The plain Hugging Face model of a folder; bfloat16 by default where the processor or GPU computes in it."""
    from transformers import AutoModelForCausalLM

    manifest, dtype = verify_folder(folder), dtype or fast_dtype()
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    print(f"loaded {manifest.name} ({manifest.processing}; {str(dtype).removeprefix('torch.')} on {device})")
    return model


def layer_and_place(hook: str) -> tuple[int, str]:
    """Layer and place of a hook name such as blocks.12.hook_resid_pre. UserError listing the places that work."""
    parts = hook.split(".")
    if len(parts) != 3 or parts[0] != "blocks" or not parts[1].isdigit() or parts[2] not in PLACES:
        raise UserError(f"cannot steer at '{hook}'; use blocks.<layer>. with one of {', '.join(PLACES)}")
    return int(parts[1]), parts[2]


@contextlib.contextmanager
def edited(model: "PreTrainedModel", hook: str, edit: Edit) -> Iterator[None]:
    """While open, the activation at `hook` is replaced by `edit` of it. UserError if the model lacks that place."""
    layer, place = layer_and_place(hook)
    blocks = getattr(model.base_model, "layers", None) or getattr(model.base_model, "h", None)
    if blocks is None or layer >= len(blocks):
        raise UserError(f"this model has no place '{hook}'; it has {len(blocks or [])} blocks of the known kinds")
    block = blocks[layer]
    attention, mlp = getattr(block, "self_attn", None) or getattr(block, "attn", None), block.mlp
    if hasattr(block, "post_feedforward_layernorm"):  # Gemma 2 adds what these norms make of both
        attention, mlp = block.post_attention_layernorm, block.post_feedforward_layernorm
    writer = {"hook_resid_post": block, "hook_attn_out": attention, "hook_mlp_out": mlp}.get(place)
    with hooked([] if writer else [(block, on_input(edit))], [(writer, on_output(edit))] if writer else []):
        yield


def behind_first(edit: Edit, prompts: list[list[int]]) -> Edit:
    """The same edit without the first position of each prompt; prompts are padded on the left to equal length."""
    wide, rows = max(map(len, prompts)), torch.arange(len(prompts))
    first = torch.tensor([wide - len(prompt) for prompt in prompts])

    def but_first(x: Tensor) -> Tensor:
        changed = edit(x).clone()
        changed[rows, first] = x[rows, first]
        return changed

    return but_first


@dataclass
class Begun:
    """Prompts read up to their last token: keys and values of the rows, the token that comes next, and masks."""

    cache: "DynamicCache"
    last: Int[Tensor, "row 1"]
    mask: Int[Tensor, "row pos"]
    position: Int[Tensor, "row 1"]


def begin(model: "PreTrainedModel", prompts: list[list[int]], rows: Int[Tensor, " row"]) -> Begun:
    """Reads each prompt once, all but its last token, and copies what was read to the rows that continue it.

    `rows` gives the prompt of each row. Prompts are padded on the left and masked. UserError for a prompt of fewer than
    two tokens.
    """
    from transformers.cache_utils import DynamicCache

    if min(map(len, prompts)) < 2:
        raise UserError("a prompt needs at least two tokens")
    wide, device = max(map(len, prompts)), model.device
    tokens = torch.tensor([[0] * (wide - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (wide - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    at = (torch.arange(wide, device=device) - (wide - lengths[:, None])).clamp(min=0)
    cache = DynamicCache(config=model.config)
    head = slice(None, -1)
    model.base_model(
        input_ids=tokens[:, head], attention_mask=mask[:, head], position_ids=at[:, head], past_key_values=cache,
        use_cache=True,
    )  # fmt: skip
    rows = rows.to(device)
    cache.batch_select_indices(rows)
    return Begun(cache, tokens[rows, -1:], mask[rows], lengths[rows, None] - 1)


def unembedded(model: "PreTrainedModel", final: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_vocab"]:
    """Logits in float32 of final states, norm included; capped where the model caps them (Gemma 2)."""
    logits: Tensor = model.get_output_embeddings()(final).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()


class Sampler:
    """Chooses the next token of each row: the most likely one, or one drawn at a temperature.

    Noise is a function of seed, step and the row's `stream` alone (the Gumbel trick). So rows of one stream differ only
    through their interventions, and nothing depends on how rows are batched. Forbidden tokens are struck out of the
    logits that it is given.
    """

    def __init__(self, temperature: float, streams: Int[Tensor, " row"], seed: int, forbidden: Iterable[int]) -> None:
        if not math.isfinite(temperature) or temperature < 0:
            raise UserError(f"the temperature must be a finite number >= 0, not {temperature}")
        self.temperature, self.seed, self.forbidden = temperature, seed, list(forbidden)
        distinct, self.stream = torch.unique(streams, return_inverse=True)
        self.distinct: list[int] = distinct.tolist()

    def __call__(self, logits: Float[Tensor, "row d_vocab"], step: int) -> Int[Tensor, "row 1"]:
        logits[:, self.forbidden] = float("-inf")
        if not self.temperature:
            return logits.argmax(-1, keepdim=True)
        noise = torch.stack([self._noise(stream, step, logits.shape[1]) for stream in self.distinct]).to(logits.device)
        parts = zip(torch.split(logits, ROWS), torch.split(self.stream.to(logits.device), ROWS), strict=True)
        return torch.cat([(part / self.temperature + noise[at]).argmax(-1, keepdim=True) for part, at in parts])

    def _noise(self, stream: int, step: int, size: int) -> Float[Tensor, " d_vocab"]:
        drawn = np.random.default_rng([self.seed, stream, step]).standard_exponential(size)  # some are 0 in float32
        return torch.from_numpy(-np.log(drawn)).float()


@torch.inference_mode()
def stream(
    model: "PreTrainedModel",
    prompts: list[list[int]],
    rows: Int[Tensor, " row"],
    hook: str,
    edit: Edit | None,
    new_tokens: int,
    sampler: Sampler,
    *,
    whole_prompt: bool = False,
) -> Iterator[Int[Tensor, " row"]]:
    """The next token of every row, step by step, each under its own edit, which may hold for the `whole_prompt` too
    (its first position excepted)."""
    if whole_prompt and edit is not None:
        own = [prompts[row] for row in rows.tolist()]
        with edited(model, hook, behind_first(edit, own)):
            begun = begin(model, own, torch.arange(len(rows)))
    else:
        begun = begin(model, prompts, rows)
    token, mask, position = begun.last, begun.mask, begun.position
    for step in range(new_tokens):
        with edited(model, hook, edit) if edit is not None else contextlib.nullcontext():
            hidden = model.base_model(
                input_ids=token, attention_mask=mask, position_ids=position, past_key_values=begun.cache, use_cache=True
            ).last_hidden_state
        token = sampler(unembedded(model, hidden[:, -1]), step)
        mask = torch.cat([mask, torch.ones_like(token)], 1)
        position = position + 1
        yield token[:, 0].cpu()


def generate(
    model: "PreTrainedModel",
    prompts: list[list[int]],
    rows: Int[Tensor, " row"],
    hook: str,
    edit: Edit | None,
    new_tokens: int,
    sampler: Sampler,
    *,
    whole_prompt: bool = False,
) -> Int[Tensor, "row new"]:
    """All tokens of `stream`."""
    steps = stream(model, prompts, rows, hook, edit, new_tokens, sampler, whole_prompt=whole_prompt)
    return torch.stack(list(steps), 1)


@torch.inference_mode()
def reread(
    model: "PreTrainedModel",
    prompts: list[list[int]],
    rows: Int[Tensor, " row"],
    written: Int[Tensor, "row new"],
    hook: str,
) -> tuple[Float[Tensor, "row new"], Float[Tensor, "row d_model"]]:
    """How the unsteered model reads texts: nats of each written token, mean activation at `hook` over these tokens."""
    begun = begin(model, prompts, rows)
    tokens = torch.cat([begun.last, written.to(begun.last.device)], 1)
    new = torch.arange(tokens.shape[1], device=tokens.device)
    seen: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        seen.append(x[:, 1:].float().mean(1).cpu())
        return x

    with edited(model, hook, keep):
        hidden = model.base_model(
            input_ids=tokens,
            attention_mask=torch.cat([begun.mask, torch.ones_like(tokens[:, 1:])], 1),
            position_ids=begun.position + new,
            past_key_values=begun.cache,
            use_cache=True,
        ).last_hidden_state
    nats = []
    for part, wanted in zip(torch.split(hidden[:, :-1], ROWS), torch.split(tokens[:, 1:], ROWS), strict=True):
        logits = unembedded(model, part)
        nats.append(logits.logsumexp(-1) - logits.gather(-1, wanted[..., None])[..., 0])
    return torch.cat(nats).cpu(), seen[0]
