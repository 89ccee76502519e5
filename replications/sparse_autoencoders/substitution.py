"""What the model loses when its residual stream is replaced: the forward pass goes on from the cached activation.

Replaced are the positions an SAE was trained on (no special tokens, no first position, no outliers); the loss is taken
at these positions. One pass over the clean residual gives the reference, then each substitution costs the layers above
the hook. Two numbers per token: cross-entropy of the next token, and KL(clean || replaced).
"""

from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.step import track
from common.data.corpora import Split, read_corpus
from common.interp.decoder import Decoder
from common.saes.harvest import CORPUS, batched
from replications.sparse_autoencoders.baselines import Reconstruct


class HeldOut(NamedTuple):
    """Windows with the residual stream before one layer."""

    layer: int
    tokens: Int[Tensor, "window pos"]
    real: Bool[Tensor, "window pos"]
    used: Bool[Tensor, "window pos"]
    document: Int[Tensor, " window"]
    resid: Float[Tensor, "window pos d_model"]

    def activations(self) -> Float[Tensor, "token d_model"]:
        return self.resid[self.used]

    def documents(self) -> Int[np.ndarray, " token"]:
        """The document of each activation."""
        found: np.ndarray = self.document[:, None].expand_as(self.used)[self.used].numpy()
        return found

    def one_per_document(self, count: int, length: int) -> "HeldOut":
        """The longest windows of distinct documents, at most `count`, the corpora in turn as long as they last; of each
        the first `length` tokens."""
        order = self.used.sum(1).argsort(descending=True, stable=True).tolist()
        longest: dict[int, int] = {}
        for row in order:
            longest.setdefault(int(self.document[row]), row)
        corpora: dict[int, list[int]] = {}
        for known, row in longest.items():
            corpora.setdefault(known // CORPUS, []).append(row)
        turns = [row for some in zip_longest(*corpora.values()) for row in some if row is not None]
        rows = torch.tensor(turns[:count])
        tokens, real, used, resid = (value[rows, :length] for value in (self.tokens, self.real, self.used, self.resid))
        return HeldOut(self.layer, tokens, real, used, self.document[rows], resid)


def groups_of(document: Int[np.ndarray, " token"], corpora: list[Path], split: Split) -> Int[np.ndarray, " token"]:
    """The package or topic of each token's document, numbered in the order of their names within each corpus."""
    found = np.empty_like(document)
    for place, folder in enumerate(corpora):
        numbers = np.unique([one.group for one in read_corpus(folder, split)], return_inverse=True)[1]
        here = document // CORPUS == place
        found[here] = place * CORPUS + numbers[document[here] % CORPUS]
    return found


class Effect(NamedTuple):
    """Per scored token."""

    ce: Float[np.ndarray, " token"]
    kl: Float[np.ndarray, " token"]


def layers_of(stored: dict[str, Tensor]) -> list[int]:
    """The layers of the held-out windows, the studied one, which is the later one, first."""
    return sorted((int(name.removeprefix("resid.")) for name in stored if name.startswith("resid.")), reverse=True)


def read_held_out(stored: dict[str, Tensor], layer: int) -> HeldOut:
    """The held-out windows at one of the layers."""
    tokens, real, used, document = (stored[key] for key in ("tokens", "real", "used", "document"))
    return HeldOut(layer, tokens, real, used, document, stored[f"resid.{layer}"])


def scored(held: HeldOut) -> Bool[Tensor, "window pos"]:
    """Replaced positions with a real next token."""
    following = torch.zeros_like(held.real)
    following[:, :-1] = held.real[:, 1:]
    return held.used & following


@torch.inference_mode()
def substitute(decoder: Decoder, held: HeldOut, changes: dict[str, Reconstruct], batch: int) -> dict[str, Effect]:
    """Effects of each substitution, and `clean` for none. Random noise must come from the callables themselves."""
    kept: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in ("clean", *changes)}
    unembed, bias = decoder.bridge.W_U, decoder.bridge.b_U
    for rows in track(list(batched(len(held.tokens), batch)), "substitutions"):
        tokens, real, resid, used = held.tokens[rows], held.real[rows], held.resid[rows], held.used[rows]
        score = scored(held)[rows]
        target = tokens.roll(-1, 1)[score]
        device = unembed.device

        def log_probs(x: Tensor, tokens: Tensor = tokens, real: Tensor = real, score: Tensor = score) -> Tensor:
            final = decoder.forward(
                tokens.to(unembed.device), real.to(unembed.device), resume=(held.layer, x.to(unembed.device))
            ).final
            logits = decoder.bridge.ln_final(final[score.to(unembed.device)]) @ unembed + bias
            found: Tensor = logits.log_softmax(-1)
            return found

        clean = log_probs(resid)
        p = clean.exp()
        entropy = (p * clean).sum(-1)
        place = target[:, None].to(device)
        kept["clean"].append((-clean.gather(1, place)[:, 0].cpu().numpy(), np.zeros(len(target))))
        for name, reconstruct in changes.items():
            changed = resid.clone()
            changed[used] = reconstruct(resid[used])
            found = log_probs(changed)
            kl = entropy - (p * found).sum(-1)
            kept[name].append((-found.gather(1, place)[:, 0].cpu().numpy(), kl.cpu().numpy()))
    return {
        name: Effect(*(np.concatenate(one).astype(np.float64) for one in zip(*parts, strict=True)))
        for name, parts in kept.items()
    }


def at_same_distance(reconstruct: Reconstruct, seed: int, root: Float[Tensor, "d d"] | None = None) -> Reconstruct:
    """A random point as far from the activation as the reconstruction is (Gurnee 2024); with a `root` its direction has
    the covariance root root^T."""
    generator = torch.Generator().manual_seed(seed)

    def random(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        noise = torch.randn(x.shape, generator=generator)
        return _moved(x, noise if root is None else noise @ root.mT, reconstruct(x) - x)

    return random


def along_error(reconstruct: Reconstruct, other: Reconstruct) -> Reconstruct:
    """A point as far from the activation as the reconstruction is, in the direction of the error of another code."""
    return lambda x: _moved(x, other(x) - x, reconstruct(x) - x)


def at_same_norm(reconstruct: Reconstruct, seed: int) -> Reconstruct:
    """A random point with the norm of the reconstruction, and as far from the activation in distance and in angle.

    Reconstructions are shorter than activations. The part of the error along x stays; only that across x is random.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        unit = x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        error, noise = reconstruct(x) - x, torch.randn(x.shape, generator=generator)
        along, stray = (((one * unit).sum(-1, keepdim=True) * unit) for one in (error, noise))
        return _moved(x + along, noise - stray, error - along)

    return random


def error_of_another_token(reconstruct: Reconstruct, seed: int) -> Reconstruct:
    """The error of another token drawn from the same windows, at the distance of the token's own reconstruction."""
    generator = torch.Generator().manual_seed(seed)

    def moved(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        circle = torch.randperm(len(x), generator=generator)
        other = torch.empty_like(circle)
        other[circle] = circle.roll(1)  # one circle through all tokens: none keeps its own error
        error = reconstruct(x) - x
        return _moved(x, error[other], error)

    return moved


def _moved(
    x: Float[Tensor, "*n d"], direction: Float[Tensor, "*n d"], like: Float[Tensor, "*n d"]
) -> Float[Tensor, "*n d"]:
    """x moved in a direction by the length of the vectors `like`."""
    distance = like.norm(dim=-1, keepdim=True)
    moved: Tensor = x + direction / direction.norm(dim=-1, keepdim=True).clamp(min=1e-12) * distance
    return moved
