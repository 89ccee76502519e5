"""Step: draws figures from the tables of their parts."""

from common.core.figures import Plan, run_plans
from replications.superposition.draw_absolute import draw_absolute
from replications.superposition.draw_adversarial import draw_adversarial
from replications.superposition.draw_double_descent import draw_double_descent
from replications.superposition.draw_first_order import draw_first_order
from replications.superposition.draw_learning import draw_learning
from replications.superposition.draw_many import draw_many
from replications.superposition.draw_neurons import draw_neurons
from replications.superposition.draw_phase_diagram import draw_phase_diagram
from replications.superposition.draw_planes import draw_planes
from replications.superposition.draw_rarer import draw_rarer
from replications.superposition.draw_restarts import draw_restarts
from replications.superposition.draw_sets import draw_sets
from replications.superposition.draw_third_feature import draw_third_feature
from replications.superposition.draw_uniform import draw_uniform
from replications.superposition.draw_widths import draw_widths

PLANS = {
    "intro/intro": Plan(draw_planes, ("table.csv",)),
    "polygons/polygons": Plan(draw_planes, ("table.csv",)),
    "polygons/restarts": Plan(draw_restarts, ("restarts.csv",)),
    "many_features/many_features": Plan(draw_many, ("table.csv", "products.csv")),
    "phase_diagram/phase_diagram": Plan(draw_phase_diagram, ("table.csv",)),
    "third_feature/third_feature": Plan(draw_third_feature, ("table.csv",)),
    "first_order/first_order": Plan(draw_first_order, ("table.csv", "branches.csv")),
    "rarer_feature/rarer_feature": Plan(draw_rarer, ("table.csv", "columns.csv")),
    "sets/sets": Plan(draw_sets, ("table.csv", "collapse.csv", "products.csv")),
    "uniform/uniform": Plan(draw_uniform, ("table.csv", "graphs.csv")),
    "adversarial/adversarial": Plan(draw_adversarial, ("table.csv",)),
    "learning/learning": Plan(draw_learning, ("table.csv", "stages.csv")),
    "neurons/neurons": Plan(draw_neurons, ("table.csv",)),
    "absolute/absolute": Plan(draw_absolute, ("table.csv", "motif.csv")),
    "double_descent/double_descent": Plan(draw_double_descent, ("table.csv", "columns.csv")),
    "double_descent/widths": Plan(draw_widths, ("sweep.csv",)),
}


if __name__ == "__main__":
    run_plans(PLANS)
