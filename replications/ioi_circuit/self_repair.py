"""Self-repair: how far other heads make up for name movers that are knocked out, and which heads do (section 3.4).

`direct` is the drop of the logit difference when the name movers' outputs at END are replaced by their template means
in the final residual stream alone; `total` is the drop when they are replaced where they arise and everything after
them is recomputed. Self-repair is 1 - total / direct: 0 if nothing makes up for them, 1 if the model does not notice.
A backup head is one whose own direct effect, measured in the same way, grows when the name movers are out.
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.patching import at_position
from common.records import Metric
from replications.ioi_circuit.clustering import clustered
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.knockout import KnockOut, NodeSet, node_set
from replications.ioi_circuit.residual import read_names


def direct_effects(
    where: KnockOut, nodes: NodeSet, knocked_out: NodeSet
) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, "head prompt"]]:
    """Direct effect of `nodes` together, and of every head alone, at END, in a model without `knocked_out`.

    Returns:
        Mean-ablated minus unablated logit difference; negative where a head favours IO.
    """
    decoder, batch, end = where.decoder, where.batch, where.batch.at("end")
    out = where.keep_mask(knocked_out)
    mean = torch.stack([at_position(layer, end) for layer in where.means])
    seen: list[Tensor] = []

    def edit(layer: int, z: Tensor) -> Tensor:
        z = torch.where(out[layer][..., None], where.means[layer], z)
        seen.append(at_position(z, end))
        return z

    final = at_position(decoder.forward(batch.tokens("original"), batch.mask, edit).final, end)
    changes = [torch.einsum("nhd,hdm->hnm", mean[layer] - z, decoder.W_O[layer]) for layer, z in enumerate(seen)]
    change = torch.cat(changes)
    chosen = [node.layer * decoder.n_heads + node.head for node in sorted(nodes)]
    moved = torch.cat([torch.zeros_like(change[:1]), change[chosen].sum(0, keepdim=True), change])
    logits = read_names(decoder.bridge, (final + moved).transpose(0, 1).contiguous(), batch.names)
    difference = (logits[..., 0] - logits[..., 1]).T.double().cpu().numpy()
    return difference[1] - difference[0], difference[2:] - difference[0]


def repair_runs(fresh: KnockOut, chosen: pd.DataFrame) -> dict[str, Float[np.ndarray, " prompt"]]:
    """Direct effect of the name movers, and of the strongest backup head before and after they are knocked out."""
    movers = node_set(chosen[chosen["class"] == "name_mover"])
    if not movers:
        return {}
    direct, before = direct_effects(fresh, movers, frozenset())
    _, after = direct_effects(fresh, movers, movers)
    backup = int(np.argmin((after - before).mean(1)))
    layer, head = divmod(backup, fresh.decoder.n_heads)
    print(f"strongest backup head: {layer}.{head}")
    return {"direct": direct, "backup_before": before[backup], "backup_after": after[backup]}


def measure_repair(
    repair: dict[str, Float[np.ndarray, " prompt"]],
    runs: dict[str, Float[np.ndarray, " prompt"]],
    prompts: list[Prompt],
) -> dict[str, Metric]:
    """Self-repair after the name movers are knocked out; empty if the circuit has none."""
    if not repair:
        return {}
    direct, total = -repair["direct"], runs["model"] - runs["model_without_name_mover"]
    return {
        "movers_direct_share": clustered(
            direct, prompts, unit="1", formula="direct drop / F(M)", denominators=runs["model"]
        ),
        "self_repair": clustered(
            direct - total, prompts, unit="1", formula="1 - total drop / direct drop", denominators=direct
        ),
        "backup_growth": clustered(
            repair["backup_before"] - repair["backup_after"],
            prompts,
            unit="1",
            formula="growth of the strongest backup head's direct effect / F(M), head chosen on the same prompts",
            denominators=runs["model"],
        ),
    }
