"""Step: measures parts whose models are trained, several in one process (`several`)."""

from replications.superposition.measure_absolute import measure_absolute
from replications.superposition.measure_adversarial import measure_adversarial
from replications.superposition.measure_double_descent import measure_double_descent
from replications.superposition.measure_first_order import measure_first_order
from replications.superposition.measure_intro import measure_intro
from replications.superposition.measure_learning import measure_learning
from replications.superposition.measure_many import measure_many
from replications.superposition.measure_neurons import measure_neurons
from replications.superposition.measure_phase_diagram import measure_phase_diagram
from replications.superposition.measure_polygons import measure_polygons
from replications.superposition.measure_rarer import measure_rarer
from replications.superposition.measure_sets import measure_sets
from replications.superposition.measure_third_feature import measure_third_feature
from replications.superposition.measure_uniform import measure_uniform
from replications.superposition.several import run_several

if __name__ == "__main__":
    run_several(
        measure_absolute,
        measure_adversarial,
        measure_double_descent,
        measure_first_order,
        measure_intro,
        measure_learning,
        measure_many,
        measure_neurons,
        measure_phase_diagram,
        measure_polygons,
        measure_rarer,
        measure_sets,
        measure_third_feature,
        measure_uniform,
    )
