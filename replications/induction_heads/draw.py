"""Step: draws all figures of the trained arms from the tables of their parts."""

from common.core.figures import Plan, run_plans
from replications.induction_heads import circuit_figures, text_figures, training_figures

PLANS = {
    "phase_change/co_occurrence": Plan(training_figures.co_occurrence, ("curves.csv",)),
    "phase_change/loss_curves": Plan(training_figures.loss_curves, ("curves.csv",)),
    "phase_change/head_scores": Plan(training_figures.head_scores, ("heads.csv",)),
    "phase_change/paths": Plan(training_figures.paths, ("paths.csv",)),
    "sweep/sweep": Plan(training_figures.sweep, ("curves.csv", "times.csv")),
    "clamps/clamps": Plan(training_figures.clamps, ("curves.csv",)),
    "heads/mechanism": Plan(circuit_figures.mechanism, ("attention.csv",)),
    "heads/circuits": Plan(circuit_figures.circuits, ("heads.csv",)),
    "ablations/ablations": Plan(circuit_figures.ablations, ("ablations.csv",)),
    "chains/chains": Plan(training_figures.chains, ("curves.csv",)),
    "framework/path_orders": Plan(circuit_figures.path_orders, ("orders.csv", "heads.csv")),
    "framework/skip_trigrams": Plan(circuit_figures.skip_trigrams, ("trigrams.csv",), {"keep_default_na": False}),
    "text_training/text_phase_change": Plan(text_figures.text_phase_change, ("curves.csv", "heads.csv")),
    "text_training/text_paths": Plan(text_figures.text_paths, ("paths.csv",)),
    "text_training/text_slopes": Plan(text_figures.text_slopes, ("indices.csv",)),
    "text_heads/text_heads": Plan(text_figures.text_heads, ("heads.csv",)),
    "text_ablations/text_ablations": Plan(text_figures.text_ablations, ("ablations.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
