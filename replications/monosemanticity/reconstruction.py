"""What the loss becomes when the MLP's activations are replaced by reconstructions (claim S13).

Bricken et al. 2023 state the loss recovered against an MLP that is ablated to zero; mean ablation and the added
cross-entropy in nats stand beside it. Baselines of the same number of active entries: dictionaries before their first
step (rescaled to fit), principal components, the largest neurons. Means, components and scales are fitted on the
documents that are not scored.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from common.saes.metrics import fvu, l0, principal
from common.saes.sae import Sae
from common.toys.settings import Architecture
from common.toys.transformer import Weights
from replications.monosemanticity.documents import drawn
from replications.monosemanticity.model import losses

Row = dict[str, object]
Replace = Callable[[Float[Tensor, "token d"]], Float[Tensor, "token d_mlp"]]
DRAWS = 1000  # of documents
FLOOR = 0.02  # nats, least cost of an ablation


def substitutes(saes: Mapping[str, Sae], fit: Float[Tensor, "token d_mlp"], k: int) -> dict[str, Replace]:
    """Every way to replace the activations, by name; those of `saes`, `<kind>` or `<kind>-<width>`, take latents."""
    mean, axes = principal(fit)
    found: dict[str, Replace] = {
        "zero": torch.zeros_like,
        "mean": lambda x: mean.expand_as(x),
        "components": lambda x: (x - mean) @ axes[:, :k] @ axes[:, :k].mT + mean,
        "neurons": largest(mean, k),
    }
    for name, sae in saes.items():
        found[name] = scaled(sae, fit[:4096]) if name.startswith("start") else sae.decode
    return found


def largest(mean: Float[Tensor, " d_mlp"], k: int) -> Replace:
    """Keeps the k neurons farthest from their mean."""

    def replace(x: Float[Tensor, "token d_mlp"]) -> Float[Tensor, "token d_mlp"]:
        apart = x - mean
        kept = apart.abs().topk(min(k, x.shape[1]), dim=1).indices
        return mean + torch.zeros_like(x).scatter(1, kept, apart.gather(1, kept))

    return replace


def scaled(sae: Sae, fit: Float[Tensor, "token d_mlp"]) -> Replace:
    """The reconstruction with the distance from b_dec multiplied by the factor that fits best."""
    apart = sae.reconstruct(fit) - sae.b_dec
    factor = float((apart * (fit - sae.b_dec)).sum() / apart.square().sum().clamp(min=1e-12))
    return lambda latents: sae.b_dec + factor * (sae.decode(latents) - sae.b_dec)


def table(
    weights: Weights,
    shape: Architecture,
    windows: Int[Tensor, "window pos"],
    x: Float[Tensor, "token d_mlp"],
    ways: Mapping[str, Replace],
    saes: Mapping[str, Sae],
) -> tuple[list[Row], dict[str, Float[np.ndarray, " window"]]]:
    """One row per way: cross-entropy, variance unexplained, L0, dead latents; and the loss of every window.

    `x` are the activations on `windows`, the first position of each left out.
    """
    by_window = {"clean": losses(weights, windows, shape).double().mean(1).numpy()}
    rows: list[Row] = [{"name": "clean", "ce": float(by_window["clean"].mean())}]
    for name, way in ways.items():
        latents = saes[name].encode(x) if name in saes else None
        found = way(x if latents is None else latents)
        instead = rearrange(found, "(window rest) d_mlp -> window rest d_mlp", window=len(windows))
        by_window[name] = losses(weights, windows, shape, instead).double().mean(1).numpy()
        row: Row = {"name": name, "ce": float(by_window[name].mean()), "fvu": fvu(x, found)}
        if latents is not None:
            dead = float((latents == 0).all(0).double().mean())
            row |= {"width": saes[name].d_sae, "l0": l0(latents), "dead": dead}
        rows.append(row)
    return rows, by_window


def recovered(rows: list[Row], name: str, ablation: str) -> float:
    """Loss recovered of one way against zero or mean ablation; models that are hardly trained may lose nothing."""
    ce = {str(row["name"]): float(str(row["ce"])) for row in rows}
    return (ce[ablation] - ce[name]) / max(ce[ablation] - ce["clean"], FLOOR)


def resampled_recovery(
    by_window: list[dict[str, Float[np.ndarray, " window"]]],
    document: Int[np.ndarray, " window"],
    ways: list[str],
    ablation: str,
) -> Float[np.ndarray, "way seed draw"]:
    """Loss recovered of some ways under resampled documents, the same for all ways and seeds."""
    _, index = np.unique(document, return_inverse=True)
    times = drawn(int(index.max()) + 1, DRAWS)[:, index]
    weights = times / times.sum(1, keepdims=True)
    found = []
    for one in by_window:
        ce = {name: weights @ one[name] for name in ("clean", ablation, *ways)}
        cost = np.maximum(ce[ablation] - ce["clean"], FLOOR)
        found.append([(ce[ablation] - ce[way]) / cost for way in ways])
    draws: Float[np.ndarray, "way seed draw"] = np.swapaxes(np.array(found), 0, 1)
    return draws


def rise(wide: Float[np.ndarray, "..."], narrow: Float[np.ndarray, "twin ..."]) -> Float[np.ndarray, "..."]:
    """What the widest dictionary recovers beyond the mean of the narrowest ones, which differ by their start."""
    found: Float[np.ndarray, ...] = wide - narrow.mean(0)
    return found


def luck(narrow: Float[np.ndarray, "twin ..."]) -> Float[np.ndarray, "..."]:
    """What the best of the narrowest dictionaries, chosen afterwards, recovers beyond their mean: never negative."""
    found: Float[np.ndarray, ...] = narrow.max(0) - narrow.mean(0)
    return found


def ngram_losses(
    stream: Int[np.ndarray, " n"], windows: Int[np.ndarray, "window pos"], d_vocab: int
) -> dict[str, float]:
    """Loss of predicting held-out tokens by counts of the training text: unigrams, and bigrams that fall back on them.

    p(b | a) = (n(a, b) + m p(b)) / (n(a) + m), with the m that is best on the training text's last tenth.
    """
    cut = len(stream) * 9 // 10
    unigram = (np.bincount(stream, minlength=d_vocab) + 1.0) / (len(stream) + d_vocab)
    options = (3.0, 10.0, 30.0, 100.0, 300.0)
    tail = stream[cut:]
    scores = [_bigram(stream[:cut], unigram, m)(tail[:-1], tail[1:]) for m in options]
    best = _bigram(stream, unigram, options[int(np.argmin(scores))])
    return {
        "unigram": float(-np.log(unigram[windows[:, 1:]]).mean()),
        "bigram": best(windows[:, :-1].ravel(), windows[:, 1:].ravel()),
    }


def _bigram(
    stream: Int[np.ndarray, " n"], unigram: Float[np.ndarray, " d_vocab"], m: float
) -> Callable[[np.ndarray, np.ndarray], float]:
    d_vocab = len(unigram)
    pairs, counts = np.unique(stream[:-1].astype(np.int64) * d_vocab + stream[1:], return_counts=True)
    first = np.bincount(stream[:-1], minlength=d_vocab)

    def loss(a: np.ndarray, b: np.ndarray) -> float:
        key = a.astype(np.int64) * d_vocab + b
        at = np.searchsorted(pairs, key).clip(max=len(pairs) - 1)
        seen = np.where(pairs[at] == key, counts[at], 0)
        return float(-np.log((seen + m * unigram[b]) / (first[a] + m)).mean())

    return loss
