"""Step: the direct path of every head: what it writes at END, replaced in the last residual vector alone.

Formula `direct_residual`: the output of one head at END is replaced by its output on a partner prompt, in the final
residual stream. MLPs and later heads keep what they computed, the norm is recomputed. This is the direct edge head ->
logits, *not* the path patching of Wang et al. (2022, appendix B), which recomputes the MLPs. Partners:

    abc            no roles: removes what the head says about IO and S
    roles_flipped  S2 <- IO: both names stay, the other one came twice. The flip moves a head from one role to the
                   other, so half of its change is what the role is worth
    nouns_redrawn  same names and roles: should change nothing

Effects are patched minus unpatched, in percent of the mean logit difference of the intact model; a negative effect on
the difference means that the head favours IO.

    strongest_negative, strongest_positive   the one head chosen on the other half
    one_head_on_s                            rise of logit(S) without that most negative head
    strongest_mlp                            the most negative of the MLPs, which write, too; chosen likewise
    flip_one_head                            change of the difference by it from a flipped prompt, halved
    all_heads_on_s                           rise of logit(S) when all heads are replaced at once
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
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from common.data.models import load_model
from replications.ioi_circuit.dataset import Prompt, read_prompts
from replications.ioi_circuit.prompt_statistics import (
    PerPrompt,
    chosen_on_other_half,
    clustered,
    crossfit_null,
    role_flips,
)
from replications.ioi_circuit.residual import read_names
from replications.ioi_circuit.settings import DirectPath

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

PARTNERS = {"abc": 1.0, "roles_flipped": 0.5, "nouns_redrawn": 1.0}
"""Partner versions, and what their effects are multiplied with."""
FORMULA = "direct_residual"
HeadEffects = Float[np.ndarray, "prompt layer head two"]


class DirectPathFiles(Files):
    manifest: Path
    prompts: Path
    activations: Path
    metrics: Path
    heads: Path
    """one row per partner, head and quantity: percent with interval, logits"""


def direct_path(files: DirectPathFiles, settings: DirectPath, run: RunInfo) -> None:
    """Writes `metrics.json` and one row per partner, head and quantity."""
    rows = read_prompts(files.prompts)
    bridge = load_model(files.manifest.parent, device=run.device)
    names = torch.tensor([[row.io_id, row.s_id] for row in rows], device=run.device)
    with safe_open(files.activations, framework="pt") as stored, torch.no_grad():
        final, z = (stored.get_tensor(f"{name}.original").to(run.device) for name in ("final", "z"))
        others = {partner: stored.get_tensor(f"z.{partner}").to(run.device) for partner in PARTNERS}
        effects = {
            partner: scale * direct_residual(bridge, final, z, others[partner], names, settings.batch_size)
            for partner, scale in PARTNERS.items()
        }
        joint = torch.einsum("nlhe,lhed->nd", others["abc"] - z, bridge.W_O)
        together = read_names(bridge, torch.stack([final, final + joint], 1), names)
        change = stored.get_tensor("mlp.abc").to(run.device) - stored.get_tensor("mlp.original").to(run.device)
        mlps = effects_of(bridge, final, change, names)
        logits = stored.get_tensor("logits.original").double().numpy()
    changes = {partner: values.double().cpu().numpy() for partner, values in effects.items()}
    all_heads = (together[:, 1] - together[:, 0]).double().cpu().numpy()
    clean = logits[:, 0] - logits[:, 1]
    of_mlps = mlps.double().cpu().numpy()
    write_metrics(files.metrics, measure_writers(changes, of_mlps, all_heads, clean, rows, settings.draws))
    write_table(files.heads, head_table(changes, clean, rows))


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
        effects.append(effects_of(bridge, final[part], change, names[part]))
    return einops.rearrange(torch.cat(effects), "n (layer head) two -> n layer head two", layer=n_layers, head=n_heads)


def effects_of(
    bridge: "TransformerBridge",
    final: Float[Tensor, "batch d_model"],
    change: Float[Tensor, "batch writer d_model"],
    names: Int[Tensor, "batch two"],
) -> Float[Tensor, "batch writer two"]:
    """Change of the two name logits when the final residual vector changes by what one writer writes otherwise."""
    nothing = torch.zeros_like(change[:, :1])
    logits = read_names(bridge, final[:, None] + torch.cat([nothing, change], 1), names)
    moved: Tensor = logits[:, 1:] - logits[:, :1]
    return moved


def measure_writers(
    effects: dict[str, HeadEffects],
    mlps: Float[np.ndarray, "prompt layer two"],
    all_heads: Float[np.ndarray, "prompt two"],
    clean: PerPrompt,
    rows: list[Prompt],
    draws: int,
) -> dict[str, Metric]:
    """All metrics, in percent of the mean clean logit difference.

    Args:
        effects: of heads, by partner.
        mlps: of MLPs, from ABC prompts.
        all_heads: effect of all heads together, from ABC prompts.
        clean: logit difference of the intact model.
        rows: the prompts.
        draws: of flipped roles.
    """
    half = np.array([row.half for row in rows])
    flips = role_flips(len(rows), draws)
    flat = {partner: _flat(change) for partner, change in effects.items()}
    difference = {partner: change[..., 0] - change[..., 1] for partner, change in flat.items()}

    def percent(values: PerPrompt, text: str, **given: dict[str, np.ndarray]) -> Metric:
        scaled = {kind: {name: 100 * one for name, one in part.items()} for kind, part in given.items()}
        return clustered(
            100 * values,
            rows,
            denominators=clean,
            unit="percent",
            formula=f"{FORMULA}: {text}",
            controls=scaled.get("controls"),
            draws=scaled.get("draws"),
        )

    def of(
        values: Float[np.ndarray, "prompt writer *two"], rank: int, sign: int = -1, by: np.ndarray | None = None
    ) -> np.ndarray:
        """Effect on each prompt of the writer of that rank on the other half: of heads from ABC prompts, or `by`."""
        chosen = chosen_on_other_half(difference["abc"] if by is None else by, half, rank + 1, sign)[:, rank]
        picked: np.ndarray = values[np.arange(len(rows)), chosen[half]]
        return picked

    metrics: dict[str, Metric] = {}
    for name, sign, kind in (("strongest_negative", -1, "most negative"), ("strongest_positive", 1, "most positive")):
        metrics[name] = percent(
            of(difference["abc"], 0, sign),
            f"{kind} head of {flat['abc'].shape[1]}, chosen on the other half",
            controls={"nouns_redrawn": of(difference["nouns_redrawn"], 0, sign)},
            draws={"flipped_roles": crossfit_null(difference["abc"], half, 1, sign, flips)},
        )
    strongest = of(flat["abc"], 0)
    of_mlps = mlps[..., 0] - mlps[..., 1]
    strongest_mlp = of(of_mlps, 0, by=of_mlps)
    metrics["strongest_mlp"] = percent(strongest_mlp, f"most negative MLP of {mlps.shape[1]}, chosen on the other half")
    metrics["one_head_on_s"] = percent(
        strongest[:, 1],
        "rise of logit(S) without the most negative head",
        controls={
            "fall_of_io": -strongest[:, 0],
            "next_writer": -of(difference["abc"], 1),
            "strongest_mlp": -strongest_mlp,
            "nouns_redrawn": of(flat["nouns_redrawn"], 0)[:, 1],
        },
    )
    metrics["flip_one_head"] = percent(of(difference["roles_flipped"], 0), "most negative head, S2 <- IO, halved")
    metrics["all_heads_on_s"] = percent(
        all_heads[:, 1], "rise of logit(S) without all heads", controls={"fall_of_io": -all_heads[:, 0]}
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
    run_step(direct_path)
