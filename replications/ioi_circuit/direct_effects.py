"""Step: what stands in the residual stream at END: the logit lens over layers, and the direct path of every head.

Logit lens (nostalgebraist 2020): final norm and unembedding are applied to the residual stream before each block and
after the last. Depth 0 is the embedding, depth 1 the model's own output.

    late_gain    (difference at depth 1 - difference at `early_depth`) / difference at depth 1
    half_depth   smallest depth from which on the mean difference stays above half its final value

Direct path (formula `direct_residual`): the output of one head at END is replaced by its output on a partner prompt,
only in the last residual vector. MLPs and later heads keep what they computed, the norm is recomputed. This is the
direct edge head -> logits, *not* the path patching of Wang et al. (2022, appendix B), which recomputes the MLPs.
Partners are `abc` (no roles: removes what the head says about IO and S) and `nouns_redrawn` (same names and roles:
should change nothing). Effects are patched minus unpatched, in percent of the mean logit difference of the intact
model; a negative effect means that the head favours IO.

    strongest_negative, strongest_positive   the one head chosen on the other half
    few_negative                             the `top` most negative heads chosen on the other half, summed
    late_share                               part of all negative effects that comes from late layers
"""

from pathlib import Path
from typing import TYPE_CHECKING

import einops
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor

from common.core.metrics import Metric, write_metrics
from common.core.statistics import over_seeds
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import load_model
from replications.ioi_circuit.dataset import Prompt, read_prompts
from replications.ioi_circuit.prompt_statistics import (
    Draws,
    PerPrompt,
    chosen_on_other_half,
    clustered,
    crossfit,
    crossfit_null,
    late_share_parts,
    role_flips,
)
from replications.ioi_circuit.residual import read_names
from replications.ioi_circuit.settings import DirectEffects, DirectPath

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

PARTNERS = ("abc", "nouns_redrawn")
FORMULA = "direct_residual"
CHUNK = 256
HeadEffects = Float[np.ndarray, "prompt layer head two"]
LensLogits = Float[np.ndarray, "prompt layer two"]


class DirectEffectsFiles(Files):
    manifest: Path
    prompts: Path
    activations: Path
    lens_metrics: Path
    lens: Path
    """mean and interval of each logit and of their difference after each layer"""
    metrics: Path
    """of the direct path"""
    heads: Path
    """one row per partner, head and quantity: percent with interval, logits"""


def direct_effects(files: DirectEffectsFiles, settings: DirectEffects, run: RunInfo) -> None:
    """Writes metrics and table of the parts `logit_lens` and `direct_path`."""
    rows = read_prompts(files.prompts)
    bridge = load_model(files.manifest.parent, device=run.device)
    roles = torch.tensor([[row.io_id, row.s_id] for row in rows], device=run.device)
    slots = torch.tensor([row.abc_ids[:2] for row in rows], device=run.device)
    lens: dict[str, LensLogits] = {}
    effects: dict[str, HeadEffects] = {}
    with safe_open(files.activations, framework="pt") as stored, torch.no_grad():
        for version, names in (("original", roles), ("abc", roles), ("abc_own", slots)):
            residual = stored.get_tensor(f"resid.{version.removesuffix('_own')}").to(run.device)
            chunks = zip(torch.split(residual, CHUNK), torch.split(names, CHUNK), strict=True)
            lens[version] = torch.cat([read_names(bridge, *chunk) for chunk in chunks]).double().cpu().numpy()
        logits = stored.get_tensor("logits.original").double().numpy()
        final = stored.get_tensor("resid.original")[:, -1].to(run.device)
        z = stored.get_tensor("z.original").to(run.device)
        for partner in PARTNERS:
            z_partner = stored.get_tensor(f"z.{partner}").to(run.device)
            change = direct_residual(bridge, final, z, z_partner, roles, settings.direct_path.batch_size)
            effects[partner] = change.double().cpu().numpy()
    clean = logits[:, 0] - logits[:, 1]
    write_metrics(files.lens_metrics, measure_lens(lens, rows, settings.logit_lens.early_depth))
    write_table(files.lens, lens_table({name: lens[name] for name in ("original", "abc")}, rows))
    write_metrics(files.metrics, measure_heads(effects, clean, rows, settings.direct_path))
    write_table(files.heads, head_table(effects, clean, rows))


def direct_residual(
    bridge: "TransformerBridge",
    final: Float[Tensor, "batch d_model"],
    z: Float[Tensor, "batch layer head d_head"],
    z_partner: Float[Tensor, "batch layer head d_head"],
    names: Int[Tensor, "batch two"],
    batch_size: int,
) -> Float[Tensor, "batch layer head two"]:
    """Change of the two name logits when one head's output at END comes from the partner prompt, for every head.

    Args:
        final: residual vectors at END after the last block.
        z: outputs of all heads at END before W_O, on the prompt itself.
        z_partner: the same on the partner prompt.
        names: token ids of IO and S.
        batch_size: prompts that are handled at a time.

    Returns:
        Logits of the patched minus logits of the unpatched prompt; exactly 0 where `z_partner` equals `z`.
    """
    n_layers, n_heads = z.shape[1:3]
    weights = bridge.W_O
    effects = []
    for part in torch.split(torch.arange(len(final), device=final.device), batch_size):
        change = torch.einsum("nlhe,lhed->nlhd", z_partner[part] - z[part], weights)
        change = einops.rearrange(change, "n layer head d_model -> n (layer head) d_model")
        nothing = torch.zeros_like(change[:, :1])
        logits = read_names(bridge, final[part][:, None] + torch.cat([nothing, change], 1), names[part])
        effects.append(logits[:, 1:] - logits[:, :1])
    return einops.rearrange(torch.cat(effects), "n (layer head) two -> n layer head two", layer=n_layers, head=n_heads)


def measure_lens(lens: dict[str, LensLogits], rows: list[Prompt], early_depth: float) -> dict[str, Metric]:
    """All metrics of the lens. ABC prompts are read on the original names (`abc`) and on their own (`abc_own`)."""
    differences = {name: logits[..., 0] - logits[..., 1] for name, logits in lens.items()}
    original = differences["original"]
    n_layers = original.shape[1] - 1
    early = int(early_depth * n_layers)
    gains = {name: values[:, -1] - values[:, early] for name, values in differences.items()}
    seeds = np.array([row.seed for row in rows])
    depths = [half_depth(original[seeds == seed].mean(0)) for seed in np.unique(seeds)]
    return {
        "late_gain": clustered(
            gains["original"],
            rows,
            unit="1",
            formula=f"(difference at depth 1 - difference after layer {early}) / difference at depth 1",
            denominators=original[:, -1],
            controls={name: gains[name] for name in ("abc", "abc_own")},
        ),
        "half_depth": over_seeds(
            depths,
            unit="share of layers",
            formula="depth from which on the difference stays above half its final value",
        ),
        "peak_difference": clustered(
            original[:, int(original.mean(0).argmax())],
            rows,
            unit="logits",
            formula="lens difference after the layer where its mean is largest",
        ),
    }


def half_depth(difference: Float[np.ndarray, " layer"]) -> float:
    """Smallest depth (0 to 1) from which on `difference` stays at or above half its last value."""
    below = np.flatnonzero(difference < difference[-1] / 2)
    return float((below[-1] + 1 if len(below) else 0) / (len(difference) - 1))


def lens_table(lens: dict[str, LensLogits], rows: list[Prompt]) -> pd.DataFrame:
    """Mean and interval of each quantity after each layer."""
    records = []
    for version, logits in lens.items():
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


def measure_heads(
    effects: dict[str, HeadEffects], clean: PerPrompt, rows: list[Prompt], settings: DirectPath
) -> dict[str, Metric]:
    """All metrics of the direct path, in percent of the mean clean logit difference."""
    half = np.array([row.half for row in rows])
    flips = role_flips(len(rows), settings.draws)
    n_layers, n_heads = effects["abc"].shape[1:3]
    flat = {partner: _flat(change[..., 0] - change[..., 1]) for partner, change in effects.items()}

    def percent(values: PerPrompt, text: str, controls: dict[str, PerPrompt], draws: dict[str, Draws]) -> Metric:
        return clustered(
            100 * values,
            rows,
            cluster="frames",
            denominators=clean,
            unit="percent",
            formula=f"{FORMULA}: {text}",
            controls={name: 100 * one for name, one in controls.items()},
            draws={name: 100 * one for name, one in draws.items()},
        )

    metrics: dict[str, Metric] = {}
    choices = (("strongest_negative", 1, -1), ("strongest_positive", 1, 1), ("few_negative", settings.top, -1))
    for name, count, sign in choices:
        kind = "most negative" if sign < 0 else "most positive"
        metrics[name] = percent(
            crossfit(flat["abc"], half, count, sign),
            f"{count} {kind} of {n_layers * n_heads}, chosen on the other half",
            {"nouns_redrawn": crossfit(flat["nouns_redrawn"], half, count, sign)},
            {"flipped_roles": crossfit_null(flat["abc"], half, count, sign, flips)},
        )
    [strongest] = chosen_on_other_half(flat["abc"], half, 1, -1).T
    of_strongest = _flat(effects["abc"])[np.arange(len(rows)), strongest[half]]
    metrics["strongest_negative_rise_of_s"] = percent(
        of_strongest[:, 1], "rise of logit(S), most negative head", {"fall_of_io": -of_strongest[:, 0]}, {}
    )
    depth = np.repeat(np.arange(n_layers) / max(n_layers - 1, 1), n_heads)
    late = (depth >= settings.late_depth).astype(np.float64)
    generator = np.random.default_rng(0)
    permuted = np.stack([generator.permutation(late) for _ in range(settings.draws)])
    parts, total = late_share_parts(flat["abc"], half, np.concatenate([late[None], permuted]))
    metrics["late_share"] = clustered(
        parts[0],
        rows,
        unit="share",
        formula=f"share of negative effects from heads at depth {settings.late_depth:g} or later",
        denominators=total,
        draws={"permuted_layers": parts[1:]},
    )
    return metrics


def head_table(effects: dict[str, HeadEffects], clean: PerPrompt, rows: list[Prompt]) -> pd.DataFrame:
    """Mean effect of each head on each quantity, all prompts, with its interval over templates."""
    records = []
    for partner, change in effects.items():
        quantities = {
            "logit_io": change[..., 0],
            "logit_s": change[..., 1],
            "difference": change[..., 0] - change[..., 1],
        }
        for quantity, values in quantities.items():
            for layer, head in np.ndindex(*values.shape[1:]):
                one = values[:, layer, head]
                metric = clustered(100 * one, rows, denominators=clean, unit="percent", formula=FORMULA)
                records.append(
                    {
                        "partner": partner,
                        "layer": layer,
                        "head": head,
                        "quantity": quantity,
                        "percent": metric.value,
                        "ci_low": metric.ci_low,
                        "ci_high": metric.ci_high,
                        "logits": one.mean(),
                    }
                )
    return pd.DataFrame(records)


def _flat(values: Float[np.ndarray, "prompt layer head *two"]) -> Float[np.ndarray, "prompt heads *two"]:
    return values.reshape(len(values), -1, *values.shape[3:])


if __name__ == "__main__":
    run_step(direct_effects)
