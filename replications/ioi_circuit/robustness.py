"""Step: how the numbers of the circuit depend on how they are taken (Wang et al. 2022; Miller et al. 2024).

Random node sets with the circuit's layers and positions, random and greedily grown parts taken out of circuit and
model, minimality of each node, the answer beside that of the model (completeness.py), and other ablations
(ablation_grid.py). All on verification prompts; nothing is chosen.
"""

from pathlib import Path

import pandas as pd
import torch

from common.core.metrics import write_metrics
from common.core.step import Files, RunInfo, run_step
from common.core.tables import write_table
from replications.ioi_circuit.ablation_grid import ablation_grid, measure_grid
from replications.ioi_circuit.batches import VERIFICATION, balanced, load_circuit_prompts
from replications.ioi_circuit.completeness import (
    additions,
    measure_answers,
    measure_minimality,
    measure_parts,
    minimality,
)
from replications.ioi_circuit.knockout import KnockOut, read_means
from replications.ioi_circuit.settings import Robustness
from replications.ioi_circuit.trivial_circuits import circuits_of, measure_against_random


class RobustnessFiles(Files):
    manifest: Path
    prompts: Path
    activations: Path
    """for the template means"""
    circuit: Path
    """of the verification"""
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

    def on(count: int, *, few_means: bool = False) -> KnockOut:
        means = read_means(files.activations, run.device, few=few_means)
        return KnockOut(decoder, balanced(rows, VERIFICATION, count), means, run.device, settings.batch_size)

    with torch.no_grad():
        few = on(settings.random_prompts)
        metrics = measure_against_random(few, nodes, settings.random_sets)
        parts, of_parts = measure_parts(few, circuits, settings.random_parts, settings.greedy)
        chosen["minimality"] = minimality(few, chosen)
        strangers = additions(few, chosen, settings.random_sets, seed=0)
        metrics |= of_parts | measure_minimality(chosen["minimality"].to_numpy(), strangers)
        metrics |= measure_answers(few, nodes)
        where, with_few = on(settings.grid_prompts), on(settings.grid_prompts, few_means=True)
        grid = ablation_grid(where, with_few, chosen, settings.small_group)
        metrics |= measure_grid(grid)
    write_metrics(files.metrics, metrics)
    for path, content in ((files.nodes, chosen), (files.parts, parts), (files.grid, grid)):
        write_table(path, content)


if __name__ == "__main__":
    run_step(robustness)
