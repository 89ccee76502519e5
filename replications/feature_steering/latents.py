"""What is known about every latent, and the rule that chooses the ones to show.

A latent can be shown if it fires on a share of tokens within a band, and if most of its strongest tokens, one per
document, are words, several different ones: punctuation steers nothing, and a single word is no feature. Among those,
the ones of highest sum of two ranks are taken: coherence (mean overlap of the tokens around the strongest ones) and
logit effect (how far its ten most raised tokens stand out: standard deviations over all latents, token by token, since
some tokens are raised by every vector).
"""

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

from common.core.settings import Strict
from common.saes.sae import Sae
from common.saes.stream import Activations
from replications.feature_steering.judge import direct_logits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AT_ONCE = 2**25  # values of latents, or direct logits, that are held
AROUND = 6  # tokens on both sides
LEAST_WORDS, LEAST_SHARE, LETTERS = 3, 0.75, 3
TOP_TOKENS = 10


class Latent(Strict):
    """One latent. `contexts` are triples: text before the strongest token, that token, text after it."""

    index: int
    largest: float
    density: float
    raised: list[str]
    contexts: list[list[str]]
    coherence: float
    effect: float


class ReadOut(NamedTuple):
    """Of each document and latent: mean value, largest value, and the place of the latter behind the first token."""

    mean: Float[Tensor, "document d_sae"]
    peak: Float[Tensor, "document d_sae"]
    place: Int[Tensor, "document d_sae"]


@torch.inference_mode()
def strength(sae: Sae, activations: Activations) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
    """Largest value and density of every latent over the activations that the SAE was trained on."""
    largest, fires = torch.zeros(sae.d_sae), torch.zeros(sae.d_sae)
    for part in torch.split(activations.x, max(1, AT_ONCE // sae.d_sae)):
        latents = sae.encode(part.float())
        largest = torch.maximum(largest, latents.amax(0))
        fires += (latents > 0).sum(0)
    return largest, fires / len(activations.x)


@torch.inference_mode()
def latents_of(sae: Sae, x: Float[Tensor, "document pos d_model"], batch: int) -> ReadOut:
    """What the latents do in documents, at most `batch` at a time: all values at once would fill a machine."""
    found = []
    for part in torch.split(x, max(1, min(batch, AT_ONCE // (x.shape[1] * sae.d_sae)))):
        values = sae.encode(part)
        found.append(ReadOut(values.mean(1), *values.max(1)))
    return ReadOut(*(torch.cat(parts) for parts in zip(*found, strict=True)))


@torch.inference_mode()
def logit_effect(
    v: Float[Tensor, "d_sae d_model"], unembedding: Float[Tensor, "d_vocab d_model"], gain: Float[Tensor, " d_model"]
) -> tuple[Float[Tensor, "d_sae top"], Int[Tensor, "d_sae top"]]:
    """The tokens that each vector raises most, and by how many standard deviations over all vectors."""
    total = squares = torch.zeros(len(unembedding), dtype=torch.float64)
    parts = torch.split(v, max(1, AT_ONCE // len(unembedding)))
    for part in parts:
        logits = direct_logits(part, unembedding, gain).double()
        total, squares = total + logits.sum(0), squares + logits.square().sum(0)
    mean = total / len(v)
    spread = ((squares - total * mean) / (len(v) - 1)).clamp(min=0).sqrt().clamp(min=1e-9)
    found = [
        ((direct_logits(part, unembedding, gain) - mean.float()) / spread.float()).topk(TOP_TOKENS, 1) for part in parts
    ]
    return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])


def describe(
    read_out: ReadOut,
    documents: list[list[int]],
    raised: tuple[Float[Tensor, "d_sae top"], Int[Tensor, "d_sae top"]],
    largest: Float[Tensor, " d_sae"],
    density: Float[Tensor, " d_sae"],
    tokenizer: "PreTrainedTokenizerBase",
    count: int,
) -> list[Latent]:
    """A record of every latent. `read_out` is about the tokens of `documents` behind the first one, `raised` comes from
    `logit_effect`."""
    peaks, places = read_out.peak, read_out.place
    order = peaks.argsort(0, descending=True)[:count]
    effect, tokens_raised = raised
    found = []
    for index in range(peaks.shape[1]):
        contexts, bags = [], []
        for one in order[:, index].tolist():
            if float(peaks[one, index]) <= 0:
                break
            tokens, at = documents[one], int(places[one, index]) + 1
            around = tokens[max(1, at - AROUND) : at], tokens[at : at + 1], tokens[at + 1 : at + 1 + AROUND]
            contexts.append([tokenizer.decode(part) for part in around])
            bags.append({token for part in around for token in part})
        found.append(
            Latent(
                index=index,
                largest=float(largest[index]),
                density=float(density[index]),
                raised=[tokenizer.decode([token]) for token in tokens_raised[index].tolist()],
                contexts=contexts,
                coherence=overlap(bags),
                effect=float(effect[index].mean()),
            )
        )
    return found


def overlap(bags: list[set[int]]) -> float:
    """Mean share of tokens that two of the sets have in common; 0 for fewer than two."""
    pairs = [len(one & other) / len(one | other) for one, other in itertools.combinations(bags, 2)]
    return float(np.mean(pairs)) if pairs else 0.0


def to_show(latents: list[Latent], band: list[float], contexts: int, count: int) -> list[Latent]:
    """The first `count` latents by the rule of this module. All that fire at all compete if none is within the band."""

    def wordy(one: Latent) -> bool:
        words = [middle.strip().lower() for _, middle, _ in one.contexts if sum(map(str.isalpha, middle)) >= LETTERS]
        return len(words) >= LEAST_SHARE * len(one.contexts) and len(set(words)) >= LEAST_WORDS

    fitting = [
        one for one in latents if band[0] <= one.density <= band[1] and len(one.contexts) >= contexts and wordy(one)
    ]
    fitting = fitting or [one for one in latents if one.largest > 0]
    ranks = rankdata([one.coherence for one in fitting]) + rankdata([one.effect for one in fitting])
    return [fitting[place] for place in np.argsort(-ranks, kind="stable")[:count]]
