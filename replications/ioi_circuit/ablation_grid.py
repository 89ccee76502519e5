"""One circuit, many numbers: faithfulness under each ablation choice of Miller et al. (2024).

Their six choices, as far as heads are the components: what replaces a head (mean over ABC prompts, zero, its output on
the ABC partner), at which positions (its own, all), which side is touched (the complement of the circuit, or the
circuit itself), in which direction (destroy: ablate in a run on the prompt; restore: put the circuit's clean outputs
into a run on the ABC partner), and how many prompts a mean is made of. Edges and branches as components are not part of
this grid. Beside the ratio of averages stand the average of ratios, which a few prompts near zero can move anywhere,
its median and quartiles, and the two orders of the names apart.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from replications.ioi_circuit.knockout import Ablation, KnockOut, Node, NodeSet

ABLATIONS: tuple[Ablation, ...] = ("mean", "zero", "resample")


def ablation_grid(where: KnockOut, few: KnockOut, nodes: NodeSet, small_group: int) -> pd.DataFrame:
    """One row per choice. `few` differs from `where` in that its means come from `small_group` prompts."""
    everywhere = frozenset(Node(node.layer, node.head, None) for node in nodes)
    model = where.differences([frozenset()], remove=True)[0]
    abba = np.array([prompt.order == "ABBA" for prompt in where.prompts])
    records = []

    def add(values: Float[np.ndarray, " prompt"], **choice: str) -> None:
        ratios = values / model
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        records.append(
            choice
            | {
                "ratio_of_averages": values.mean() / model.mean(),
                "average_of_ratios": ratios.mean(),
                "median_of_ratios": middle,
                "quartile_low": low,
                "quartile_high": high,
                "share_below_0": (values < 0).mean(),
                "ratio_abba": values[abba].mean() / model[abba].mean(),
                "ratio_baba": values[~abba].mean() / model[~abba].mean(),
            }
        )

    for ablation in ABLATIONS:
        for positions, part in (("own", nodes), ("all", everywhere)):
            for side, remove in (("complement", False), ("circuit", True)):
                values = where.differences([part], remove=remove, ablation=ablation)[0]
                add(values, ablation=ablation, positions=positions, ablated=side, direction="destroy", prompts="all")
    add(
        few.differences([nodes])[0],
        ablation="mean", positions="own", ablated="complement", direction="destroy", prompts=str(small_group),
    )  # fmt: skip
    add(
        where.restored([nodes])[0],
        ablation="resample", positions="own", ablated="complement", direction="restore", prompts="all",
    )  # fmt: skip
    return pd.DataFrame(records)
