"""Step: draws all figures of the trained arms, or of a language model, from the tables of their parts."""

from common.core.figures import Plan, run_plans
from replications.induction_heads import (
    ablations_figures,
    chains_figures,
    curves_figures,
    framework_figures,
    heads_figures,
    model_figures,
    sweep_figures,
)

PLANS = {
    "phase_change/co_occurrence": Plan(curves_figures.co_occurrence, ("curves.csv",)),
    "phase_change/loss_curves": Plan(curves_figures.loss_curves, ("curves.csv",)),
    "phase_change/index_slopes": Plan(curves_figures.index_slopes, ("indices.csv",)),
    "phase_change/head_scores": Plan(curves_figures.head_scores, ("heads.csv",)),
    "phase_change/paths": Plan(curves_figures.paths, ("paths.csv",)),
    "sweep/sweep": Plan(sweep_figures.sweep, ("curves.csv", "times.csv")),
    "heads/mechanism": Plan(heads_figures.mechanism, ("attention.csv",)),
    "heads/circuits": Plan(heads_figures.circuits, ("heads.csv",)),
    "ablations/ablations": Plan(ablations_figures.ablations, ("ablations.csv",)),
    "chains/chains": Plan(chains_figures.chains, ("curves.csv",)),
    "framework/path_orders": Plan(framework_figures.path_orders, ("orders.csv", "heads.csv")),
    "framework/skip_trigrams": Plan(framework_figures.skip_trigrams, ("trigrams.csv",), {"keep_default_na": False}),
    "text_training/text_training": Plan(curves_figures.co_occurrence, ("curves.csv",)),
    "scores/score_maps": Plan(model_figures.score_maps, ("scores.csv",)),
    "scores/fuzzy": Plan(model_figures.fuzzy, ("fuzzy.csv",)),
    "repeats/repeats": Plan(model_figures.repeats, ("ablations.csv",)),
    "real_text/windows": Plan(model_figures.windows, ("windows.csv",)),
    "real_text/rises": Plan(model_figures.rises, ("rises.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
