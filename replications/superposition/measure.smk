# One rule for every family of parts that measures it, and one that draws it. `neurons` is left out where it is null in
# config.yaml. FIGURES: family: subcategory of the report: part: names of its figures.

chosen = lambda *names: {name: config[name] for name in names}
neurons = lambda **files: files if config["neurons"] else {}

FIGURES = {
    "features": {
        "Five features in a plane": {"intro": ["intro"]},
        "Polygons": {"polygons": ["polygons"]},
        "Twenty features in five dimensions": {"many_features": ["many_features"]},
    },
    "phases": {
        "Phase diagram": {"phase_diagram": ["phase_diagram"]},
        "First-order transition": {"first_order": ["first_order"]},
    },
    "geometry": {
        "Geometry": {"sets": ["sets"], "uniform": ["uniform", "graphs"]},
        "Adversarial vulnerability": {"adversarial": ["adversarial"]},
    },
    "learning": {
        "Learning": {
            "energy_levels": ["energy_levels"],
            "octahedron": ["octahedron"],
        },
        "Double descent": {"double_descent": ["double_descent"]},
    },
    "neurons": {
        "Computation in superposition": {"absolute": ["absolute"]},
        **neurons(**{"Privileged basis": {"neurons": ["neurons"]}}),
    },
}


use rule step as measure_features with:
    input:
        intro_models="<results>/toy/intro/models.safetensors",
        polygons_models="<results>/toy/polygons/models.safetensors",
        many_features_models="<results>/toy/many_features/models.safetensors",
    output:
        intro_metrics="<results>/toy/intro/metrics.json",
        intro_table="<results>/toy/intro/table.csv",
        polygons_metrics="<results>/toy/polygons/metrics.json",
        polygons_table="<results>/toy/polygons/table.csv",
        many_features_metrics="<results>/toy/many_features/metrics.json",
        many_features_table="<results>/toy/many_features/table.csv",
        products="<results>/toy/many_features/products.csv",
    priority: 10
    resources:
        mem_mb=3000,
    params:
        **STEP("measure_features", chosen("intro", "polygons")),


use rule step as draw_features with:
    input:
        rules.measure_features.output,
        captions=captions(CAPTIONS, FIGURES["features"]),
    output:
        **figure_files("<results>/toy", FIGURES["features"], "Superposition"),
    priority: 10
    params:
        **STEP("features_figures", run=False),


use rule step as measure_phases with:
    input:
        phase_diagram_models="<results>/toy/phase_diagram/models.safetensors",
        phase_diagram_exact="<results>/toy/phase_diagram/exact.csv",
        first_order_models="<results>/toy/first_order/models.safetensors",
        first_order_exact="<results>/toy/first_order/exact.csv",
    output:
        phase_diagram_metrics="<results>/toy/phase_diagram/metrics.json",
        phase_diagram_table="<results>/toy/phase_diagram/table.csv",
        first_order_metrics="<results>/toy/first_order/metrics.json",
        first_order_table="<results>/toy/first_order/table.csv",
        branches="<results>/toy/first_order/branches.csv",
    resources:
        mem_mb=3000,
    params:
        **STEP("measure_phases", config["phase_diagram"]["judging"]),


use rule step as draw_phases with:
    input:
        rules.measure_phases.output,
        captions=captions(CAPTIONS, FIGURES["phases"]),
    output:
        **figure_files("<results>/toy", FIGURES["phases"], "Superposition"),
    params:
        **STEP("phases_figures", run=False),


use rule step as measure_geometry with:
    input:
        sets_models="<results>/toy/sets/models.safetensors",
    output:
        sets_metrics="<results>/toy/sets/metrics.json",
        sets_table="<results>/toy/sets/table.csv",
        collapse="<results>/toy/sets/collapse.csv",
        products="<results>/toy/sets/products.csv",
    resources:
        mem_mb=3000,
    params:
        **STEP("measure_geometry", config["sets"]),


use rule step as measure_uniform with:
    input:
        models="<results>/toy/uniform/models.safetensors",
    output:
        uniform_metrics="<results>/toy/uniform/metrics.json",
        uniform_table="<results>/toy/uniform/table.csv",
        graphs="<results>/toy/uniform/graphs.csv",
        adversarial_metrics="<results>/toy/adversarial/metrics.json",
        adversarial_table="<results>/toy/adversarial/table.csv",
    resources:
        mem_mb=3000,
        runtime=20,
    params:
        **STEP("measure_uniform", config["uniform"]),


use rule step as draw_geometry with:
    input:
        rules.measure_geometry.output,
        rules.measure_uniform.output,
        captions=captions(CAPTIONS, FIGURES["geometry"]),
    output:
        **figure_files("<results>/toy", FIGURES["geometry"], "Superposition"),
    params:
        **STEP("geometry_figures", run=False),


use rule step as measure_learning with:
    input:
        octahedron_models="<results>/toy/octahedron/models.safetensors",
        levels_models="<results>/toy/energy_levels/models.safetensors",
    output:
        octahedron_metrics="<results>/toy/octahedron/metrics.json",
        octahedron_table="<results>/toy/octahedron/table.csv",
        octahedron_paths="<results>/toy/octahedron/paths.csv",
        levels_metrics="<results>/toy/energy_levels/metrics.json",
        levels_table="<results>/toy/energy_levels/table.csv",
    resources:
        mem_mb=3000,
    params:
        **STEP("measure_learning"),


use rule step as measure_double_descent with:
    input:
        models="<results>/toy/double_descent/models.safetensors",
    output:
        metrics="<results>/toy/double_descent/metrics.json",
        table="<results>/toy/double_descent/table.csv",
        columns="<results>/toy/double_descent/columns.csv",
    resources:
        mem_mb=3000,
    params:
        **STEP("measure_double_descent", config["double_descent"]["training"]),


use rule step as draw_learning with:
    input:
        rules.measure_learning.output,
        rules.measure_double_descent.output,
        captions=captions(CAPTIONS, FIGURES["learning"]),
    output:
        **figure_files("<results>/toy", FIGURES["learning"], "Superposition"),
    params:
        **STEP("learning_figures", run=False),


use rule step as measure_neurons with:
    input:
        **neurons(neurons_models="<results>/toy/neurons/models.safetensors"),
        absolute_models="<results>/toy/absolute/models.safetensors",
    output:
        **neurons(
            neurons_metrics="<results>/toy/neurons/metrics.json",
            neurons_table="<results>/toy/neurons/table.csv",
        ),
        absolute_metrics="<results>/toy/absolute/metrics.json",
        absolute_table="<results>/toy/absolute/table.csv",
        motif="<results>/toy/absolute/motif.csv",
    resources:
        mem_mb=3000,
    params:
        **STEP("measure_neurons", chosen("neurons", "absolute")),


use rule step as draw_neurons with:
    input:
        rules.measure_neurons.output,
        captions=captions(CAPTIONS, FIGURES["neurons"]),
    output:
        **figure_files("<results>/toy", FIGURES["neurons"], "Superposition"),
    params:
        **STEP("neurons_figures", run=False),


DRAWN = [
    rules.draw_features.output,
    rules.draw_phases.output,
    rules.draw_geometry.output,
    rules.draw_learning.output,
    rules.draw_neurons.output,
]
