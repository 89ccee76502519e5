"""Step: massive activations (Sun et al. 2024, figures 1, 2 and 4 and the table of interventions).

A few coordinates of the residual stream at the first position are thousands of times the median and hardly depend on
the text. Text stands as it is, so whatever token begins a document is at position 0. The channel and the block after
which it grows are found on the first tokens of training documents; so is its mean. Before the next block it is set to
zero, or to that mean, in documents of the judged split, drawn by the first seed. Beside it stand the next channels of
the same position and the same channel at all other positions. So does position 0 moved as far along random directions.
The loss leaves out position 0, as all our metrics do: this step is the reason.

Sun et al. zero all massive activations of a layer, we zero the largest.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.shares import with_width
from common.core.statistics import over_clusters
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.corpora import judging_split
from common.data.models import load_model
from common.interp.decoder import Cache, Decoder
from common.saes.harvest import windows
from replications.probing.continuation import logits
from replications.probing.settings import MassiveActivations

OTHER_CHANNELS = 10
RANDOM_DIRECTIONS = 5
RANKS = 3
SHOWN = 12  # positions of the picture


class MassiveFiles(Files):
    manifest: Path
    corpora: list[Path]
    metrics: Path
    layers: Path
    """the largest magnitudes and the median, at each layer"""
    stream: Path
    """magnitudes at the first positions of one document"""
    documents: Path
    """one row per document: loss and attention to position 0 under every edit"""


class Place(NamedTuple):
    """Where the massive activation stands: the residual stream before `block`, position 0."""

    block: int
    channel: int
    mean: float
    others: Int[Tensor, " channel"]
    """the next channels in order of magnitude"""


def massive_activations(files: MassiveFiles, settings: MassiveActivations, run: RunInfo) -> None:
    """Writes the metrics and three tables."""
    bridge = load_model(files.manifest.parent, device=run.device)
    decoder = Decoder(bridge, settings.length)
    folders = [path.parent for path in files.corpora]
    budgets = [settings.documents * settings.length] * len(folders)
    train, judged = (
        windows(folders, split, bridge.tokenizer, settings.length, budgets, per_document=1, seed=seed)  # type: ignore[arg-type]
        for split, seed in (("train", 0), (judging_split(run.seeds), run.seeds[0]))
    )
    tokens, real = judged.tokens.to(run.device), judged.real.to(run.device)
    with torch.no_grad():
        place = find(decoder, train.tokens[:, :1].to(run.device))
        seen = Attention(place.block)
        cache = decoder.forward(tokens, real, keep=True, patterns=seen)
        found = {"intact": outcome(decoder, tokens, real, cache.final, seen)}
        found |= {name: measure(decoder, tokens, real, place.block, x) for name, x in edits(cache, place).items()}
        drawn = [measure(decoder, tokens, real, place.block, x) for x in displaced(cache, place, run.seeds[0])]
        found["same_distance"] = {what: np.mean([one[what] for one in drawn], axis=0) for what in drawn[0]}
    columns = {f"{what}_{name}": of for name, both in found.items() for what, of in both.items()}
    rows = pd.DataFrame({"document": np.arange(len(tokens))} | columns)
    magnitudes = torch.stack([*cache.resid_pre, cache.final]).abs()
    rows["at_first"] = largest_at_first(magnitudes[place.block], real, place.channel)
    write_table(files.layers, by_layer(magnitudes, real).assign(judged=lambda table: table["layer"] == place.block))
    write_table(files.stream, first_positions(magnitudes[place.block], place))
    write_table(files.documents, rows)
    write_metrics(files.metrics, metrics(rows, magnitudes[place.block], real, place))


def find(decoder: Decoder, tokens: Int[Tensor, "document 1"]) -> Place:
    """Block and channel with the greatest growth at position 0; nothing but the first token matters there."""
    cache = decoder.forward(tokens, torch.ones_like(tokens, dtype=torch.bool), keep=True)
    first = torch.stack(cache.resid_pre)[:, :, 0]
    largest = first.abs().mean(1).amax(-1)
    block = int((largest[1:] - largest[:-1]).argmax()) + 1
    order = first[block].abs().mean(0).argsort(descending=True)
    channel = int(order[0])
    return Place(block, channel, float(first[block, :, channel].mean()), order[1 : OTHER_CHANNELS + 1])


def edits(cache: Cache, place: Place) -> dict[str, Float[Tensor, "document pos d_model"]]:
    """Residual streams before the block, edited."""
    intact = cache.resid_pre[place.block]
    found = {name: intact.clone() for name in ("zero", "half", "mean", "other_channels", "other_positions")}
    found["zero"][:, 0, place.channel] = 0
    found["half"][:, 0, place.channel] *= 0.5
    found["mean"][:, 0, place.channel] = place.mean
    found["other_channels"][:, 0, place.others] = 0
    found["other_positions"][:, 1:, place.channel] = 0
    return found


def displaced(cache: Cache, place: Place, seed: int) -> list[Float[Tensor, "document pos d_model"]]:
    """Residual streams before the block, position 0 moved along random directions as far as setting to 0 moves it."""
    intact = cache.resid_pre[place.block]
    distance = intact[:, 0, place.channel].abs()
    found = []
    for draw in range(RANDOM_DIRECTIONS):
        way = torch.randn(intact.shape[-1], generator=torch.Generator().manual_seed(1000 * seed + draw)).to(intact)
        found.append(intact.clone())
        found[-1][:, 0] += distance[:, None] * way / way.norm()
    return found


class Attention:
    """Collects the attention to position 0 of later positions, mean over heads, from a block on."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.seen: list[Float[Tensor, "document query"]] = []

    def __call__(self, layer: int, pattern: Float[Tensor, "document head query key"]) -> None:
        """Takes the pattern of one layer."""
        if layer >= self.block:
            self.seen.append(pattern[..., 1:, 0].mean(1))


def measure(
    decoder: Decoder,
    tokens: Int[Tensor, "document pos"],
    real: Bool[Tensor, "document pos"],
    block: int,
    x: Float[Tensor, "document pos d_model"],
) -> dict[str, Float[np.ndarray, " document"]]:
    """The outcome of going on from the residual stream `x` before `block`."""
    seen = Attention(block)
    final = decoder.forward(tokens, real, resume=(block, x), patterns=seen).final
    return outcome(decoder, tokens, real, final, seen)


def outcome(
    decoder: Decoder,
    tokens: Int[Tensor, "document pos"],
    real: Bool[Tensor, "document pos"],
    final: Float[Tensor, "document pos d_model"],
    seen: Attention,
) -> dict[str, Float[np.ndarray, " document"]]:
    """Mean loss of the tokens behind position 1, and mean attention to position 0 of later ones."""
    losses = []
    for one, row, use in zip(final, tokens, real, strict=True):
        own = int(use.sum())
        scores = logits(decoder, one[1 : own - 1]).log_softmax(-1)
        losses.append(-scores.gather(-1, row[2:own, None]).mean())
    weights = real[:, 1:].double()
    attention = (torch.stack(seen.seen).mean(0).double() * weights).sum(1) / weights.sum(1)
    return {"loss": torch.stack(losses).double().cpu().numpy(), "attention": attention.cpu().numpy()}


def largest_at_first(
    x: Float[Tensor, "document pos d_model"], real: Bool[Tensor, "document pos"], channel: int
) -> Float[np.ndarray, " document"]:
    """1 where the largest coordinate of a document is `channel` at position 0."""
    flat = (x * real[..., None]).flatten(1).argmax(1)
    return (flat == channel).double().cpu().numpy()


def by_layer(
    magnitudes: Float[Tensor, "layer document pos d_model"], real: Bool[Tensor, "document pos"]
) -> pd.DataFrame:
    """Mean over documents of the largest magnitudes and of the median, at each layer."""
    rows = []
    for layer, x in enumerate(magnitudes):
        each = [one[use].flatten() for one, use in zip(x, real, strict=True)]
        top = torch.stack([one.topk(RANKS).values for one in each]).mean(0)
        rows += [{"layer": layer, "rank": f"top {rank + 1}", "magnitude": float(top[rank])} for rank in range(RANKS)]
        behind = torch.stack([one[use][1:].max() for one, use in zip(x, real, strict=True)]).mean()
        rows.append({"layer": layer, "rank": "behind position 0", "magnitude": float(behind)})
        median = torch.stack([one.median() for one in each]).mean()
        rows.append({"layer": layer, "rank": "median", "magnitude": float(median)})
    return pd.DataFrame(rows)


def first_positions(x: Float[Tensor, "document pos d_model"], place: Place) -> pd.DataFrame:
    """Magnitudes of the first document at its first positions, in the channels that matter most at position 0."""
    channels = [place.channel, *place.others[: RANKS + 1].tolist()]
    return pd.DataFrame(
        [
            {"position": position, "channel": channel, "magnitude": float(x[0, position, channel])}
            for position in range(min(SHOWN, x.shape[1]))
            for channel in channels
        ]
    )


def metrics(
    rows: pd.DataFrame, x: Float[Tensor, "document pos d_model"], real: Bool[Tensor, "document pos"], place: Place
) -> dict[str, Metric]:
    """All comparisons, over documents."""
    documents = rows["document"].to_numpy()

    def rise(edit: str) -> np.ndarray:
        return (rows[f"loss_{edit}"] - rows["loss_intact"]).to_numpy()

    def mean(values: np.ndarray, unit: str, formula: str, controls: dict[str, np.ndarray] | None = None) -> Metric:
        return over_clusters(values, documents, unit=unit, formula=formula, cluster="documents", controls=controls)

    named = {"set_to_mean": "mean"} | {name: name for name in ("other_channels", "other_positions", "same_distance")}
    medians = np.array([float(one[use].median()) for one, use in zip(x, real, strict=True)])
    first = x[:, 0, place.channel].double().cpu().numpy()
    return {
        "zeroed": mean(
            rise("zero"),
            "nats",
            "rise of the mean loss a token when one coordinate at position 0 is set to 0",
            {name: rise(edit) for name, edit in named.items()},
        ),
        "halved": mean(rise("half"), "nats", "rise of the mean loss a token when half of the coordinate is kept"),
        "loss": mean(rows["loss_intact"].to_numpy(), "nats", "mean loss a token"),
        "attention_to_first": mean(
            rows["attention_intact"].to_numpy(),
            "share",
            "mean attention to position 0, all heads, from the block on",
            {"zeroed": rows["attention_zero"].to_numpy(), "set_to_mean": rows["attention_mean"].to_numpy()},
        ),
        "times_the_median": mean(first / medians, "1", "magnitude of the coordinate over the median of its document"),
        "spread": mean(np.abs(first - first.mean()) / first.mean(), "1", "mean deviation from the mean, over the mean"),
        "at_first": with_width(
            mean(rows["at_first"].to_numpy(), "share", "documents whose largest coordinate is this one")
        ),
    }


if __name__ == "__main__":
    run_step(massive_activations)
