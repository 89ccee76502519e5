"""Step: logit lens and tuned lens (nostalgebraist 2020; Belrose et al. 2023).

A lens turns the residual stream before a block into next-token probabilities by the model's last norm and unembedding.
The logit lens does so as it stands, the tuned lens behind an affine map of its own for each layer. A lens is judged by
the KL divergence of the model's output from it, on documents of the judged split, position 0 left out. Beside it stand
a map of bias alone (difference of the means), the map of another layer, and a constant (the mean last stream).

Deviation: Belrose et al. train the maps on this divergence for 250 steps of 2^18 tokens. Ours are ridge regressions
onto the stream after the last block, from some thousand tokens, solved in closed form.
"""

from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_clusters
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.corpora import Split, judging_split
from common.data.models import load_model
from common.interp.decoder import Decoder
from common.saes.harvest import windows
from replications.probing.continuation import logits
from replications.probing.settings import Lenses
from replications.probing.streams import Affine, layers_of, ridge, streams

LENSES = ("tuned", "logit", "bias_only", "shuffled_layer", "constant")


class LensFiles(Files):
    manifest: Path
    corpora: list[Path]
    metrics: Path
    layers: Path
    """mean KL divergence of each lens at each layer"""


def lenses(files: LensFiles, settings: Lenses, run: RunInfo) -> None:
    """Writes the metrics and a table."""
    bridge = load_model(files.manifest.parent, device=run.device)
    decoder = Decoder(bridge, settings.length)
    layers = layers_of(decoder, settings.every)
    folders = [path.parent for path in files.corpora]

    def harvested(split: Split, count: int, step: int) -> tuple[Float[Tensor, "layer item d_model"], list[int]]:
        """Streams of every `step`-th position but the first, and the document of each."""
        budgets = [count * settings.length] * len(folders)
        text = windows(folders, split, bridge.tokenizer, settings.length, budgets, per_document=1)
        used = torch.zeros_like(text.real)
        used[:, step::step] = text.real[:, step::step]
        found = streams(decoder, text.tokens.to(run.device), text.real.to(run.device), layers)
        return found[:, used.to(run.device)], text.document[:, None].expand_as(used)[used].tolist()

    train, _ = harvested("train", settings.train, 1)
    x, documents = harvested(judging_split(run.seeds), settings.judged, settings.step)
    maps = [ridge(each, train[-1], settings.ridge) for each in train]
    final = logits(decoder, x[-1]).log_softmax(-1)
    same = logits(decoder, train[-1].mean(0)).log_softmax(-1)
    constant = divergence(final, same.expand_as(final))
    parts = []
    for place, layer in enumerate(layers):
        for name, y in readings(place, x[place], train, maps).items():
            nats = constant if name == "constant" else divergence(final, logits(decoder, y).log_softmax(-1))
            parts.append(pd.DataFrame({"layer": layer, "lens": name, "document": documents, "kl": nats.cpu().numpy()}))
    table = pd.concat(parts)
    write_table(files.layers, table.groupby(["layer", "lens"], sort=False)["kl"].mean().reset_index())
    write_metrics(files.metrics, metrics(table, decoder.n_layers))


def readings(
    place: int, x: Float[Tensor, "item d_model"], train: Float[Tensor, "layer item d_model"], maps: list[Affine]
) -> dict[str, Float[Tensor, "item d_model"]]:
    """What each lens takes for the last stream; `shuffled_layer` has the map of a layer half the depth away."""
    before = len(maps) - 1  # the last entry is the stream after the last block itself
    other = maps[(place + before // 2) % before]
    mean = train[-1].mean(0)
    found = (maps[place](x), x, x + mean - train[place].mean(0), other(x), mean.expand_as(x))
    return dict(zip(LENSES, found, strict=True))


def divergence(p: Float[Tensor, "item d_vocab"], q: Float[Tensor, "item d_vocab"]) -> Float[Tensor, " item"]:
    """KL divergence of q from p, both logarithms, in nats."""
    return (p.exp() * (p - q)).sum(-1).double()


def metrics(table: pd.DataFrame, last: int) -> dict[str, Metric]:
    """Mean over layers before the last stream, over documents."""
    rows = table[table["layer"] < last]
    wide = {lens: rows[rows["lens"] == lens] for lens in LENSES}

    def kl(lens: str, *controls: str, layer: int | None = None) -> Metric:
        part = {name: one if layer is None else one[one["layer"] == layer] for name, one in wide.items()}
        return over_clusters(
            part[lens]["kl"].to_numpy(),
            part[lens]["document"].to_numpy(),
            unit="nats",
            formula="KL divergence of the lens from the model's output, mean over layers",
            cluster="documents",
            controls={name: part[name]["kl"].to_numpy() for name in controls},
        )

    middle = sorted(rows["layer"].unique(), key=lambda layer: abs(layer - last / 2))[0]
    return {"tuned": kl("tuned", *LENSES[1:]), "tuned_middle": kl("tuned", *LENSES[1:], layer=middle)}


if __name__ == "__main__":
    run_step(lenses)
