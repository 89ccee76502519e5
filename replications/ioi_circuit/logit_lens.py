"""Step: logit lens over layers (nostalgebraist 2020): when does the answer appear in the residual stream at END?

The final norm and the unembedding are applied to the residual stream before each block and after the last. Depth 0 is
the embedding, depth 1 the model's own output. Logits are relative to their mean over the vocabulary.

    late_gain    (difference at depth 1 - difference at `early_depth`) / difference at depth 1
    half_depth   smallest depth from which on the mean difference stays above half its final value
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors import safe_open

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import run
from common.core.tables import write_table
from common.data.models import load_model
from replications.ioi_circuit.clustering import clustered
from replications.ioi_circuit.dataset import Prompt, read_prompts
from replications.ioi_circuit.residual import read_names

CHUNK = 256


def logit_lens(
    *,
    prompts: Path,
    activations: Path,
    manifest: Path,
    early_depth: float,
    device: Literal["cpu", "cuda"],
    out: Path,
    lens: Path,
) -> None:
    """Writes `metrics.json` and the lens curves.

    Args:
        prompts: `prompts.json`.
        activations: `activations.safetensors`.
        manifest: `manifest.json` of the model, for its norm and unembedding.
        early_depth: share of the layers that counts as early.
        device: where the lens is computed.
        out: `metrics.json`.
        lens: `lens.csv` with columns version, layer, depth, quantity (logit_io, logit_s, difference), value, ci_low,
            ci_high.
    """
    rows = read_prompts(prompts)
    bridge = load_model(manifest.parent, device=device)
    roles = torch.tensor([[row.io_id, row.s_id] for row in rows], device=device)
    slots = torch.tensor([row.abc_ids[:2] for row in rows], device=device)
    read: dict[str, Float[np.ndarray, "prompt layer two"]] = {}
    with safe_open(activations, framework="pt") as stored, torch.no_grad():
        for version, names in (("original", roles), ("abc", roles), ("abc_own", slots)):
            residual = stored.get_tensor(f"resid.{version.removesuffix('_own')}").to(device)
            chunks = zip(torch.split(residual, CHUNK), torch.split(names, CHUNK), strict=True)
            parts = [read_names(bridge, *chunk) for chunk in chunks]
            read[version] = torch.cat(parts).double().cpu().numpy()
    write_metrics(out, measure(read["original"], read["abc"], rows, early_depth, own=read.pop("abc_own")))
    write_table(lens, curves(read, rows))


def measure(
    original: Float[np.ndarray, "prompt layer two"],
    abc: Float[np.ndarray, "prompt layer two"],
    rows: list[Prompt],
    early_depth: float,
    own: Float[np.ndarray, "prompt layer two"],
) -> dict[str, Metric]:
    """All metrics of this part. `abc` and `own` are ABC prompts, read on the original names and on their own slots."""
    differences, control, slots = (logits[..., 0] - logits[..., 1] for logits in (original, abc, own))
    n_layers = differences.shape[1] - 1
    early = int(early_depth * n_layers)
    gain, control_gain, slots_gain = (values[:, -1] - values[:, early] for values in (differences, control, slots))
    final = differences[:, -1]
    text: dict[str, Any] = {
        "unit": "1",
        "formula": f"(difference at depth 1 - difference after layer {early}) / difference at depth 1",
    }
    seeds = np.array([row.seed for row in rows])
    depths = [half_depth(differences[seeds == seed].mean(0)) for seed in np.unique(seeds)]
    return {
        "late_gain": clustered(gain, rows, denominators=final, **text),
        "late_gain_abc": clustered(control_gain, rows, denominators=final, **text),
        "late_gain_minus_abc": clustered(gain - control_gain, rows, denominators=final, **text),
        "late_gain_abc_own": clustered(slots_gain, rows, denominators=final, **text),
        "late_gain_minus_abc_own": clustered(gain - slots_gain, rows, denominators=final, **text),
        "half_depth": over_seeds(
            depths,
            unit="share of layers",
            formula="depth from which on the difference stays above half its final value",
        ),
        "peak_difference": clustered(
            differences[:, int(differences.mean(0).argmax())],
            rows,
            unit="logits",
            formula="lens difference after the layer where its mean is largest",
        ),
    }


def half_depth(difference: Float[np.ndarray, " layer"]) -> float:
    """Smallest depth (0 to 1) from which on `difference` stays at or above half its last value."""
    below = np.flatnonzero(difference < difference[-1] / 2)
    return float((below[-1] + 1 if len(below) else 0) / (len(difference) - 1))


def curves(read: dict[str, Float[np.ndarray, "prompt layer two"]], rows: list[Prompt]) -> pd.DataFrame:
    """Mean and interval of each quantity after each layer."""
    records = []
    for version, logits in read.items():
        quantities = {
            "logit_io": logits[..., 0],
            "logit_s": logits[..., 1],
            "difference": logits[..., 0] - logits[..., 1],
        }
        for quantity, values in quantities.items():
            for layer in range(values.shape[1]):
                metric = clustered(values[:, layer], rows, unit="logits", formula="lens")
                records.append(
                    {"version": version, "layer": layer, "depth": layer / (values.shape[1] - 1), "quantity": quantity}
                    | metric.model_dump(include={"value", "ci_low", "ci_high"})
                )
    return pd.DataFrame(records)


if __name__ == "__main__":
    run(logit_lens)
