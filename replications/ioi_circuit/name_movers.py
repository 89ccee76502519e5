"""Name movers (Wang et al. 2022, section 3): what they attend to and write, who stands in for them.

writing_follows_attention  correlation, over prompts and the two names, of a head's attention to a name and what it
                           adds to that name's logit (figure 3c); mean over the heads with a class that act on the
                           logits, with a minus for those that write with one. Null: attention shuffled in each head
self_repair                1 - total / direct (section 3.4): `direct` is the drop of the logit difference when the name
                           movers' outputs at END are replaced by their template means in the final residual stream
                           alone, `total` the drop when they are replaced where they arise and all later layers are
                           recomputed. 0 if nothing makes up for them, 1 if the model does not notice
backup_growth              growth of the direct effect of the backup name movers when the name movers are out

A backup name mover is found by rule on the discovery half: it attends from END to IO, does nothing that counts while
the name movers are there, and its direct effect favours IO and has grown when they are out, significantly and by at
least `minimum` percent of the logit difference. Growth is measured on the verification half.
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.core.metrics import Metric
from common.interp.partial_forward import at_position, rerun
from replications.ioi_circuit.classes import HeadClasses, HeadScores
from replications.ioi_circuit.knockout import KnockOut
from replications.ioi_circuit.nodes import Node, NodeSet
from replications.ioi_circuit.prompt_statistics import (
    PerPrompt,
    beside_null,
    clustered,
    significant,
)
from replications.ioi_circuit.residual import read_difference
from replications.ioi_circuit.sweeps import Effects

SIGN = {"name_mover": 1.0, "negative": -1.0, "s_suppressing": -1.0, "s_copying": 1.0}
RANDOM_BACKUPS = 200  # draws of as many later heads


def measure_writing(table: pd.DataFrame, draws: int) -> dict[str, Metric]:
    """`writing_follows_attention` from `attention.csv`; empty if no head that acts on the logits has a class."""
    shown = table[table["class"].isin(SIGN)]
    if shown.empty:
        return {}
    generator = np.random.default_rng(0)
    heads = [part for _, part in shown.groupby("head")]

    def mean(shuffle: bool) -> float:
        correlations = []
        for part in heads:
            attends = part["attention"].to_numpy()
            attends = generator.permutation(attends) if shuffle else attends
            correlations.append(SIGN[part["class"].iloc[0]] * np.corrcoef(attends, part["written"])[0, 1])
        return float(np.mean(correlations))

    value, null = mean(False), np.array([mean(True) for _ in range(draws)])
    text = "mean over heads of sign times correlation of attention to a name and what is added to its logit"
    metric = beside_null(value, len(heads), null, unit="1", formula=text, name="shuffled_attention")
    return {"writing_follows_attention": metric}


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

        def edit(layer: int, new: Tensor) -> Tensor:
            new = new.clone()
            new[0, :, 0, gone[layer]] = mean[layer][:, gone[layer]]
            z[layer] = new[0, :, 0]
            return new

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


def find_backups(
    where: KnockOut, movers: NodeSet, candidates: Bool[np.ndarray, " head"], draws: int, minimum: float
) -> tuple[Float[np.ndarray, " head"], Bool[np.ndarray, " head"]]:
    """Mean growth in percent, and the backup name movers by the rule of the module's docstring.

    `candidates`: heads that attend to IO and do nothing that counts while the movers are there.
    """
    if not movers:
        return np.zeros(len(candidates)), np.zeros(len(candidates), dtype=bool)
    effect, grown = growth(where, movers)
    whole = where.differences([frozenset()], remove=True)[0].mean()
    growing = significant(100 * grown / whole, draws, minimum)
    own = np.zeros(len(candidates), dtype=bool)
    own[[node.layer * where.decoder.n_heads + node.head for node in movers]] = True
    return growing.mean, candidates & (growing.sign > 0) & (effect.mean(1) > 0) & ~own


def backups_by_rule(
    where: KnockOut, effects: Effects, classes: HeadClasses, scores: HeadScores, draws: int, minimum: float
) -> tuple[Float[np.ndarray, " head"], Bool[np.ndarray, " head"]]:
    """`find_backups` from what the sweeps found on the same half."""
    heads = [divmod(head, where.decoder.n_heads) for head, kind in classes["logits"].items() if kind == "name_mover"]
    movers = frozenset(Node(layer, head, "end") for layer, head in heads)
    candidates = (scores.contrasts["to_io"].sign > 0) & (effects.significant["logits"].sign == 0)
    return find_backups(where, movers, candidates, draws, minimum)


def measure_repair(
    where: KnockOut, movers: NodeSet, backups: list[int], strongest: int, removed: dict[str, PerPrompt]
) -> dict[str, Metric]:
    """Self-repair after the name movers are knocked out, and growth of the backups.

    Args:
        where: verification prompts.
        movers: the name movers; at least one.
        backups: heads (numbered through all layers) named by rule on the discovery half.
        strongest: the head that grew most there; stands in where no head was named.
        removed: F of the whole model (`none`) and of the model without its name movers (`name_mover`).
    """
    prompts, whole = where.prompts, removed["none"]
    direct = -direct_effects(where, movers, frozenset())[0]
    total = whole - removed["name_mover"]
    _, grown = growth(where, movers)
    chosen = backups or [strongest]
    n_heads = where.decoder.n_heads
    own = {node.layer * n_heads + node.head for node in movers}
    first = min(node.layer for node in movers)
    later = [head for head in range(first * n_heads, len(grown)) if head not in own and head not in chosen]
    generator = np.random.default_rng(0)
    size = min(len(chosen), len(later))
    random = [grown[generator.choice(later, size, replace=False)].sum(0) for _ in range(RANDOM_BACKUPS)]
    return {
        "movers_direct_share": clustered(direct, prompts, unit="1", formula="direct drop / F(M)", denominators=whole),
        "self_repair": clustered(
            direct - total, prompts, unit="1", formula="1 - total drop / direct drop", denominators=direct
        ),
        "backup_growth": clustered(
            grown[chosen].sum(0),
            prompts,
            unit="1",
            formula="growth of the direct effect of the backup heads, chosen on the discovery half, / F(M)",
            denominators=whole,
            draws={"random_heads": np.stack(random)},
        ),
    }
