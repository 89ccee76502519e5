"""Step: draws figures, several in one process (`several`)."""

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
from replications.superposition.several import run_several

if __name__ == "__main__":
    run_several(
        draw_absolute,
        draw_adversarial,
        draw_double_descent,
        draw_first_order,
        draw_learning,
        draw_many,
        draw_neurons,
        draw_phase_diagram,
        draw_planes,
        draw_rarer,
        draw_restarts,
        draw_sets,
        draw_third_feature,
        draw_uniform,
    )
