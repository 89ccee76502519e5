"""What is known about a latent: its strongest tokens in context, one a conversation, and the tokens that it raises."""

from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from common.core.settings import Strict
from common.saes.sae import Sae

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AROUND = 7  # tokens on both sides
CONTEXTS, RAISED = 8, 8


class Latent(Strict):
    """One latent of one seed's dictionary. `contexts` are triples: text before the strongest token, that token, text
    after it."""

    index: int
    seed: int
    largest: float
    density: float
    raised: list[str]
    contexts: list[list[str]]


def direct_logits(
    v: Float[Tensor, "n d_model"], unembedding: Float[Tensor, "d_vocab d_model"], gain: Float[Tensor, " d_model"]
) -> Float[Tensor, "n d_vocab"]:
    """What a vector adds to the logits straight through the last norm's gain and the unembedding, up to a factor."""
    return (v * gain) @ unembedding.T


def raised_tokens(
    sae: Sae,
    latent: int,
    unembedding: Float[Tensor, "d_vocab d_model"],
    gain: Float[Tensor, " d_model"],
    tokenizer: "PreTrainedTokenizerBase",
) -> list[str]:
    """The tokens that the latent's decoder row raises most, through the unembedding alone."""
    top = direct_logits(sae.W_dec[latent][None], unembedding, gain)[0].topk(RAISED).indices
    return [tokenizer.decode([token]) for token in top.tolist()]


def describe(
    index: int,
    seed: int,
    values: Float[Tensor, "text pos"],
    tokens: Int[Tensor, "text pos"],
    raised: list[str],
    tokenizer: "PreTrainedTokenizerBase",
) -> Latent:
    """A record of the latent with these values on these tokens."""
    peaks, places = values.max(1)
    contexts = []
    for text in peaks.argsort(descending=True)[:CONTEXTS].tolist():
        if float(peaks[text]) > 0:
            own, at = tokens[text].tolist(), int(places[text])
            around = own[max(0, at - AROUND) : at], own[at : at + 1], own[at + 1 : at + 1 + AROUND]
            contexts.append([tokenizer.decode(part) for part in around])
    return Latent(
        index=index,
        seed=seed,
        largest=float(values.max()),
        density=float((values > 0).float().mean()),
        raised=raised,
        contexts=contexts,
    )
