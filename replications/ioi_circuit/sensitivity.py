"""Step: what two choices about the model cost: prompts without a token in front, and weights of four bits.

    as_used            4-bit weights in float32; prompts begin with their first word
    token_in_front     a start token before every prompt, as texts have it in training: the first position, an
                       attention sink, is then no word
    bfloat16_weights   the same weights rounded to bfloat16

Each is measured with the formulas of the other parts: logit difference, what ABC prompts keep of it, the strongest
head's direct path. Only these depend on no template means. Source of the question: Miller et al. 2024
(arXiv:2407.08734), which finds circuit scores to depend on choices like these.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import load_model
from common.interp.decoder import Decoder
from replications.ioi_circuit.baseline import DIFFERENCE
from replications.ioi_circuit.batches import Batch
from replications.ioi_circuit.collect import last_of, read_batch
from replications.ioi_circuit.dataset import Positions, Prompt, Text, read_prompts
from replications.ioi_circuit.direct_path import FORMULA, direct_residual
from replications.ioi_circuit.prompt_statistics import clustered, crossfit
from replications.ioi_circuit.settings import Sensitivity

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

START = "<|endoftext|>"
"""Texts begin with it in training, for GPT-2 as for SmolLM2; another model has its own first token."""
Effects = Float[np.ndarray, "prompt head"]
Reading = dict[str, np.ndarray]
CHANGED = ("token_in_front", "bfloat16_weights")


class SensitivityFiles(Files):
    manifest: Path
    prompts: Path
    metrics: Path
    heads: Path
    """direct effect of every head in percent, one column per choice"""


def sensitivity(files: SensitivityFiles, settings: Sensitivity, run: RunInfo) -> None:
    """Writes `metrics.json` and the direct effects of all heads."""
    rows = read_prompts(files.prompts)
    bridge = load_model(files.manifest.parent, device=run.device)
    start = bridge.tokenizer.get_vocab().get(START, bridge.tokenizer.bos_token_id)
    with torch.no_grad():
        found = {"as_used": read(bridge, rows, settings.batch_size)}
        found["token_in_front"] = read(bridge, [in_front(row, start) for row in rows], settings.batch_size)
        for weight in bridge.parameters():
            weight.copy_(weight.bfloat16())
        found["bfloat16_weights"] = read(bridge, rows, settings.batch_size)
    write_metrics(files.metrics, measure(found, rows))
    write_table(files.heads, head_table(found, bridge.cfg.n_heads))


def in_front(row: Prompt, token: int) -> Prompt:
    """The prompt with `token` before each of its versions; every position moves up by one."""
    return row.model_copy(
        update={
            "attention": [1, *row.attention],
            "positions": Positions(**{name: at + 1 for name, at in row.positions.model_dump().items()}),
            "versions": {
                name: Text(text=version.text, tokens=[token, *version.tokens]) for name, version in row.versions.items()
            },
        }
    )


def read(bridge: "TransformerBridge", rows: list[Prompt], batch_size: int) -> Reading:
    """Per prompt: `difference`, `own` (IO slot minus subject on ABC prompts), `effects` [prompt head] in logits."""
    decoder = Decoder(bridge, len(rows[0].attention))
    parts: dict[str, list[np.ndarray]] = {"difference": [], "own": [], "effects": []}
    for start in range(0, len(rows), batch_size):
        batch = Batch(rows[start : start + batch_size], bridge.W_U.device.type)
        kept: dict[str, Tensor] = {}
        for version in ("original", "abc"):
            cache = decoder.forward(batch.tokens(version), batch.mask, keep=True)
            kept |= read_batch(decoder, last_of(cache, batch.at("end")), batch, version)
        final, z, other = (kept[name] for name in ("final.original", "z.original", "z.abc"))
        effects = direct_residual(bridge, final, z, other, batch.names, batch_size)
        parts["difference"].append(_difference(kept["logits.original"], 1))
        parts["own"].append(_difference(kept["slots.abc"], 2))
        parts["effects"].append(_difference(effects, 1).reshape(len(batch.prompts), -1))
    return {name: np.concatenate(values) for name, values in parts.items()}


def measure(found: dict[str, Reading], rows: list[Prompt]) -> dict[str, Metric]:
    """Metrics of the model as it is used, the other choices as controls; agreement of all heads' effects."""
    half = np.array([row.half for row in rows])
    columns = {
        "logit_difference": {name: one["difference"] for name, one in found.items()},
        "abc_own_s2_retained": {name: one["own"] for name, one in found.items()},
        "strongest_negative": {name: 100 * crossfit(one["effects"], half, 1, -1) for name, one in found.items()},
    }
    formulas = {
        "logit_difference": ("logits", DIFFERENCE),
        "abc_own_s2_retained": ("1", "ABC prompts: IO slot minus subject / mean logit difference"),
        "strongest_negative": ("percent", f"{FORMULA}: most negative head, chosen on the other half"),
    }
    metrics = {}
    for name, values in columns.items():
        unit, formula = formulas[name]
        below = {
            choice: np.ones(len(rows)) if name == "logit_difference" else one["difference"]
            for choice, one in found.items()
        }
        metrics[name] = clustered(
            values["as_used"],
            rows,
            unit=unit,
            formula=formula,
            denominators=below["as_used"],
            controls={choice: (values[choice], below[choice]) for choice in CHANGED},
        )
    for choice in CHANGED:
        metrics[f"heads_agree_{choice}"] = agreement(found["as_used"]["effects"], found[choice]["effects"], rows)
    return metrics


def agreement(one: Effects, other: Effects, rows: list[Prompt]) -> Metric:
    """Share of the variance of all heads' mean effects that is the same under another choice."""
    changed = ((other - one) ** 2).mean(1)
    return clustered(
        1 - changed / (one**2).mean(),
        rows,
        unit="share",
        formula="1 - mean squared change of the heads' direct effects / their mean square, over prompts and heads",
    )


def head_table(found: dict[str, Reading], n_heads: int) -> pd.DataFrame:
    """Mean direct effect of every head (`layer.head`), in percent of the mean logit difference under each choice."""
    percent = {name: 100 * one["effects"].mean(0) / one["difference"].mean() for name, one in found.items()}
    table = pd.DataFrame(percent)
    table.insert(0, "head", [f"{at // n_heads}.{at % n_heads}" for at in table.index])
    return table


def _difference(logits: Tensor, second: int) -> np.ndarray:
    values: np.ndarray = (logits[..., 0] - logits[..., second]).double().cpu().numpy()
    return values


if __name__ == "__main__":
    run_step(sensitivity)
