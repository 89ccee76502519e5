"""Step: draws all figures of a model, or those of the planted circuit, from the tables of their parts."""

from common.core.figures import Plan, run_plans
from replications.ioi_circuit import (
    activation_figures,
    baseline_figures,
    diagram_figures,
    direct_path_figures,
    edge_figures,
    fine_tuned_figures,
    ground_truth_figures,
    logit_lens_figures,
    mlp_knockout_figures,
    path_patching_figures,
    signals_figures,
    verification_figures,
)

PLANS = {
    "baseline/answers": Plan(baseline_figures.answers, ("answers.csv",)),
    "baseline/adversarial": Plan(baseline_figures.adversarial, ("metrics.json",)),
    "logit_lens/lens": Plan(logit_lens_figures.lens, ("lens.csv",)),
    "direct_path/heat_map": Plan(direct_path_figures.heat_map, ("heads.csv",)),
    "direct_path/strongest_heads": Plan(direct_path_figures.strongest_heads, ("heads.csv",)),
    "path_patching/sweeps": Plan(path_patching_figures.sweeps, ("heads.csv",)),
    "path_patching/attention": Plan(path_patching_figures.attention, ("attention.csv",), {"dtype": {"head": str}}),
    "path_patching/steered": Plan(path_patching_figures.steered, ("steered.csv",), {"dtype": {"head": str}}),
    "path_patching/random_tokens": Plan(path_patching_figures.random_tokens, ("heads.csv",)),
    "signals/signals": Plan(signals_figures.signals, ("signals.csv",)),
    "mlp_knockout/mlps": Plan(mlp_knockout_figures.mlps, ("mlps.csv",)),
    "verification/curve": Plan(verification_figures.curve, ("curve.csv", "metrics.json")),
    "verification/completeness": Plan(verification_figures.completeness, ("knockouts.csv",)),
    "verification/minimality": Plan(verification_figures.minimality, ("circuit.csv",)),
    "verification/grid": Plan(verification_figures.grid, ("grid.csv",)),
    "verification/diagram": Plan(diagram_figures.diagram, ("circuit.csv",)),
    "fine_tuned/fine_tuned": Plan(fine_tuned_figures.fine_tuned, ("shares.csv", "heads.csv")),
    "activation_patching/streams": Plan(activation_figures.streams, ("effects.csv",)),
    "activation_patching/patched_heads": Plan(activation_figures.patched_heads, ("effects.csv",)),
    "edge_attribution/edge_curves": Plan(edge_figures.edge_curves, ("curves.csv",)),
    "edge_attribution/attribution": Plan(edge_figures.attribution, ("nodes.csv",)),
    "edge_search/searched_edges": Plan(edge_figures.searched_edges, ("curves.csv", "edges.csv", "metrics.json")),
    "ground_truth/planted": Plan(ground_truth_figures.planted, ("scores.csv",)),
    "edge_ground_truth/planted_edges": Plan(edge_figures.planted_edges, ("edges.csv", "curves.csv")),
}


if __name__ == "__main__":
    run_plans(PLANS)
