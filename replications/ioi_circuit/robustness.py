"""Step: how the numbers of the circuit depend on how they are taken (Wang et al. 2022; Miller et al. 2024).

Random node sets with the circuit's layers and positions, sets smaller than the trivial circuits (trivial_circuits.py),
random and greedily grown parts taken out of circuit and model, minimality of each node, the answer beside that of the
model (completeness.py), and other ablations (ablation_grid.py). All on verification prompts but the greedy search.
"""

from pathlib import Path

import pandas as pd
import torch

from common.core.metrics import write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.ioi_circuit.ablation_grid import ablation_grid, measure_edges, measure_grid
from replications.ioi_circuit.batches import DISCOVERY, VERIFICATION, balanced, load_circuit_prompts
from replications.ioi_circuit.completeness import (
    additions,
    grown_parts,
    measure_answers,
    measure_greedy,
    measure_minimality,
    minimality,
    part_table,
    read_steps,
)
from replications.ioi_circuit.dataset import Version
from replications.ioi_circuit.knockout import KnockOut, read_means
from replications.ioi_circuit.settings import Robustness
from replications.ioi_circuit.trivial_circuits import (
    circuits_of,
    measure_against_random,
    measure_small_sets,
    small_sets,
)


class RobustnessFiles(Files):
    manifest: Path
    prompts: Path
    activations: Path
    """for the template means"""
    circuit: Path
    """of the verification"""
    grown: Path
    """parts that greedy search takes out of it, of the verification"""
    metrics: Path
    nodes: Path
    """nodes of the circuit with class, effect and minimality"""
    parts: Path
    """F without random and greedy parts, of circuit and model"""
    grid: Path
    """faithfulness under each choice of ablation"""


def robustness(files: RobustnessFiles, settings: Robustness, run: RunInfo) -> None:
    """Writes `metrics.json` and three tables."""
    decoder, rows = load_circuit_prompts(files.manifest, files.prompts, run.device)
    chosen = pd.read_csv(files.circuit)
    circuits = circuits_of(chosen)
    nodes = circuits["circuit"]

    def on(count: int, half: int = VERIFICATION, version: Version = "original", *, few_means: bool = False) -> KnockOut:
        means = read_means(files.activations, run.device, few=few_means)
        chosen = balanced(rows, half, count)
        return KnockOut(decoder, chosen, means, run.device, settings.batch_size, version=version)

    with torch.no_grad():
        few, fresh = on(settings.random_prompts), on(settings.verify_prompts)
        grown = {"circuit": read_steps(files.grown)}
        metrics = measure_against_random(few, nodes, settings.random_sets)
        metrics |= measure_small_sets(fresh, on(settings.verify_prompts, version="abc"), nodes, small_sets(chosen))
        if naive := circuits["naive"]:
            grown["naive"] = grown_parts(on(settings.greedy_prompts, DISCOVERY), naive, settings.greedy)
            greedy, _ = measure_greedy(fresh, naive, grown["naive"], {}, settings.random_parts)
            metrics |= {f"naive_{name}": metric for name, metric in greedy.items()}
        parts = part_table(few, circuits, grown, settings.random_parts)
        chosen["minimality"] = minimality(fresh, chosen)
        strangers = additions(fresh, chosen, settings.random_sets, seed=0)
        metrics |= measure_minimality(chosen["minimality"].to_numpy(), strangers)
        metrics |= measure_answers(few, nodes)
        where, with_few = on(settings.grid_prompts), on(settings.grid_prompts, few_means=True)
        grid = ablation_grid(where, with_few, chosen, settings.small_group)
        metrics |= measure_grid(grid) | measure_edges(where, on(settings.grid_prompts, version="abc"), chosen)
    write_metrics(files.metrics, metrics)
    for path, content in ((files.nodes, chosen), (files.parts, parts), (files.grid, grid)):
        write_table(path, content)


if __name__ == "__main__":
    run_step(robustness)
