"""The feature browser: what it knows about every latent of one SAE, and the page that shows it.

- From training activations: density, largest value, and which latents fire together (Jaccard index of the tokens).
- From held-out windows: every activation, the strongest token of each document, and tokens drawn from each quarter of
  the activations by rank. The strongest ones alone flatter a latent (Bricken et al. 2023 show quantiles too).
- From the weights: decoder rows that point the same way, and the logit effect

      e = (W_dec_i / |W_dec_i| * gain) W_U

  in which W_U stands for all matrices on the straight path to the logits, with the gain of the last norm folded in.
  Left out are that norm's division by the norm of the token and the blocks between: an effect up to a factor. It is
  given in standard deviations over all latents, token by token, since some tokens are raised by every vector.

`page_data` gives one JSON object: lists of numbers by latent, texts once, activations as integers from 1 to 100.
`filled` puts it into `browser.html`, whose short script uses no library; the page opens from disk and asks nothing of a
network. Text of the corpus reaches the page as text nodes only.
"""

import copy
import itertools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from common.saes.architectures.base import unit_rows
from common.saes.metrics import cosines
from common.saes.sae import Sae

CHUNK = 2048
SAMPLE, PAIRS = 131_072, 65_536  # training activations for density and for pairs; shards are shuffled
TOP, QUARTERS, EACH = 6, 4, 2  # contexts shown: of distinct documents, and of each quarter
AROUND = 6  # tokens on both sides that coherence looks at
TOKENS, NEIGHBOURS = 10, 6
LEVELS = 100
MARK = "__DATA__"
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class Census(NamedTuple):
    """What training activations say."""

    tokens: int
    density: Float[Tensor, " d_sae"]
    largest: Float[Tensor, " d_sae"]
    jaccard: Float[Tensor, "d_sae d_sae"]


class Texts(NamedTuple):
    """Held-out windows, the first few thousand tokens of them."""

    tokens: Int[Tensor, "window pos"]
    real: Bool[Tensor, "window pos"]
    used: Bool[Tensor, "window pos"]
    document: Int[Tensor, " window"]
    resid: Float[Tensor, "window pos d_model"]

    def first(self, tokens: int) -> "Texts":
        """As many windows as hold `tokens` tokens, at least one."""
        count = max(1, int((self.real.sum(1).cumsum(0) <= tokens).sum()))
        return Texts(*(value[:count] for value in self))


@torch.inference_mode()
def census(sae: Sae, x: Float[Tensor, "token d_model"]) -> Census:
    """Counts over a random sample of the training activations, stored in any dtype."""
    sample = x[:SAMPLE]
    fires, largest, together = torch.zeros(sae.d_sae), torch.zeros(sae.d_sae), torch.zeros(sae.d_sae, sae.d_sae)
    paired = torch.zeros(sae.d_sae)
    for start in range(0, len(sample), CHUNK):
        latents = sae.encode(sample[start : start + CHUNK].float())
        on = latents > 0
        largest = torch.maximum(largest, latents.amax(0))
        fires += on.sum(0)
        if start + CHUNK <= PAIRS or start == 0:
            firing = csr_array(on.cpu().numpy(), dtype=np.float32)
            together += torch.from_numpy((firing.T @ firing).toarray())
            paired += on.sum(0)
    either = paired[:, None] + paired[None] - together
    return Census(len(sample), fires / len(sample), largest, together / either.clamp(min=1))


def output_map(model: Any) -> tuple[Float[Tensor, "d_vocab d_model"], Float[Tensor, " d_model"]]:
    """Unembedding and gain of the last norm (ones where it has none) of a Hugging Face model, float32, on the CPU.

    The gain is read off what the norm makes of a vector of mean 0 and mean square 1. Norms differ in what they store:
    Gemma's multiply by 1 + weight.
    """
    unembedding = model.get_output_embeddings().weight.detach().float().cpu()
    norm = getattr(model.base_model, "norm", None) or getattr(model.base_model, "ln_f", None)
    signs = torch.ones(unembedding.shape[1])
    if norm is None:
        return unembedding, signs
    signs[1::2] = -1
    norm = copy.deepcopy(norm).float().cpu()
    return unembedding, (norm(signs) - norm(-signs)).detach() / 2 * signs


@torch.inference_mode()
def logit_effects(
    sae: Sae, unembedding: Float[Tensor, "d_vocab d_model"], gain: Float[Tensor, " d_model"]
) -> Float[Tensor, "d_sae d_vocab"]:
    """The formula above, in standard deviations over latents."""
    logits = (unit_rows(sae.W_dec) * gain) @ unembedding.mT
    logits -= logits.mean(0)
    logits /= logits.std(0).clamp(min=1e-9)
    return logits


def nearest(similarity: Float[Tensor, "d_sae d_sae"], count: int) -> list[list[list[int]]]:
    """For each latent the most similar others as [index, similarity in hundredths], most similar first."""
    own = similarity.clone().fill_diagonal_(-torch.inf)
    values, latents = own.topk(min(count, len(own) - 1), 1)
    return [
        [[latent, round(100 * value)] for latent, value in zip(*pair, strict=True) if value > 0.005]
        for pair in zip(latents.tolist(), values.tolist(), strict=True)
    ]


@torch.inference_mode()
def page_data(
    sae: Sae,
    about: dict[str, Any],
    found: Census,
    texts: Texts,
    decode: Callable[[int], str],
    unembedding: Float[Tensor, "d_vocab d_model"],
    gain: Float[Tensor, " d_model"],
) -> dict[str, Any]:
    """Everything that one page shows. `decode` gives the text of one token."""
    logits = logit_effects(sae, unembedding, gain)
    tokens, document = texts.tokens[texts.real], repeat(texts.document, "w -> w p", p=texts.real.shape[1])[texts.real]
    place = texts.used[texts.real].nonzero()[:, 0]
    values = torch.cat([sae.encode(part) for part in torch.split(texts.resid[texts.used], CHUNK)])
    scale = torch.maximum(found.largest, values.amax(0))
    shown: dict[int, int] = {}  # id of the model's vocabulary -> place in the page's list

    def word(token: int) -> int:
        return shown.setdefault(token, len(shown))

    def raised(direction: float) -> list[list[int]]:
        best = (direction * logits).topk(min(TOKENS, logits.shape[1]), 1).indices
        return [[word(token) for token in row] for row in best.tolist()]

    content: dict[str, Any] = {
        "about": {**about, "training_tokens": found.tokens, "held_out_tokens": len(place)},
        "tokens": [word(token) for token in tokens.tolist()],
        "windows": texts.real.sum(1).cumsum(0).tolist(),
        "documents": texts.document.tolist(),
        "raised": raised(1.0),
        "lowered": raised(-1.0),
        "near": nearest(cosines(sae.W_dec, sae.W_dec), NEIGHBOURS),
        "together": nearest(found.jaccard, NEIGHBOURS),
        "density": [float(f"{value:.3g}") for value in found.density.tolist()],
        "largest": [float(f"{value:.4g}") for value in scale.tolist()],
        "top": [], "quarters": [], "coherence": [], "at": [], "level": [],
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    ends = [0, *content["windows"]]
    for latent, column in enumerate(values.mT):
        on = column.nonzero()[:, 0]
        at, strength = place[on], column[on]
        top, quarters = choose(at, strength, document[at], generator)
        content["top"].append(top)
        content["quarters"].append(quarters)
        content["coherence"].append(round(coherence(top, tokens, ends), 3))
        content["at"].append(at.diff(prepend=torch.zeros(1, dtype=at.dtype)).tolist())
        level = (LEVELS * strength / scale[latent].clamp(min=1e-12)).round().clamp(min=1)
        content["level"].append(level.long().tolist())
    content["words"] = [decode(token) for token in shown]
    return content


def choose(
    at: Int[Tensor, " firing"],
    strength: Float[Tensor, " firing"],
    document: Int[Tensor, " firing"],
    generator: torch.Generator,
) -> tuple[list[int], list[list[int]]]:
    """Tokens whose contexts are shown: the strongest of distinct documents, and some of each quarter by rank.

    The first quarter holds the strongest activations. A latent with few activations has few or none drawn.
    """
    order = strength.argsort(descending=True, stable=True)
    best: dict[int, int] = {}
    for one in order.tolist():
        best.setdefault(int(document[one]), int(at[one]))
        if len(best) == TOP:
            break
    parts = [part[torch.randperm(len(part), generator=generator)][:EACH] for part in order.tensor_split(QUARTERS)]
    return list(best.values()), [[int(at[one]) for one in part.tolist()] for part in parts]


def coherence(top: list[int], tokens: Int[Tensor, " token"], ends: list[int]) -> float:
    """Mean share of tokens that the surroundings of two of the strongest tokens have in common."""
    bags = []
    for at in top:
        window = next(end for end in ends[1:] if at < end)
        start = ends[ends.index(window) - 1]
        bags.append(set(tokens[max(start, at - AROUND) : min(window, at + AROUND + 1)].tolist()))
    return overlap(bags)


def overlap(bags: list[set[int]]) -> float:
    """Mean share of tokens that two of the sets have in common; 0 for fewer than two."""
    pairs = [len(one & other) / len(one | other) for one, other in itertools.combinations(bags, 2)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def filled(template: str, content: dict[str, Any]) -> str:
    """The page. What could end the script element or start a tag is written as an escape of JSON."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in UNSAFE.items():
        text = text.replace(character, escape)
    before, after = template.split(MARK)
    return before + text + after
