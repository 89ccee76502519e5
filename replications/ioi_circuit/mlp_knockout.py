"""Step: which MLPs does the task need (Wang et al. 2022, appendix J and figure 19)?

The output of one MLP, or of all but the first, becomes its mean over ABC prompts of the same template, position by
position. F is the mean of logit(IO) - logit(S), in units of F(M), the plain run; what comes after is recomputed:

    everywhere   at every position
    end          at END alone
    direct       at END, and only in the residual stream that the last norm reads (no later layer sees it)

Circuits here keep all MLPs; this says what that costs in explanation. Verification prompts; means are taken over other
prompts of the same templates. Nothing is chosen.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import run, track
from common.core.tables import write_table
from common.data.models import load_model
from common.interp.decoder import Decoder
from common.interp.partial_forward import at_position, resume
from replications.ioi_circuit.batches import VERIFICATION, Batch, balanced, by_template
from replications.ioi_circuit.clustering import clustered
from replications.ioi_circuit.dataset import Prompt, read_prompts
from replications.ioi_circuit.residual import read_difference

WAYS = ("everywhere", "end", "direct")
Found = dict[str, Float[np.ndarray, "layer prompt"]]


def mlp_knockout(
    *,
    prompts: Path,
    manifest: Path,
    n_prompts: int,
    means_prompts: int,
    device: Literal["cpu", "cuda"],
    out: Path,
    table: Path,
) -> None:
    """Writes `metrics.json` and one row per layer and way.

    Args:
        prompts: `prompts.json`.
        manifest: `manifest.json` of the model.
        n_prompts: verification prompts.
        means_prompts: ABC prompts in the mean of a template.
        device: where the model runs.
        out: `metrics.json`.
        table: `mlps.csv`: way, layer, F / F(M) with its interval.
    """
    every = read_prompts(prompts, "circuit_prompts")
    rows = balanced(every, VERIFICATION, n_prompts)
    decoder = Decoder(load_model(manifest.parent, device=device), max(row.positions.end for row in rows) + 1)
    with torch.no_grad():
        clean, found, later = knock_out(
            decoder, Batch(rows, device), mean_outputs(decoder, unseen(every, rows), means_prompts)
        )
    write_metrics(out, measure(clean, found, later, rows))
    write_table(table, mlp_table(clean, found, rows))


def unseen(prompts: list[Prompt], measured: list[Prompt]) -> list[Prompt]:
    """Prompts of the same templates that are not measured; those measured where a template has no others."""
    taken, templates = {row.versions["original"].text for row in measured}, {row.template for row in measured}
    free = [row for row in prompts if row.template in templates and row.versions["original"].text not in taken]
    left = {row.template for row in free}
    return free + [row for row in measured if row.template not in left]


def mean_outputs(decoder: Decoder, prompts: list[Prompt], most: int) -> dict[int, Float[Tensor, "layer pos d_model"]]:
    """By template: mean output of every MLP over the first `most` ABC prompts."""
    means = {}
    for group in by_template(prompts):
        batch = Batch(group[:most], decoder.W_O[0].device.type)
        outputs: list[Tensor] = []

        def keep(layer: int, output: Tensor, outputs: list[Tensor] = outputs) -> Tensor:
            outputs.append(output.mean(0))
            return output

        decoder.forward(batch.tokens("abc"), batch.mask, mlp_edit=keep)
        means[group[0].template] = torch.stack(outputs)
    return means


def knock_out(
    decoder: Decoder, batch: Batch, means: dict[int, Float[Tensor, "layer pos d_model"]]
) -> tuple[Float[np.ndarray, " prompt"], Found, Float[np.ndarray, " prompt"]]:
    """logit(IO) - logit(S) of the plain run, without each MLP in every way, and without all but the first."""
    tokens, mask, end = batch.tokens("original"), batch.mask, batch.at("end")
    length = tokens.shape[1]
    instead = torch.stack(
        [torch.nn.functional.pad(means[row.template], (0, 0, 0, length))[:, :length] for row in batch.prompts], 1
    )  # what is padded is never read
    clean = decoder.forward(tokens, mask, keep=True)
    last = at_position(clean.final, end)

    def without(layers: range) -> Float[Tensor, "batch d_model"]:
        def edit(layer: int, output: Tensor) -> Tensor:
            return instead[layer] if layer in layers else output

        start = (layers[0], clean.resid_pre[layers[0]])
        return at_position(decoder.forward(tokens, mask, mlp_edit=edit, resume=start).final, end)

    finals: dict[str, list[Tensor]] = {way: [] for way in WAYS}
    after = [*clean.resid_pre[1:], clean.final]
    for layer in track(range(decoder.n_layers), "layers"):
        mean, middle = at_position(instead[layer], end), at_position(clean.resid_mid[layer], end)
        own = at_position(after[layer], end) - middle
        finals["everywhere"].append(without(range(layer, layer + 1)))
        finals["end"].append(resume(decoder, clean, layer + 1, end, end, (middle + mean)[None])[0])
        finals["direct"].append(last - own + mean)

    def read(final: Float[Tensor, "*n batch d_model"]) -> Float[np.ndarray, "*n batch"]:
        found: np.ndarray = read_difference(decoder.bridge, final, batch.names).double().cpu().numpy()
        return found

    found = {way: read(torch.stack(streams)) for way, streams in finals.items()}
    return read(last), found, read(without(range(1, decoder.n_layers)))


def measure(
    clean: Float[np.ndarray, " prompt"], found: Found, later: Float[np.ndarray, " prompt"], prompts: list[Prompt]
) -> dict[str, Metric]:
    """What is left without the first MLP, without another one (mean), and without all others."""
    metrics = {}
    for way, values in found.items():
        for name, left, text in (
            ("first", values[0], "without the first MLP"),
            ("other", values[1:].mean(0), "without one other MLP, mean over them"),
            ("first_minus_other", values[0] - values[1:].mean(0), "the first minus the other"),
        ):
            formula = f"F / F(M), {text} ({way})"
            metrics[f"{way}_{name}"] = clustered(left, prompts, unit="1", formula=formula, denominators=clean)
    text = "F / F(M), without all MLPs but the first (everywhere)"
    metrics["everywhere_all_others"] = clustered(later, prompts, unit="1", formula=text, denominators=clean)
    return metrics


def mlp_table(clean: Float[np.ndarray, " prompt"], found: Found, prompts: list[Prompt]) -> pd.DataFrame:
    """One row per way and layer: F / F(M) with its interval over templates."""
    rows = []
    for way, values in found.items():
        for layer, left in enumerate(values):
            one = clustered(left, prompts, unit="1", formula=way, denominators=clean)
            rows.append({"way": way, "layer": layer, "left": one.value, "low": one.ci_low, "high": one.ci_high})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    run(mlp_knockout)
