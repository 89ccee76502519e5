"""One network read over all pairs, and the numbers that say whether it adds by waves (Nanda et al. 2023, section 4)."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from replications.grokking.fourier import (
    Neurons,
    cosine_shares,
    fourier_norms,
    grid_norms,
    permuted,
    phase_error,
    read_neurons,
    roundness,
    strongest,
    wave_shares,
)
from replications.grokking.settings import Reading
from replications.grokking.task import Task
from replications.grokking.transformer import Forward, Weights, forward


class Network(NamedTuple):
    """One pass over all pairs, shares of the frequencies, the neurons, and what each of them writes to the logits."""

    found: Forward
    W_E: Float[Tensor, "number d_model"]
    cosines: Float[Tensor, " frequency"]
    embedding: Float[Tensor, " frequency"]
    neurons: Neurons
    writes: Float[Tensor, "neuron answer"]


def read(weights: Weights, one: Task) -> Network:
    """Reads the Fourier basis of one network."""
    found, writes, W_E = forward(weights, one.pairs), weights["W_out"] @ weights["W_U"], weights["W_E"][:-1]
    return Network(found, W_E, cosine_shares(found.logits), wave_shares(W_E), read_neurons(found.post, writes), writes)


def final_snapshot(found: Weights, place: int) -> int:
    """Place of the network called grokked: the snapshot of least training loss in the last quarter.

    At large rates training loss has spikes, and the last step may fall into one.
    """
    loss = found["loss_train"][torch.isin(found["steps"], found["snapshots"]), place]
    first = len(loss) * 3 // 4
    return first + int(loss[first:].argmin())


def values(network: Network, count: int, reading: Reading) -> dict[str, float]:
    """The numbers of one network, read with its own `count` strongest frequencies."""
    of_one = torch.stack([wave_shares(row[:, None]) for row in network.writes]).amax(1)
    return {
        "embedding_few": float(network.embedding.topk(min(reading.few, len(network.embedding))).values.sum()),
        "logits_explained": float(network.cosines.topk(min(count, len(network.cosines))).values.sum()),
        "pure_neurons": float((network.neurons.share >= reading.pure).double().mean()),
        "pure_outputs": float((of_one >= reading.pure).double().mean()),
        "phase_error": float(network.neurons.phase_error.median()),
        "roundness": roundness(network.W_E, strongest(network.cosines, count)),
    }


UNITS = {"phase_error": "rad", "roundness": "1"}
FORMULAS = {
    "embedding_few": "share of the strongest frequencies, as many as `few`, in the power of W_E",
    "logits_explained": "share of the variance of the logits: sum over key k of cos(w_k (a + b - c))",
    "pure_neurons": "share of neurons with at least `pure` of their variance over the pairs in one frequency",
    "pure_outputs": "share of neurons with at least `pure` of the power of their row of W_out W_U in one frequency",
    "phase_error": "median |w - u - v| over neurons, each at its strongest frequency",
    "roundness": "short over long axis of the ellipses of the key frequencies in W_E, weighted by their power",
}


def permuted_error(network: Network) -> float:
    """Median phase error when output phases are handed to other neurons of the same frequency."""
    found = network.neurons
    return float(phase_error(permuted(found.phases, found.frequency)).median())


def frequency_table(network: Network, keys: list[int]) -> pd.DataFrame:
    """One row per frequency: norms of the embedding along cos and sin, shares in embedding and logits."""
    norms = fourier_norms(network.W_E)
    number = np.arange(1, len(norms) + 1)
    columns = {"frequency": number, "cos": norms[:, 0], "sin": norms[:, 1], "embedding": network.embedding}
    return pd.DataFrame({**columns, "logits": network.cosines, "key": np.isin(number, keys)})


def neuron_table(network: Network) -> pd.DataFrame:
    """One row per neuron: its frequency, the share of its variance, and its phases."""
    found = network.neurons
    turned = torch.remainder(torch.stack([found.phases[0] + found.phases[1], found.phases[2]]), 2 * torch.pi)
    columns = {"frequency": found.frequency, "share": found.share, "input_phase": turned[0], "output_phase": turned[1]}
    return pd.DataFrame(columns)


def spectra_table(grokked: Network, memorised: Network) -> pd.DataFrame:
    """One row per product of a wave of a and a wave of b: norms in the logits, and in the neuron that varies most."""
    neuron = int(grokked.found.post.var(0).argmax())
    tables = {
        "logits": grokked.found.logits - grokked.found.logits.mean(-1, keepdim=True),
        "logits_memorised": memorised.found.logits - memorised.found.logits.mean(-1, keepdim=True),
        "neuron": grokked.found.post[:, [neuron]],
        "neuron_memorised": memorised.found.post[:, [neuron]],
    }
    norms = {name: grid_norms(table) for name, table in tables.items()}
    size = len(grokked.W_E)
    place = {"wave_a": np.repeat(np.arange(size), size), "wave_b": np.tile(np.arange(size), size)}
    return pd.DataFrame({**place, **{name: value.flatten() for name, value in norms.items()}})
