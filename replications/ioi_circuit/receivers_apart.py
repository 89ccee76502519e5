"""Step: what one head reads through one of its inputs, by path patching (Wang et al. 2022, appendix B).

The sweeps of path_patching.py have sets of heads as receivers, and with grouped-query attention three query heads share
keys and values, so that opposite effects may cancel. Here every receiver is one input of one named head (`INPUTS`).
Keys and values of a group are expanded: each query head gets a copy of its own (`Decoder.expanded`), and only the copy
of the receiver is patched. The name movers' queries stand beside it as a set.

Senders are chosen on discovery prompts: of the `screened` heads with the largest effect to first order, the `SHOWN`
with the largest exact effect. What they do is measured on verification prompts. Nothing here names a head.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import without_interval
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.interp.decoder import Cache, Decoder
from common.interp.partial_forward import Kind, at_position
from common.interp.path_patching import Receivers, first_order, path_patch
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, Batch, Place, balanced, load_circuit_prompts
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.passes import Passes, shared_passes
from replications.ioi_circuit.prompt_statistics import clustered
from replications.ioi_circuit.residual import read_difference
from replications.ioi_circuit.settings import ReceiversApart
from replications.ioi_circuit.sweeps import name_difference

INPUTS: dict[str, tuple[tuple[Kind, Place], ...]] = {
    "name_mover": (("q", "end"),),
    "s_suppressing": (("q", "end"), ("k", "s2"), ("v", "s2")),
    "end_reader": (("q", "end"), ("k", "end"), ("v", "end")),
    "s_inhibition": (("q", "end"), ("k", "s2"), ("v", "s2")),
}
"""Class -> the inputs through which its heads are read; movers read names where no node of the circuit stands."""
CLASS_COLUMNS = ("logits_class", "mover_queries_class")
SHOWN = 3
COLUMNS = ["receiver", "input", "sender", "effect", "effect_again", "ci_low", "ci_high"]


class Input(NamedTuple):
    """One receiver set: what stands in tables, the receivers, and where they and their senders sit."""

    name: str
    kind: str
    receivers: Receivers
    place: Place


class ReceiversApartFiles(Files):
    manifest: Path
    prompts: Path
    heads: Path
    """of path patching, for the classes"""
    metrics: Path
    senders: Path
    """the strongest senders into each input, with their effect on both halves"""


def receivers_apart(files: ReceiversApartFiles, settings: ReceiversApart, run: RunInfo) -> None:
    """Writes `metrics.json` and one row per input and sender."""
    narrow, rows = load_circuit_prompts(files.manifest, files.prompts, run.device)
    inputs = inputs_of(pd.read_csv(files.heads))
    records: list[list[object]] = []
    metrics = {"n_inputs": without_interval(float(len(inputs)), 1, "inputs", "inputs of named heads")}
    with torch.no_grad():
        seen, fresh = (
            [expanded(one, narrow) for one in shared_passes(narrow, balanced(rows, half, count))]
            for half, count in ((DISCOVERY, settings.n_prompts), (VERIFICATION, settings.again_prompts))
        )
        decoder = narrow.expanded()
        clean = np.concatenate([name_difference(decoder, one) for one in fresh])
        before = np.concatenate([name_difference(decoder, one) for one in seen]).mean()
        prompts = [row for one in fresh for row in one.batch.prompts]
        for one in track(inputs, "inputs"):
            chosen = strongest(decoder, seen, one, settings.screened)
            again = effects(decoder, fresh, one, set(chosen))
            of_senders = measure(one, chosen, again, clean, prompts)
            for (sender, metric), values in zip(of_senders.items(), chosen.values(), strict=True):
                effect = [100 * values.mean() / before, metric.value, metric.ci_low, metric.ci_high]
                records.append([one.name, one.kind, sender, *effect])
            first = next(iter(of_senders), None)
            if first:
                metrics[re.sub(r"\W", "_", f"into_{one.name} {one.kind} from {first}")] = of_senders[first]
    write_metrics(files.metrics, metrics)
    write_table(files.senders, pd.DataFrame(records, columns=COLUMNS))


def inputs_of(heads: pd.DataFrame) -> list[Input]:
    """Every input of every head of the classes of `INPUTS`, and the name movers' queries together."""
    found = []
    for kind, reads in INPUTS.items():
        named = heads[(heads[list(CLASS_COLUMNS)] == kind).any(axis=1)]
        pairs = [(int(layer), int(head)) for layer, head in zip(named["layer"], named["head"], strict=True)]
        if kind == "name_mover" and len(pairs) > 1:
            found.append(Input("name movers", "q at end", Receivers("q", tuple(pairs)), "end"))
        found += [
            Input(f"{layer}.{head}", f"{part} at {place}", Receivers(part, ((layer, head),)), place)
            for layer, head in pairs
            for part, place in reads
        ]
    return found


def expanded(one: Passes, decoder: Decoder) -> Passes:
    """The same passes with keys and values for every query head, as `Decoder.expanded` has them."""
    wide = {name: [x.repeat_interleave(decoder.group, 2) for x in getattr(one.clean, name)] for name in ("k", "v")}
    return one._replace(clean=Cache(**(vars(one.clean) | wide)))


def strongest(decoder: Decoder, prompts: list[Passes], one: Input, screened: int) -> dict[tuple[int, int], np.ndarray]:
    """The senders with the largest exact effect, largest first, with the change of the difference on each prompt."""
    estimates = []
    for batch, cache, partner, *_ in prompts:

        def read(final: Float[Tensor, "n d"], batch: Batch = batch) -> Float[Tensor, " n"]:
            return read_difference(decoder.bridge, final, batch.names)

        change = first_order(decoder, cache, partner, batch.at(one.place), batch.at("end"), one.receivers, read)
        estimates.append(change.double().cpu().numpy())
    largest = np.argsort(-np.abs(np.concatenate(estimates, 1).mean(1)), kind="stable")[:screened]
    exact = effects(decoder, prompts, one, {divmod(int(head), decoder.n_heads) for head in largest})
    return dict(sorted(exact.items(), key=lambda item: -abs(float(item[1].mean())))[:SHOWN])


def effects(
    decoder: Decoder, prompts: list[Passes], one: Input, senders: set[tuple[int, int]]
) -> dict[tuple[int, int], np.ndarray]:
    """Change of logit(IO) - logit(S) on each prompt when a sender's output on the ABC partner reaches the input."""
    parts = []
    for batch, cache, partner, *_ in prompts:
        end = batch.at("end")
        patched = path_patch(decoder, cache, partner, batch.at(one.place), end, one.receivers, senders)
        clean = read_difference(decoder.bridge, at_position(cache.final, end), batch.names)
        parts.append((read_difference(decoder.bridge, patched, batch.names) - clean).double().cpu().numpy())
    return dict(zip(sorted(senders), np.concatenate(parts, 1), strict=True))


def measure(
    one: Input,
    chosen: dict[tuple[int, int], np.ndarray],
    again: dict[tuple[int, int], np.ndarray],
    clean: np.ndarray,
    prompts: list[Prompt],
) -> dict[str, Metric]:
    """Effect of each chosen sender on verification prompts, by sender, strongest on discovery prompts first."""
    text = f"path_patch_w22 into {one.kind} of {one.name}, sender chosen on discovery prompts"
    return {
        f"{layer}.{head}": clustered(
            100 * again[layer, head], prompts, unit="percent", formula=text, denominators=clean
        )
        for layer, head in chosen
    }


if __name__ == "__main__":
    run_step(receivers_apart)
