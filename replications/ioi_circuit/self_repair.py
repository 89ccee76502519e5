"""Self-repair: how far other heads make up for name movers that are knocked out, and which heads do (section 3.4).

`direct` is the drop of the logit difference when the name movers' outputs at END are replaced by their template means
in the final residual stream alone; `total` is the drop when they are replaced where they arise and everything after
them is recomputed. Self-repair is 1 - total / direct: 0 if nothing makes up for them, 1 if the model does not notice.

A backup name mover is found by rule on the discovery half: a head that is no name mover itself, whose direct effect,
measured in the same way, favours IO and has grown when the name movers are out, beyond the best of all heads with roles
flipped and by at least `minimum` percent of the logit difference. Its growth is then measured on the verification half.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric
from common.core.statistics import null_distribution
from common.interp.partial_forward import at_position, rerun
from replications.ioi_circuit.classes import Signs, signs
from replications.ioi_circuit.clustering import clustered
from replications.ioi_circuit.dataset import Prompt
from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.nodes import NodeSet
from replications.ioi_circuit.residual import read_difference


def direct_effects(
    where: KnockOut, nodes: NodeSet, knocked_out: NodeSet
) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, "head prompt"]]:
    """Direct effect of `nodes` together, and of every head alone, at END, in a model without `knocked_out` (at END).

    Returns:
        Mean-ablated minus unablated logit difference; negative where a head favours IO.
    """
    decoder, end, clean = where.decoder, where.positions["end"], where.clean()
    mean = [at_position(layer, end) for layer in where.means]
    z = [at_position(layer, end) for layer in clean.z]
    final = at_position(clean.final, end)
    if knocked_out:
        first = min(node.layer for node in knocked_out)
        gone = {layer: [node.head for node in knocked_out if node.layer == layer] for layer in range(decoder.n_layers)}

        def edit(layer: int, found: Tensor) -> Tensor:
            found = found.clone()
            found[0, :, 0, gone[layer]] = mean[layer][:, gone[layer]]
            z[layer] = found[0, :, 0]
            return found

        start = at_position(clean.resid_pre[first], end)[None, :, None]
        final = rerun(decoder, clean, first, end[:, None], end, start, edit=edit)[0]
    changes = [torch.einsum("nhd,hdm->hnm", mean[layer] - one, decoder.W_O[layer]) for layer, one in enumerate(z)]
    change = torch.cat(changes)
    chosen = [node.layer * decoder.n_heads + node.head for node in sorted(nodes)]
    moved = torch.cat([torch.zeros_like(change[:1]), change[chosen].sum(0, keepdim=True), change])
    difference = read_difference(decoder.bridge, final + moved, where.names).double().cpu().numpy()
    return difference[1] - difference[0], difference[2:] - difference[0]


def growth(
    where: KnockOut, movers: NodeSet
) -> tuple[Float[np.ndarray, "head prompt"], Float[np.ndarray, "head prompt"]]:
    """Direct effect in favour of IO of every head without the name movers, and how much it has grown; logits."""
    _, before = direct_effects(where, movers, frozenset())
    _, after = direct_effects(where, movers, movers)
    return -after, before - after


def find_backups(where: KnockOut, movers: NodeSet, draws: int, minimum: float) -> Signs:
    """The rule of the module's docstring; `sign` is 1 for a backup name mover. Mean growth in percent."""
    total = where.decoder.n_layers * where.decoder.n_heads
    if not movers:
        return Signs(np.zeros(total), np.zeros(total), 0.0)
    effect, grown = growth(where, movers)
    whole = where.differences([frozenset()], remove=True)[0].mean()
    found = signs(100 * grown / whole, draws, minimum)
    own = np.zeros(total, dtype=bool)
    own[[node.layer * where.decoder.n_heads + node.head for node in movers]] = True
    named = (found.sign > 0) & (effect.mean(1) > 0) & ~own
    return Signs(found.mean, named.astype(np.float64), found.threshold)


def measure_repair(
    where: KnockOut,
    movers: NodeSet,
    backups: list[int],
    strongest: int,
    runs: dict[str, Float[np.ndarray, " prompt"]],
    prompts: list[Prompt],
) -> dict[str, Metric]:
    """Self-repair after the name movers are knocked out, and growth of the backups; empty if there are no movers.

    Args:
        where: verification prompts.
        movers: the name movers.
        backups: heads (numbered through all layers) named by rule on the discovery half.
        strongest: the head that grew most there; stands in where no head was named.
        runs: `model` and `model_without_name_mover`.
        prompts: the prompts of `where`.
    """
    if not movers:
        return {}
    direct = -direct_effects(where, movers, frozenset())[0]
    total = runs["model"] - runs["model_without_name_mover"]
    _, grown = growth(where, movers)
    chosen = backups or [strongest]
    n_heads = where.decoder.n_heads
    own = {node.layer * n_heads + node.head for node in movers}
    later = [
        head for head in range(len(grown))
        if head not in own and head not in chosen and head // n_heads >= min(node.layer for node in movers)
    ]  # fmt: skip
    generator = np.random.default_rng(0)
    size = min(len(chosen), len(later))
    random = np.stack([grown[generator.choice(later, size, replace=False)].sum(0) for _ in range(200)])
    whole = runs["model"]
    text = "growth of the direct effect of the backup heads, chosen on the discovery half, / F(M)"
    return {
        "movers_direct_share": clustered(direct, prompts, unit="1", formula="direct drop / F(M)", denominators=whole),
        "self_repair": clustered(
            direct - total, prompts, unit="1", formula="1 - total drop / direct drop", denominators=direct
        ),
        "backup_growth": clustered(grown[chosen].sum(0), prompts, unit="1", formula=text, denominators=whole),
        "backup_growth_random": null_distribution(
            random.sum(1) / whole.sum(),
            unit="1",
            formula=f"{text}; as many random heads from the first mover's layer on",
        ),
        "backup_growth_minus_random": clustered(
            grown[chosen].sum(0) - random.mean(0),
            prompts,
            unit="1",
            formula=f"{text}, minus random",
            denominators=whole,
        ),
    }
