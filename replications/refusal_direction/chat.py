"""A chat model at the tokens that matter: prompts in its chat format, activations, first tokens, and interventions.

Interventions are hooks on the Hugging Face modules, one direction per row of the batch, so many candidates or nulls
share a pass:

    ablation    x <- x - (x . r) r at the input of every block and at every attention and MLP output
    affine      x <- x + (c - x . r) r at the input of every block and of the last norm, with a number c for each
    addition    x <- x + v at the input of one block

All leave position 0 out, an attention sink. Prompts are padded on the left with mask and explicit position ids, so the
last token is column -1 of every row. `resume` starts from what `before_block` gives.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from common.core.errors import UserError
from common.data.models import chat_prompt, encode
from common.interp.blocks import only_blocks
from common.interp.module_hooks import hooked, on_input, on_output, reading
from replications.refusal_direction.prefixes import Tree


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the left. `mask` is 1 where a token is real."""

    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]

    @property
    def places(self) -> Int[Tensor, "batch pos"]:
        """Position ids: the first real token has 0."""
        return (self.mask.cumsum(1) - 1).clamp(min=0)

    @property
    def prompts(self) -> list[list[int]]:
        """Token ids without padding."""
        return [ids[mask.bool()].tolist() for ids, mask in zip(self.ids, self.mask, strict=True)]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Tensor) -> "Batch":
        return Batch(self.ids[rows], self.mask[rows])

    def repeat(self, times: int) -> "Batch":
        """All prompts, `times` times over; the copies of one prompt are `len(self)` rows apart."""
        return Batch(self.ids.repeat(times, 1), self.mask.repeat(times, 1))


def chat_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of one user message in the model's chat format, no system message.

    Raises:
        UserError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "this model has no chat template, and the refusal direction is read behind the instruction of a chat: "
            "choose a chat model with MODELS=..."
        )
    return encode(tokenizer, chat_prompt(tokenizer, text))


def chat_batch(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], device: str = "cpu") -> Batch:
    """One user message each, as in `chat_ids`."""
    return padded([chat_ids(tokenizer, text) for text in texts], device)


def padded(rows: list[list[int]], device: str | torch.device = "cpu") -> Batch:
    """Token ids padded on the left."""
    ids = [torch.tensor(row, device=device) for row in rows]
    masks = [torch.ones_like(row) for row in ids]
    return Batch(*(pad_sequence(part, batch_first=True, padding_side="left") for part in (ids, masks)))


def answered(batch: Batch, answers: Int[Tensor, "prompt step"]) -> Batch:
    """The prompts with their answers behind them."""
    rows = zip(batch.prompts, answers.tolist(), strict=True)
    return padded([[*prompt, *answer] for prompt, answer in rows], batch.ids.device)


def n_post_instruction(tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of template tokens behind the instruction."""
    first, second = (chat_batch(tokenizer, [text]).ids[0].tolist() for text in ("Tell me a story", "Why is it so?"))
    count = 0
    while first[-1 - count] == second[-1 - count]:
        count += 1
    return count


def layers(model: Any) -> torch.nn.ModuleList:
    """The blocks. UserError for a model whose blocks are not found where Llama, Qwen and Gemma have them."""
    found = getattr(getattr(model, "model", None), "layers", None)
    if found is None or not all(hasattr(block, "self_attn") and hasattr(block, "mlp") for block in found):
        raise UserError("this model's blocks are not found at model.layers with self_attn and mlp; leave it out")
    return found  # type: ignore[no-any-return]


def unit(v: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
    """Length 1; the zero vector stays zero, so ablating it changes nothing."""
    return v / v.norm(dim=-1, keepdim=True).clamp(min=1e-8)  # type: ignore[no-any-return]


def spread(vectors: Float[Tensor, "*draw d_model"], rows: int) -> Float[Tensor, "*row d_model"]:
    """One of the vectors for each row, of which neighbouring ones share one. A single vector stays as it is."""
    return vectors if vectors.ndim == 1 else vectors[torch.arange(rows, device=vectors.device) * len(vectors) // rows]


@contextlib.contextmanager
def ablating(
    model: Any,
    direction: Float[Tensor, " d_model"] | Float[Tensor, "row d_model"] | Float[Tensor, "row k d_model"],
    *,
    everywhere: bool = False,
) -> Iterator[None]:
    """Removes the direction, or each row its own, from all that blocks read and write, at every position but the first;
    `everywhere`: there too, as orthogonalised weights do. Directions have any length; a zero vector does nothing. With
    three axes: the orthonormal rows of a subspace."""
    basis = (direction if direction.ndim == 3 else unit(direction.float()).unsqueeze(-2)).to(model.dtype)
    basis = basis if basis.ndim == 3 else basis[None]

    def change(x: Tensor) -> Tensor:
        return -(x @ basis.mT) @ basis

    blocks = layers(model)
    written = [part for block in blocks for part in (block.self_attn, block.mlp)]
    with _changing(model, change, blocks, written, everywhere):
        yield


@contextlib.contextmanager
def setting(model: Any, direction: Float[Tensor, " d_model"], levels: Float[Tensor, " layer"]) -> Iterator[None]:
    """Sets the projection on the direction to a number at the input of each block, that of the last one at the last
    norm too, at every position but the first (affine concept editing, Marshall et al. 2024, arXiv 2411.09003)."""
    r = unit(direction.float()).to(model.dtype)
    with contextlib.ExitStack() as stack:
        for module, level in zip(
            [*layers(model), model.model.norm], [*levels.tolist(), float(levels[-1])], strict=True
        ):

            def change(x: Tensor, level: float = level) -> Tensor:
                return (level - x @ r)[..., None] * r

            stack.enter_context(_changing(model, change, [module], [], False))
        yield


@contextlib.contextmanager
def adding(model: Any, layer: int, vector: Float[Tensor, "row d_model"] | Float[Tensor, " d_model"]) -> Iterator[None]:
    """Adds the vector, or to each row its own, before block `layer`, at every position but the first."""
    v = vector.to(model.dtype)
    v = v if v.ndim == 1 else v[:, None]
    with _changing(model, lambda _: v, [layers(model)[layer]], [], False):
        yield


@contextlib.contextmanager
def _changing(
    model: Any, change: Callable[[Tensor], Tensor], read: Iterable[Any], written: Iterable[Any], everywhere: bool
) -> Iterator[None]:
    """x <- x + change(x) at the inputs of the modules `read` and the outputs of `written`. Position ids, which tell the
    first position, are those that the model is given, or count from 0."""
    given: list[Tensor | None] = [None]

    def note(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        given[0] = options.get("position_ids")

    def changed(x: Tensor) -> Tensor:
        if everywhere:
            return x + change(x)
        places = torch.arange(x.shape[1], device=x.device)[None] if given[0] is None else given[0]
        return x + (places > 0)[..., None] * change(x)

    noted = model.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with hooked([(one, on_input(changed)) for one in read], [(one, on_output(changed)) for one in written]):
            yield
    finally:
        noted.remove()


def final_states(
    model: Any, batch: Batch | Tree, resume: tuple[int, Tensor] | None = None
) -> Float[Tensor, "batch pos d_model"]:
    """What is unembedded, norm included. `resume`: a layer and the residual stream before it."""
    options: dict[str, Any] = {"attention_mask": batch.mask, "position_ids": batch.places, "use_cache": False}
    if resume is None:
        return model.model(input_ids=batch.ids, **options).last_hidden_state  # type: ignore[no-any-return]
    with only_blocks(model.model, "layers", resume[0]):
        return model.model(inputs_embeds=resume[1], **options).last_hidden_state  # type: ignore[no-any-return]


@torch.inference_mode()
def last_logits(model: Any, batch: Batch) -> Float[Tensor, "batch d_vocab"]:
    """Logits of the first token of the answer, float32."""
    return model.lm_head(final_states(model, batch)[:, -1]).float()  # type: ignore[no-any-return]


@torch.inference_mode()
def residuals(model: Any, batch: Batch | Tree, keep: int = 0) -> Float[Tensor, "batch pos layer d_model"]:
    """Residual stream before each block at the last `keep` positions, or at all."""
    return torch.stack(_inputs(model, batch, layers(model), keep)[0], 2)


@torch.inference_mode()
def residuals_and_logits(
    model: Any, batch: Batch, keep: int = 0
) -> tuple[Float[Tensor, "batch pos layer d_model"], Float[Tensor, "batch d_vocab"]]:
    """As `residuals`, and the logits of the first token of the answer, float32, from the same pass."""
    seen, final = _inputs(model, batch, layers(model), keep)
    return torch.stack(seen, 2), model.lm_head(final[:, -1]).float()


def before_block(model: Any, batch: Batch | Tree, layer: int, keep: int = 0) -> Float[Tensor, "batch pos d_model"]:
    """Residual stream before block `layer` at the last `keep` positions, or at all; the blocks above it do not run."""
    with torch.inference_mode(), only_blocks(model.model, "layers", end=layer + 1):
        return _inputs(model, batch, layers(model)[-1:], keep)[0][0]


def _inputs(
    model: Any, batch: Batch | Tree, blocks: Iterable[Any], keep: int
) -> tuple[list[Float[Tensor, "batch kept d_model"]], Float[Tensor, "batch pos d_model"]]:
    """What the blocks read, and the final states."""
    with reading(blocks, keep) as seen:
        final = final_states(model, batch)
    return seen, final


@torch.inference_mode()
def greedy(
    model: Any, batch: Batch, new_tokens: int
) -> tuple[Int[Tensor, "batch step"], Float[Tensor, "batch d_vocab"]]:
    """The first greedy tokens of each answer, and the logits of the very first, float32.

    A loop of its own: `generate` unembeds the last position through a batched product that copies the whole unembedding
    once for every prompt. That takes longer than everything else.
    """
    mask, places, ids, cache = batch.mask, batch.places, batch.ids, None
    tokens: list[Tensor] = []
    first = torch.empty(0)
    for step in range(new_tokens):
        out = model.model(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
        )
        logits, cache = model.lm_head(out.last_hidden_state[:, -1]).float(), out.past_key_values
        first = logits if step == 0 else first
        ids = logits.argmax(-1, keepdim=True)
        tokens.append(ids)
        places = places[:, -1:] + 1
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    return torch.cat(tokens, 1), first


def going_on(answers: Int[Tensor, "prompt step"], stop: int) -> Int[Tensor, "prompt step"]:
    """1 up to and with the first stop token of each answer."""
    return torch.cat([torch.ones_like(answers[:, :1]), (answers != stop).cumprod(1)[:, :-1]], 1)


def answer_losses(
    model: Any, states: Float[Tensor, "prompt pos d_model"], answers: Int[Tensor, "prompt step"]
) -> Float[Tensor, "prompt step"]:
    """Cross-entropy of each token of answers that end the prompts, nats, from what is unembedded."""
    read = states[:, -answers.shape[1] - 1 : -1].flatten(0, 1)  # else the unembedding is copied for every prompt
    return F.cross_entropy(model.lm_head(read).float(), answers.flatten(), reduction="none").view_as(answers)


def first_token_kl(p: Float[Tensor, "*n d_vocab"], q: Float[Tensor, "*n d_vocab"]) -> Float[Tensor, "*n"]:
    """KL(p || q) in nats from logits, float32."""
    log_p, log_q = F.log_softmax(p, -1), F.log_softmax(q, -1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def refusal_metric(logits: Float[Tensor, "*n d_vocab"], tokens: Int[Tensor, " token"]) -> Float[Tensor, "*n"]:
    """ln P_R - ln(1 - P_R), P_R the summed probability of the refusal tokens, clamped to [1e-8, 1 - 1e-8]; float64."""
    share = logits.double().softmax(-1)[..., tokens].sum(-1).clamp(1e-8, 1 - 1e-8)
    return share.log() - (1 - share).log()
