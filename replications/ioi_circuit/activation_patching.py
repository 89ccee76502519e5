"""Step: activation patching, denoising and noising, over residual stream, attention and MLP outputs, and heads.

One activation at one position of one layer is set to its value on the partner prompt, everything after it is recomputed
(common/interp/path_patching.py). *Noising* puts the ABC partner's value into the run on the prompt: what is necessary.
*Denoising* puts the prompt's value into the run on the partner: what is sufficient. In percent of what there is to lose
or to gain:

    noising      100 (F(patched) - F(prompt)) / F(prompt)
    denoising    100 (F(patched) - F(partner)) / (F(prompt) - F(partner))

F is the mean of logit(IO) - logit(S), the names being those of the prompt in both. Unlike path patching this counts
every route to the output. Discovery prompts; nothing is chosen here.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.core.errors import UserError
from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.interp.decoder import Cache, Decoder
from common.interp.partial_forward import at_position
from common.interp.path_patching import patch_heads, patch_residual, patch_sublayer
from replications.ioi_circuit.batches import DISCOVERY, Batch, Place, balanced, in_chunks, load_circuit_prompts, passes
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.prompt_statistics import PerPrompt, clustered
from replications.ioi_circuit.residual import read_difference
from replications.ioi_circuit.settings import ActivationPatching

STREAM_PLACES: tuple[Place, ...] = ("io", "s1", "s1_next", "s2", "end")
OUTPUT_PLACES: tuple[Place, ...] = ("s1_next", "s2", "end")
HEAD_PLACES: tuple[Place, ...] = ("s2", "end")
CHUNK = 14
TOGETHER = 10  # layers whose heads are patched in one go, to bound memory
DEPTH = 0.6
"""Where the streams at S2 and END are compared, as a share of layers: after induction heads, before S2 is read."""

Key = tuple[str, str, Place, int, int]
"""Direction, kind (resid, attn, mlp, head), position, layer, head (-1 where there is none)."""


class ActivationPatchingFiles(Files):
    manifest: Path
    prompts: Path
    metrics: Path
    effects: Path
    """percent for each direction, kind, place, layer and head"""


def activation_patching(files: ActivationPatchingFiles, settings: ActivationPatching, run: RunInfo) -> None:
    """Writes `metrics.json` and one row per patched activation.

    Raises:
        UserError: if `layer_step` leaves no layer to compare the streams at.
    """
    decoder, every = load_circuit_prompts(files.manifest, files.prompts, run.device)
    rows = balanced(every, DISCOVERY, settings.n_prompts)
    if settings.layer_step >= decoder.n_layers:
        raise UserError(
            f"activation_patching.layer_step is {settings.layer_step}, but this model has {decoder.n_layers} layers; "
            f"set it to 1 to {decoder.n_layers - 1} in replications/ioi_circuit/config.yaml"
        )
    with torch.no_grad():
        values, plain = sweep(decoder, rows, settings)
    write_metrics(files.metrics, measure(values, plain, rows, decoder.n_layers, settings.layer_step))
    write_table(files.effects, effect_table(values, plain))


def sweep(
    decoder: Decoder, prompts: list[Prompt], settings: ActivationPatching
) -> tuple[dict[Key, PerPrompt], dict[str, PerPrompt]]:
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
            for (kind, place, layer), final in _patches(decoder, cache, source, batch, settings):
                differences = read_difference(decoder.bridge, final, batch.names)
                for head, values in enumerate(differences) if kind == "head" else [(-1, differences)]:
                    parts.setdefault((direction, kind, place, layer, head), []).append(values)

    def numbers(tensors: list[Tensor]) -> PerPrompt:
        array: np.ndarray = torch.cat(tensors).double().cpu().numpy()
        return array

    return {key: numbers(tensors) for key, tensors in parts.items()}, {name: numbers(x) for name, x in plain.items()}


def _patches(
    decoder: Decoder, cache: Cache, source: Cache, batch: Batch, settings: ActivationPatching
) -> Iterator[tuple[tuple[str, Place, int], Tensor]]:
    """The final residual stream at END after each patch, and what was patched."""
    end = batch.at("end")
    layers = range(0, decoder.n_layers, settings.layer_step)
    for place in STREAM_PLACES:
        for layer in layers:
            yield ("resid", place, layer), patch_residual(decoder, cache, source, layer, batch.at(place), end)
    for place in OUTPUT_PLACES:
        for layer in layers:
            for part in ("attn", "mlp"):
                final = patch_sublayer(decoder, cache, source, layer, part, batch.at(place), end)
                yield (part, place, layer), final
    for place in HEAD_PLACES:
        chosen = list(range(0, decoder.n_layers, settings.head_step))
        for start in range(0, len(chosen), TOGETHER):
            group = chosen[start : start + TOGETHER]
            finals = patch_heads(decoder, cache, source, group, batch.at(place), end).chunk(len(group))
            yield from ((("head", place, layer), final) for layer, final in zip(group, finals, strict=True))


def _scaled(key: Key, values: PerPrompt, plain: dict[str, PerPrompt]) -> tuple[PerPrompt, PerPrompt]:
    """Numerator and denominator of the percentages of the module's docstring."""
    if key[0] == "noising":
        return values - plain["original"], plain["original"]
    return values - plain["abc"], plain["original"] - plain["abc"]


def measure(
    values: dict[Key, PerPrompt], plain: dict[str, PerPrompt], prompts: list[Prompt], n_layers: int, layer_step: int
) -> dict[str, Metric]:
    """The stream at S2 and at END three fifths into the model, in both directions."""
    layer = round(DEPTH * n_layers / layer_step) * layer_step
    metrics = {}
    for direction in ("noising", "denoising"):
        keys: dict[str, Key] = {place: (direction, "resid", place, layer, -1) for place in STREAM_PLACES}
        parts = {place: _scaled(key, values[key], plain) for place, key in keys.items()}
        metrics[f"{direction}_s2"] = clustered(
            100 * parts["s2"][0],
            prompts,
            unit="percent",
            formula=f"{direction} of the residual stream at S2 before layer {layer}; controls: at other positions",
            denominators=parts["s2"][1],
            controls={place: 100 * above for place, (above, _) in parts.items() if place != "s2"},
        )
    return metrics


def effect_table(values: dict[Key, PerPrompt], plain: dict[str, PerPrompt]) -> pd.DataFrame:
    """One row per patched activation."""
    records = []
    for key, patched in values.items():
        above, below = _scaled(key, patched, plain)
        names = ("direction", "kind", "place", "layer", "head")
        records.append(dict(zip(names, key, strict=True)) | {"percent": 100 * above.mean() / below.mean()})
    return pd.DataFrame(records)


if __name__ == "__main__":
    run_step(activation_patching)
