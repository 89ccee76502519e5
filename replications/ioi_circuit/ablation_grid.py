"""One circuit, many numbers: faithfulness under each ablation choice of Miller et al. (2024).

Of their six choices:

    component     nodes: heads at a position; edges: the paths between them (edge_knockout.py). Not branches
    value         mean over ABC prompts, zero, output on the ABC partner (resample), output with noisy names
    positions     own: a node at its own position; all: at every position
    set           complement: all but the circuit is ablated; circuit: the circuit itself
    direction     destroy: ablate in a run on the prompt; restore: put clean outputs into a run on the ABC partner or
                  with noisy names (means and zero are no runs). Restoring the complement leaves the circuit corrupted
    granularity   heads only

and the number of prompts in a mean. Beside the ratio of averages stand the average of ratios, which a few prompts near
zero can move anywhere, its median and quartiles, the shares of prompts below 0 and above 2, the two orders of the names
apart, and the templates with the smallest and largest ratio.
"""

import itertools

import numpy as np
import pandas as pd
from jaxtyping import Float

from common.core.metrics import Metric
from common.core.statistics import without_interval
from common.interp.edge_graph import Graph
from replications.ioi_circuit.edge_knockout import edge_differences, everywhere, path_edges
from replications.ioi_circuit.knockout import Ablation, Direction, KnockOut
from replications.ioi_circuit.nodes import Node, node_set

CELLS: list[tuple[Direction, Ablation]] = [
    ("destroy", "mean"), ("destroy", "zero"), ("destroy", "resample"), ("destroy", "noise"),
    ("restore", "resample"), ("restore", "noise"),
]  # fmt: skip


def ablation_grid(where: KnockOut, few: KnockOut, chosen: pd.DataFrame, small_group: int) -> pd.DataFrame:
    """One row per choice.

    Args:
        where: verification prompts.
        few: the same with means from `small_group` prompts.
        chosen: nodes of the circuit with their classes.
        small_group: prompts in the smaller template means.
    """
    nodes = node_set(chosen)
    node_parts = {"own": nodes, "all": frozenset(Node(node.layer, node.head, None) for node in nodes)}
    senders = path_edges(Graph.of(where.decoder), chosen)
    edge_parts = {"own": senders, "all": everywhere(senders)}
    model = where.differences([frozenset()], remove=True)[0]
    abba = np.array([prompt.order == "ABBA" for prompt in where.prompts])
    of_template = [
        np.array([row.template == one for row in where.prompts]) for one in {row.template for row in where.prompts}
    ]
    records = []

    def add(values: Float[np.ndarray, " prompt"], **choice: str) -> None:
        ratios = values / model
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        by_template = [values[rows].mean() / model[rows].mean() for rows in of_template]
        records.append(
            choice
            | {
                "ratio_of_averages": values.mean() / model.mean(),
                "average_of_ratios": ratios.mean(),
                "median_of_ratios": middle,
                "quartile_low": low,
                "quartile_high": high,
                "share_below_0": (values < 0).mean(),
                "share_above_2": (ratios > 2).mean(),
                "ratio_abba": values[abba].mean() / model[abba].mean(),
                "ratio_baba": values[~abba].mean() / model[~abba].mean(),
                "smallest_template": min(by_template),
                "largest_template": max(by_template),
            }
        )

    for direction, ablation in CELLS:
        change = where.differences if direction == "destroy" else where.restored
        for positions, side in itertools.product(("own", "all"), ("complement", "circuit")):
            of_circuit = side == "circuit"
            # restored(remove=True) puts clean outputs in all but the set; differences(remove=False) ablates all but it
            remove = of_circuit == (direction == "destroy")
            by_node = change([node_parts[positions]], remove=remove, ablation=ablation)[0]
            by_edge = edge_differences(where, edge_parts[positions], direction, ablation, replaced=of_circuit)
            choice = {
                "ablation": ablation,
                "positions": positions,
                "set": side,
                "direction": direction,
                "prompts": "all",
            }
            add(by_node, component="nodes", **choice)
            add(by_edge, component="edges", **choice)
        where.forget(direction, ablation)
    choice = {"ablation": "mean", "positions": "own", "set": "complement", "direction": "destroy"}
    add(few.differences([nodes])[0], component="nodes", **choice, prompts=str(small_group))
    return pd.DataFrame(records)


def measure_grid(grid: pd.DataFrame) -> dict[str, Metric]:
    """How far faithfulness goes with the choice: smallest and largest of the rows that keep the circuit, both averages.

    Kept are the rows that ablate the complement and those that put the circuit back.
    """
    kept = grid[(grid["set"] == "complement") == (grid["direction"] == "destroy")]
    metrics = {}
    for column in ("ratio_of_averages", "average_of_ratios"):
        for name, value in (("smallest", kept[column].min()), ("largest", kept[column].max())):
            text = f"{name} {column.replace('_', ' ')} over {len(kept)} ways to keep the circuit"
            metrics[f"grid_{name}_{column}"] = without_interval(float(value), len(kept), "1", text)
    return metrics
