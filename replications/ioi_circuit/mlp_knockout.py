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

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step, track
from common.core.tables import write_table
from common.interp.decoder import Decoder
from common.interp.partial_forward import at_position, resume
from replications.ioi_circuit.batches import VERIFICATION, Batch, balanced, by_template, load_circuit_prompts
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.prompt_statistics import clustered
from replications.ioi_circuit.residual import read_difference
from replications.ioi_circuit.settings import MlpKnockout

WAYS = ("everywhere", "end", "direct")
LeftByLayer = dict[str, Float[np.ndarray, "layer prompt"]]


class MlpKnockoutFiles(Files):
    manifest: Path
    prompts: Path
    metrics: Path
    mlps: Path
    """F / F(M) with its interval, for each way and layer"""


def mlp_knockout(files: MlpKnockoutFiles, settings: MlpKnockout, run: RunInfo) -> None:
    """Writes `metrics.json` and one row per layer and way."""
    decoder, every = load_circuit_prompts(files.manifest, files.prompts, run.device)
    rows = balanced(every, VERIFICATION, settings.n_prompts)
    with torch.no_grad():
        means = mean_outputs(decoder, unseen(every, rows), settings.means_prompts)
        clean, left, later = knock_out(decoder, Batch(rows, run.device), means)
    write_metrics(files.metrics, measure(clean, left, later, rows))
    write_table(files.mlps, mlp_table(clean, left, rows))


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
) -> tuple[Float[np.ndarray, " prompt"], LeftByLayer, Float[np.ndarray, " prompt"]]:
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
        differences: np.ndarray = read_difference(decoder.bridge, final, batch.names).double().cpu().numpy()
        return differences

    left = {way: read(torch.stack(streams)) for way, streams in finals.items()}
    return read(last), left, read(without(range(1, decoder.n_layers)))


def measure(
    clean: Float[np.ndarray, " prompt"], left: LeftByLayer, later: Float[np.ndarray, " prompt"], prompts: list[Prompt]
) -> dict[str, Metric]:
    """What is left without the first MLP, without another one (mean), and without all others."""
    metrics = {
        f"{way}_first": clustered(
            values[0],
            prompts,
            unit="1",
            formula=f"F / F(M), without the first MLP ({way}); control: without one other, mean over them",
            denominators=clean,
            controls={"other_mlps": values[1:].mean(0)},
        )
        for way, values in left.items()
    }
    text = "F / F(M), without all MLPs but the first (everywhere)"
    metrics["everywhere_all_others"] = clustered(later, prompts, unit="1", formula=text, denominators=clean)
    return metrics


def mlp_table(clean: Float[np.ndarray, " prompt"], left: LeftByLayer, prompts: list[Prompt]) -> pd.DataFrame:
    """One row per way and layer: F / F(M) with its interval over templates."""
    rows = []
    for way, values in left.items():
        for layer, of_layer in enumerate(values):
            one = clustered(of_layer, prompts, unit="1", formula=way, denominators=clean)
            rows.append({"way": way, "layer": layer, "left": one.value, "low": one.ci_low, "high": one.ci_high})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    run_step(mlp_knockout)
