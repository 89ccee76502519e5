"""Step: trains sparse autoencoders on grokked networks, and asks what they make of a circle.

A number is a point on a circle for each key frequency. That is a feature with two dimensions and no direction of its
own (Engels et al. 2024). One TopK autoencoder per seed is trained on the residual stream at `=` after the MLP, over all
pairs. There, a + b stands on a circle in the plane of cos and sin of w_k (a + b). A latent *reads* a circle if most of
its decoder row lies in that plane. Control: as many random directions.
"""

from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from common.core.metrics import write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, run_step
from common.core.tables import write_table
from common.saes.architectures.base import Batch
from common.saes.metrics import fvu
from common.saes.recipe import Recipe
from common.saes.sae import Sae
from common.saes.trainer import train as train_saes
from replications.grokking.circuit import final_snapshot
from replications.grokking.fourier import circle, cosine_shares, key_frequencies
from replications.grokking.settings import Dictionary, MeasureDictionary
from replications.grokking.task import all_pairs
from replications.grokking.transformer import forward, member, residual


class DictionaryFiles(Files):
    models: Path
    metrics: Path
    circles: Path
    """embeddings in the planes of the key frequencies, one row per number"""
    latents: Path
    """mean activation at every angle of each latent that reads the strongest circle"""


def dictionary(files: DictionaryFiles, settings: MeasureDictionary) -> None:
    """Trains one autoencoder per seed and measures how many latents share a circle."""
    found, prime = load_file(files.models), settings.training.prime
    pairs, seeds = all_pairs(prime), found["seeds"].tolist()
    weights = {name.removeprefix("weights."): value for name, value in found.items() if name.startswith("weights.")}
    networks = [member(weights, final_snapshot(found, place), place) for place in range(len(seeds))]
    forwards = [forward(network, pairs) for network in networks]
    streams = torch.stack([residual(*both) for both in zip(networks, forwards, strict=True)])
    saes = train_on(streams, settings.dictionary, seeds, files.metrics.with_suffix(".checkpoint"))
    each: list[dict[str, float]] = []
    circles, latents = [], []
    for place, (seed, network, sae) in enumerate(zip(seeds, networks, saes, strict=True)):
        stream, shares = streams[place], cosine_shares(forwards[place].logits)
        keys = sorted(key_frequencies(shares, settings.reading.key), key=lambda k: -float(shares[k - 1]))
        planes, active = [circle(by_sum(stream, prime), k) for k in keys], sae.encode(stream)
        drawn = torch.randn(sae.W_dec.shape, generator=torch.Generator().manual_seed(seed))
        least = settings.dictionary.in_plane
        reads, at_random = ([in_plane(rows, plane) >= least for plane in planes] for rows in (sae.W_dec, drawn))
        reads = [one & (active.amax(0) > 0) for one in reads]
        arcs = torch.cat([arc(active[:, one], prime) for one in reads])
        each.append({
            "latents_per_circle": float(torch.stack(reads).sum()) / len(keys),
            "random_directions": float(torch.stack(at_random).sum()) / len(keys),
            "arc": float(arcs.median()) if len(arcs) else 1.0,
            "fvu": fvu(stream, sae.decode(active)),
        })  # fmt: skip
        circles += [points(network["W_E"][:-1], k).assign(seed=seed, rank=rank) for rank, k in enumerate(keys)]
        latents.append(tuning(active[:, reads[0]], prime, keys[0]).assign(seed=seed))
    rows = {name: [one[name] for one in each] for name in each[0]}
    metrics = {
        "latents_per_circle": over_seeds(
            rows["latents_per_circle"], unit="1", formula=FORMULAS["latents_per_circle"],
            controls={"random_directions": rows["random_directions"]},
        ),
        **{name: over_seeds(rows[name], unit="share", formula=FORMULAS[name]) for name in ("arc", "fvu")},
    }  # fmt: skip
    write_metrics(files.metrics, metrics)
    write_table(files.circles, pd.concat(circles))
    write_table(files.latents, pd.concat(latents))


FORMULAS = {
    "latents_per_circle": "latents whose decoder row lies in the plane of one key frequency, mean over key frequencies",
    "arc": "median share of the circle on which a latent that reads it is active",
    "fvu": "share of the variance of the residual stream that the autoencoder leaves unexplained",
}


def train_on(
    streams: Float[Tensor, "seed pair d_model"], settings: Dictionary, seeds: list[int], checkpoint: Path
) -> list[Sae]:
    """One TopK autoencoder per seed, in one batched job, for raw activations."""
    scales = streams.square().sum(-1).mean(-1).rsqrt()
    scaled = streams * scales[:, None, None]

    def batches(step: int, _: str) -> Batch:
        draw = torch.Generator().manual_seed(step)
        x = scaled[:, torch.randperm(streams.shape[1], generator=draw)[: settings.training.batch]]
        return Batch(x, x)

    shape = {"architecture": "topk", "d_sae": settings.d_sae, "sparsity": float(settings.active)}
    recipes = [Recipe.model_validate({**shape, "seed": seed}) for seed in seeds]
    trained = train_saes(recipes, batches, settings.training, checkpoint, data="grokking")
    return [one.sae.folded(float(scale)) for one, scale in zip(trained, scales, strict=True) if one.sae is not None]


def by_sum(stream: Float[Tensor, "pair d_model"], prime: int) -> Float[Tensor, "number d_model"]:
    """Mean over the pairs with equal (a + b) mod p."""
    total = all_pairs(prime).sum(-1) % prime
    return torch.zeros(prime, stream.shape[1]).index_add_(0, total, stream) / prime


def in_plane(rows: Float[Tensor, "latent d_model"], plane: Float[Tensor, "axis d_model"]) -> Float[Tensor, " latent"]:
    """Share of a row's squared length inside a plane."""
    axes = plane / plane.norm(dim=1, keepdim=True)
    shares: Tensor = (rows.double() @ axes.T).square().sum(1) / rows.double().square().sum(1)
    return shares


def arc(active: Float[Tensor, "pair latent"], prime: int) -> Float[Tensor, " latent"]:
    """Share of the angles of a + b at which a latent's mean activation is above a tenth of its largest."""
    means = by_sum(active, prime)
    shares: Tensor = (means > means.amax(0) / 10).double().mean(0)
    return shares


def points(W_E: Float[Tensor, "number d_model"], frequency: int) -> pd.DataFrame:
    """The numbers in the plane of one frequency, and their angle on the circle in turns."""
    plane = circle(W_E, frequency)
    place = (W_E - W_E.mean(0)).double() @ (plane / plane.norm(dim=1, keepdim=True)).T
    number = torch.arange(len(W_E))
    turn = number * frequency % len(W_E) / len(W_E)
    return pd.DataFrame({"number": number, "frequency": frequency, "x": place[:, 0], "y": place[:, 1], "turn": turn})


def tuning(active: Float[Tensor, "pair latent"], prime: int, frequency: int) -> pd.DataFrame:
    """Mean activation of every latent at every angle of w_k (a + b), over its largest; latents by their peak."""
    means = by_sum(active, prime)
    means = means / means.amax(0).clamp(min=torch.finfo(means.dtype).tiny)
    turn = torch.arange(prime) * frequency % prime / prime
    order = turn[means.argmax(0)].argsort()
    rank = torch.arange(len(order)).repeat_interleave(prime)
    flat = {"latent": rank, "turn": turn.repeat(len(order)), "activation": means[:, order].T.flatten()}
    return pd.DataFrame(flat).assign(frequency=frequency)


if __name__ == "__main__":
    run_step(dictionary)
