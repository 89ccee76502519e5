"""Step: draws all figures of the planted dictionaries, or those of a language model, from the tables of their parts."""

from common.core.figures import Plan, run_plans
from replications.sparse_autoencoders import draw_field, draw_language
from replications.sparse_autoencoders.draw_absorption import draw_absorption
from replications.sparse_autoencoders.draw_dictionaries import draw_dictionaries
from replications.sparse_autoencoders.draw_overlap import draw_overlap
from replications.sparse_autoencoders.draw_planted import draw_planted

PLANS = {
    "planted/planted": Plan(draw_planted, ("features.csv", "traces.csv", "metrics.json")),
    "absorption/absorption": Plan(draw_absorption, ("parents.csv",)),
    "language/frontier": Plan(draw_language.frontier, ("saes.csv",)),
    "language/grid": Plan(draw_language.grid, ("saes.csv",)),
    "errors/errors": Plan(draw_language.errors, ("saes.csv",)),
    "language/training": Plan(draw_language.training, ("traces.csv",)),
    "overlap/overlap": Plan(draw_overlap, ("latents.csv", "pairs.csv")),
    "dictionaries/dictionaries": Plan(draw_dictionaries, ("dictionaries.csv",)),
    "benchmarks/probes": Plan(draw_field.draw_probes, ("probes.csv",)),
    "benchmarks/floors": Plan(draw_field.draw_floors, ("probes.csv", "others.csv")),
    "natural_absorption/natural_absorption": Plan(draw_field.draw_natural, ("classes.csv",)),
    "layers/layers": Plan(draw_field.draw_layers, ("latents.csv",)),
    "completeness/completeness": Plan(draw_field.draw_completeness, ("sets.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
