"""Step: draws all figures from the tables of their parts."""

from common.core.figures import Plan, run_plans
from replications.monosemanticity import dictionary_figures, unit_figures

TEXT = {"keep_default_na": False}
PLANS = {
    "loss/loss": Plan(dictionary_figures.loss, ("ways.csv", "curves.csv", "metrics.json")),
    "splitting/splitting": Plan(dictionary_figures.splitting, ("nests.csv",)),
    "splitting/families": Plan(dictionary_figures.families, ("families.csv",), TEXT),
    "universality/universality": Plan(dictionary_figures.universality, ("twins.csv",)),
    "units/units": Plan(unit_figures.units, ("quarters.csv", "units.csv", "metrics.json")),
    "units/examples": Plan(unit_figures.examples, ("examples.csv",), TEXT),
    "logits/logits": Plan(unit_figures.logits, ("units.csv",)),
    "language_scorer/language_scorer": Plan(unit_figures.language_scorer, ("latents.csv",), TEXT),
}


if __name__ == "__main__":
    run_plans(PLANS)
