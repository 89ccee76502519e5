"""Step: the direct residual path of every head to the logits at END (formula `direct_residual`, see residual.py).

Each head's output at END is replaced by its output on a partner prompt: `abc` (no roles: removes what the head says
about IO and S) or `nouns_redrawn` (same names and roles: should change nothing). Effects are patched minus unpatched,
in percent of the mean logit difference of the intact model; a negative effect means that the head favours IO.

    strongest_negative, strongest_positive   the one head chosen on the other half
    few_negative                             the `top` most negative heads chosen on the other half, summed
    late_share                               part of all negative effects that comes from late layers
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors import safe_open

from common.core.metrics import Metric, write_metrics
from common.core.statistics import null_distribution
from common.core.step import run
from common.core.tables import write_table
from common.data.models import load_model
from replications.ioi_circuit.clustering import clustered, role_flips
from replications.ioi_circuit.dataset import Prompt, read_prompts
from replications.ioi_circuit.residual import direct_residual
from replications.ioi_circuit.selection import chosen_on_other_half, crossfit, crossfit_null, late_share_parts

PARTNERS = ("abc", "nouns_redrawn")
FORMULA = "direct_residual"


def direct_path(
    *,
    prompts: Path,
    activations: Path,
    manifest: Path,
    batch_size: int,
    top: int,
    late_depth: float,
    draws: int,
    device: Literal["cpu", "cuda"],
    out: Path,
    heads: Path,
) -> None:
    """Writes `metrics.json` and one row per partner and head.

    Args:
        prompts: `prompts.json`.
        activations: `activations.safetensors`.
        manifest: `manifest.json` of the model, for its output matrices, norm and unembedding.
        batch_size: prompts that are patched at a time.
        top: how many heads count as few.
        late_depth: depth from which a head counts as late (first layer 0, last layer 1).
        draws: draws of each null distribution.
        device: where the effects are computed.
        out: `metrics.json`.
        heads: `heads.csv` with columns partner, layer, head, quantity (logit_io, logit_s, difference), percent,
            ci_low, ci_high, logits.
    """
    rows = read_prompts(prompts)
    bridge = load_model(manifest.parent, device=device)
    names = torch.tensor([[row.io_id, row.s_id] for row in rows], device=device)
    effects: dict[str, Float[np.ndarray, "prompt layer head two"]] = {}
    with safe_open(activations, framework="pt") as stored, torch.no_grad():
        logits = stored.get_tensor("logits.original").double().numpy()
        final = stored.get_tensor("resid.original")[:, -1].to(device)
        z = stored.get_tensor("z.original").to(device)
        for partner in PARTNERS:
            z_partner = stored.get_tensor(f"z.{partner}").to(device)
            found = direct_residual(bridge, final, z, z_partner, names, batch_size)
            effects[partner] = found.double().cpu().numpy()
    clean = logits[:, 0] - logits[:, 1]
    write_metrics(out, measure(effects, clean, rows, top=top, late_depth=late_depth, draws=draws))
    write_table(heads, head_table(effects, clean, rows))


def measure(
    effects: dict[str, Float[np.ndarray, "prompt layer head two"]],
    clean: Float[np.ndarray, " prompt"],
    rows: list[Prompt],
    *,
    top: int,
    late_depth: float,
    draws: int,
) -> dict[str, Metric]:
    """All metrics of this part, in percent of the mean clean logit difference."""
    half = np.array([row.half for row in rows])
    flips = role_flips(len(rows), draws)
    n_layers, n_heads = effects["abc"].shape[1:3]
    flat = {partner: _flat(found[..., 0] - found[..., 1]) for partner, found in effects.items()}

    def percent(values: Float[np.ndarray, " prompt"], formula: str) -> Metric:
        return clustered(100 * values, rows, denominators=clean, unit="percent", formula=f"{FORMULA}: {formula}")

    metrics: dict[str, Metric] = {}
    for name, count, sign in (("strongest_negative", 1, -1), ("strongest_positive", 1, 1), ("few_negative", top, -1)):
        kind = "most negative" if sign < 0 else "most positive"
        text = f"{count} {kind} of {n_layers * n_heads}, chosen on the other half"
        effect = crossfit(flat["abc"], half, count, sign)
        null = crossfit_null(flat["abc"], half, count, sign, flips)
        role_kept = crossfit(flat["nouns_redrawn"], half, count, sign)
        metrics[name] = percent(effect, text)
        metrics[f"{name}_null"] = null_distribution(
            100 * null.sum(1) / clean.sum(),
            unit="percent",
            formula=f"{FORMULA}: roles flipped prompt by prompt; {text}",
        )
        metrics[f"{name}_minus_null"] = percent(effect - null.mean(0), f"{text}, minus mean of the null")
        metrics[f"{name}_role_kept"] = percent(role_kept, f"partner with other nouns; {text}")
        metrics[f"{name}_minus_role_kept"] = percent(effect - role_kept, f"{text}, minus the role-keeping partner")

    [strongest] = chosen_on_other_half(flat["abc"], half, 1, -1).T
    apart = _flat(effects["abc"])[np.arange(len(rows)), strongest[half]]
    metrics["strongest_negative_rise_of_s"] = percent(apart[:, 1], "rise of logit(S), most negative head")
    metrics["strongest_negative_fall_of_io"] = percent(-apart[:, 0], "fall of logit(IO), most negative head")
    metrics["strongest_negative_rise_minus_fall"] = percent(
        apart[:, 1] + apart[:, 0], "rise of logit(S) - fall of logit(IO)"
    )

    depth = np.repeat(np.arange(n_layers) / max(n_layers - 1, 1), n_heads)
    late = (depth >= late_depth).astype(np.float64)
    generator = np.random.default_rng(0)
    permuted = np.stack([generator.permutation(late) for _ in range(draws)])
    parts, total = late_share_parts(flat["abc"], half, np.concatenate([late[None], permuted]))
    text = f"share of negative effects from heads at depth {late_depth:g} or later"
    metrics["late_share"] = clustered(parts[0], rows, unit="share", formula=text, denominators=total)
    metrics["late_share_null"] = null_distribution(
        parts[1:].sum(1) / total.sum(), unit="share", formula=f"{text}, layers permuted over heads"
    )
    metrics["late_share_minus_null"] = clustered(
        parts[0] - parts[1:].mean(0), rows, unit="share", formula=f"{text}, minus mean of the null", denominators=total
    )
    return metrics


def head_table(
    effects: dict[str, Float[np.ndarray, "prompt layer head two"]],
    clean: Float[np.ndarray, " prompt"],
    rows: list[Prompt],
) -> pd.DataFrame:
    """Mean effect of each head on each quantity, all prompts, with its interval over templates."""
    records = []
    for partner, found in effects.items():
        quantities = {"logit_io": found[..., 0], "logit_s": found[..., 1], "difference": found[..., 0] - found[..., 1]}
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
    run(direct_path)
