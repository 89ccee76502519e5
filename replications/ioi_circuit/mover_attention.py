"""What heads look at and what they write (Wang et al. 2022, section 3), beyond the class rules.

writing_follows_attention  correlation, over prompts and the two names, of a head's attention to a name and what it
                           adds to that name's logit (figure 3c); mean over the heads with a class that act on the
                           logits, with a minus for those that write with one. Null: attention shuffled in each head
attention_steered          part of the attention with which these heads look at their name (IO; S2 for S-suppressing
                           heads) that is lost when the S-inhibition heads get their outputs of the ABC partner at
                           END (figure 4c). Control: as many other heads of the same layers in their place
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from common.core.metrics import Metric
from common.core.statistics import null_distribution
from common.interp.decoder import Decoder
from common.interp.partial_forward import at_position
from replications.ioi_circuit.batches import Batch, Place, passes
from replications.ioi_circuit.classes import Named
from replications.ioi_circuit.clustering import beside_null, clustered
from replications.ioi_circuit.nodes import others_of_layers

SIGN = {"name_mover": 1.0, "negative": -1.0, "s_suppressing": -1.0}
LOOKED_AT: tuple[Place, ...] = ("io", "s1", "s2")
OWN: dict[str, Place] = {"name_mover": "io", "negative": "io", "s_suppressing": "s2"}


def measure_writing(table: pd.DataFrame, draws: int) -> dict[str, Metric]:
    """`writing_follows_attention` from `scatter`'s table; empty if no head that acts on the logits has a class."""
    shown = table[table["class"].isin(SIGN)]
    if shown.empty:
        return {}
    generator = np.random.default_rng(0)
    heads = [part for _, part in shown.groupby("head")]

    def mean(shuffle: bool) -> float:
        found = []
        for part in heads:
            looked = part["attention"].to_numpy()
            looked = generator.permutation(looked) if shuffle else looked
            found.append(SIGN[part["class"].iloc[0]] * np.corrcoef(looked, part["written"])[0, 1])
        return float(np.mean(found))

    value, null = mean(False), np.array([mean(True) for _ in range(draws)])
    text = "mean over heads of sign times correlation of attention to a name and what is added to its logit"
    return beside_null(
        "writing_follows_attention", value, len(heads), null, unit="1", formula=text, how="attention shuffled"
    )


def steered_attention(
    decoder: Decoder, batch: Batch, named: Named, draws: int
) -> tuple[dict[str, Metric], pd.DataFrame]:
    """`attention_steered` and a table of mean attention (head, class, name, before, after, after_random).

    Both are empty if no head is a mover or none an S-inhibition head.

    Args:
        decoder: the model.
        batch: discovery prompts.
        named: classes by receiver set.
        draws: random sets of heads.
    """
    movers = {head: kind for head, kind in named["logits"].items() if kind in OWN}
    steering = [head for head, kind in named["mover_queries"].items() if kind == "s_inhibition"]
    if not movers or not steering:
        return {}, pd.DataFrame(columns=["head", "class", "name", "before", "after", "after_random"])
    generator = np.random.default_rng(0)
    clean, partner = passes(decoder, batch)
    first, end = min(steering) // decoder.n_heads, batch.at("end")

    def looks(patched: list[int]) -> Float[np.ndarray, "mover name prompt"]:
        """Attention from END of every mover, with some heads patched there."""
        seen: dict[int, Tensor] = {}

        def keep(layer: int, pattern: Tensor) -> None:
            rows = at_position(pattern.transpose(1, 2), end)
            for mover in movers:
                if mover // decoder.n_heads == layer:
                    goals = [at_position(rows[:, mover % decoder.n_heads], batch.at(name)) for name in LOOKED_AT]
                    seen[mover] = torch.stack(goals)

        def edit(layer: int, z: Tensor) -> Tensor:
            heads = [head % decoder.n_heads for head in patched if head // decoder.n_heads == layer]
            if not heads:
                return z
            z = z.clone()
            rows = torch.arange(len(z), device=z.device)[:, None]
            z[rows, end[:, None], heads] = at_position(partner.z[layer], end)[:, heads]
            return z

        tokens = batch.tokens("original")
        decoder.forward(tokens, batch.mask, edit, patterns=keep, resume=(first, clean.resid_pre[first]))
        found: np.ndarray = torch.stack([seen[mover] for mover in movers]).double().cpu().numpy()
        return found

    before, after = looks([]), looks(steering)
    others = [others_of_layers(sorted(steering), decoder.n_heads, set(steering), generator) for _ in range(draws)]
    random = np.stack([looks(heads) for heads in others])
    own = [LOOKED_AT.index(OWN[kind]) for kind in movers.values()]
    rows = np.arange(len(own))
    whole, lost = before[rows, own].sum(0), (before - after)[rows, own].sum(0)
    by_luck = (before - random)[:, rows, own].sum(1)
    text = "part of the movers' attention to their name that is lost, S-inhibition heads patched at END"
    metrics = {
        "attention_steered": clustered(lost, batch.prompts, unit="1", formula=text, denominators=whole),
        "attention_steered_random": null_distribution(
            by_luck.sum(1) / whole.sum(), unit="1", formula=f"{text}; other heads of the same layers instead"
        ),
        "attention_steered_minus_random": clustered(
            lost - by_luck.mean(0), batch.prompts, unit="1", formula=f"{text}; minus random", denominators=whole
        ),
    }
    records = [
        {
            "head": f"{mover // decoder.n_heads}.{mover % decoder.n_heads}",
            "class": kind,
            "name": name,
            "before": before[row, column].mean(),
            "after": after[row, column].mean(),
            "after_random": random[:, row, column].mean(),
        }
        for row, (mover, kind) in enumerate(movers.items())
        for column, name in enumerate(LOOKED_AT)
    ]
    return metrics, pd.DataFrame(records)
