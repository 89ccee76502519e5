"""Step: activation patching, denoising and noising, over residual stream, attention and MLP outputs, and heads.

One activation at one position of one layer is set to its value on the partner prompt, everything after it is recomputed
(common/interp/path_patching.py). *Noising* puts the ABC partner's value into the run on the prompt: what is necessary.
*Denoising*
puts the prompt's value into the run on the partner: what is sufficient. In percent of what there is to lose or to gain:

    noising      100 (F(patched) - F(prompt)) / F(prompt)
    denoising    100 (F(patched) - F(partner)) / (F(prompt) - F(partner))

F is the mean of logit(IO) - logit(S), the names being those of the prompt in both. Unlike path patching this counts
every route to the output. Discovery prompts; nothing is chosen here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.step import run, track
from common.core.tables import write_table
from common.data.models import load_model
from common.interp.decoder import Cache, Decoder
from common.interp.partial_forward import at_position
from common.interp.path_patching import patch_heads, patch_residual, patch_sublayer
from replications.ioi_circuit.batches import DISCOVERY, Batch, Place, balanced, in_chunks, passes
from replications.ioi_circuit.clustering import clustered
from replications.ioi_circuit.dataset import Prompt, read_prompts
from replications.ioi_circuit.residual import read_difference

STREAM_PLACES: tuple[Place, ...] = ("io", "s1", "s1_next", "s2", "end")
OUTPUT_PLACES: tuple[Place, ...] = ("s1_next", "s2", "end")
HEAD_PLACES: tuple[Place, ...] = ("s2", "end")
CHUNK = 14
TOGETHER = 10  # layers whose heads are patched in one go, to bound memory
DEPTH = 0.6
"""Where the streams at S2 and END are compared, as a share of layers: after induction heads, before S2 is read."""

Key = tuple[str, str, Place, int, int]
"""Direction, kind (resid, attn, mlp, head), position, layer, head (-1 where there is none)."""


def activation_patching(
    *,
    prompts: Path,
    manifest: Path,
    n_prompts: int,
    layer_step: int,
    head_step: int,
    device: Literal["cpu", "cuda"],
    out: Path,
    effects: Path,
) -> None:
    """Writes `metrics.json` and one row per patched activation.

    Args:
        prompts: `prompts.json`.
        manifest: `manifest.json` of the model.
        n_prompts: discovery prompts.
        layer_step: every how many layers streams and outputs are patched.
        head_step: the same for heads.
        device: where the model runs.
        out: `metrics.json`.
        effects: `effects.csv`: direction, kind, place, layer, head, percent.

    Raises:
        UserError: if `layer_step` leaves no layer to compare the streams at.
    """
    rows = balanced(read_prompts(prompts, "circuit_prompts"), DISCOVERY, n_prompts)
    decoder = Decoder(load_model(manifest.parent, device=device), max(row.positions.end for row in rows) + 1)
    if layer_step >= decoder.n_layers:
        raise UserError(
            f"activation_patching.layer_step is {layer_step}, but this model has {decoder.n_layers} layers; "
            f"set it to 1 to {decoder.n_layers - 1} in replications/ioi_circuit/config.yaml"
        )
    with torch.no_grad():
        values, runs = sweep(decoder, rows, layer_step, head_step)
    write_metrics(out, measure(values, runs, rows, decoder.n_layers, layer_step))
    write_table(effects, effect_table(values, runs))


def sweep(
    decoder: Decoder, prompts: list[Prompt], layer_step: int, head_step: int
) -> tuple[dict[Key, Float[np.ndarray, " prompt"]], dict[str, Float[np.ndarray, " prompt"]]]:
    """Patched logit differences, and those of the two plain runs."""
    parts: dict[Key, list[Tensor]] = {}
    plain: dict[str, list[Tensor]] = {"original": [], "abc": []}
    for group in track(in_chunks(prompts, CHUNK), "prompts"):
        batch = Batch(group, decoder.W_O[0].device.type)
        clean, partner = passes(decoder, batch)
        for name, cache in (("original", clean), ("abc", partner)):
            last = at_position(cache.final, batch.at("end"))
            plain[name].append(read_difference(decoder.bridge, last, batch.names))
        for direction, cache, source in (("noising", clean, partner), ("denoising", partner, clean)):
            for (kind, place, layer), final in _patches(decoder, cache, source, batch, layer_step, head_step):
                found = read_difference(decoder.bridge, final, batch.names)
                for head, values in enumerate(found) if kind == "head" else [(-1, found)]:
                    parts.setdefault((direction, kind, place, layer, head), []).append(values)

    def numbers(tensors: list[Tensor]) -> Float[np.ndarray, " prompt"]:
        found: np.ndarray = torch.cat(tensors).double().cpu().numpy()
        return found

    return {key: numbers(found) for key, found in parts.items()}, {name: numbers(x) for name, x in plain.items()}


def _patches(
    decoder: Decoder, cache: Cache, source: Cache, batch: Batch, layer_step: int, head_step: int
) -> Iterator[tuple[tuple[str, Place, int], Tensor]]:
    """The final residual stream at END after each patch, and what was patched."""
    end = batch.at("end")
    layers = range(0, decoder.n_layers, layer_step)
    for place in STREAM_PLACES:
        for layer in layers:
            yield ("resid", place, layer), patch_residual(decoder, cache, source, layer, batch.at(place), end)
    for place in OUTPUT_PLACES:
        for layer in layers:
            for part in ("attn", "mlp"):
                final = patch_sublayer(decoder, cache, source, layer, part, batch.at(place), end)
                yield (part, place, layer), final
    for place in HEAD_PLACES:
        chosen = list(range(0, decoder.n_layers, head_step))
        for start in range(0, len(chosen), TOGETHER):
            group = chosen[start : start + TOGETHER]
            finals = patch_heads(decoder, cache, source, group, batch.at(place), end).chunk(len(group))
            yield from ((("head", place, layer), final) for layer, final in zip(group, finals, strict=True))


def _scaled(
    key: Key, values: Float[np.ndarray, " prompt"], runs: dict[str, Float[np.ndarray, " prompt"]]
) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, " prompt"]]:
    """Numerator and denominator of the percentages of the module's docstring."""
    if key[0] == "noising":
        return values - runs["original"], runs["original"]
    return values - runs["abc"], runs["original"] - runs["abc"]


def measure(
    values: dict[Key, Float[np.ndarray, " prompt"]],
    runs: dict[str, Float[np.ndarray, " prompt"]],
    prompts: list[Prompt],
    n_layers: int,
    layer_step: int,
) -> dict[str, Metric]:
    """The stream at S2 and at END three fifths into the model, in both directions."""
    layer = round(DEPTH * n_layers / layer_step) * layer_step
    metrics = {}
    for direction in ("noising", "denoising"):
        parts = {}
        for place in STREAM_PLACES:
            key: Key = (direction, "resid", place, layer, -1)
            above, below = _scaled(key, values[key], runs)
            parts[place] = above
            metrics[f"{direction}_{place}"] = clustered(
                100 * above,
                prompts,
                unit="percent",
                formula=f"{direction} of the residual stream at {place.upper()} before layer {layer}",
                denominators=below,
            )
        metrics[f"{direction}_s2_minus_end"] = clustered(
            100 * (parts["s2"] - parts["end"]),
            prompts,
            unit="percent",
            formula=f"{direction} at S2 minus at END before layer {layer}",
            denominators=below,
        )
    return metrics


def effect_table(
    values: dict[Key, Float[np.ndarray, " prompt"]], runs: dict[str, Float[np.ndarray, " prompt"]]
) -> pd.DataFrame:
    """One row per patched activation."""
    records = []
    for key, found in values.items():
        above, below = _scaled(key, found, runs)
        names = ("direction", "kind", "place", "layer", "head")
        records.append(dict(zip(names, key, strict=True)) | {"percent": 100 * above.mean() / below.mean()})
    return pd.DataFrame(records)


if __name__ == "__main__":
    run(activation_patching)
