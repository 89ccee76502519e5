# One rule for every family of parts that measures it, and one that draws it. Parts that are null in config.yaml are left
# out: their files, and their figures. FIGURES: family: subcategory of the report: part: names of its figures.


def run_parts(figures):
    kept = {
        title: {
            part: names
            for part, names in found.items()
            if config["uniform" if part == "adversarial" else part]
        }
        for title, found in figures.items()
    }
    return {title: found for title, found in kept.items() if found}


def chosen(*names):
    return {name: config[name] for name in names}


def where_run(part, **files):
    return files if config[part] else {}


FIGURES = {
    family: run_parts(figures)
    for family, figures in {
        "features": {
            "Five features in a plane": {"intro": ["intro"]},
            "Polygons": {"polygons": ["polygons", "restarts"]},
            "Twenty features in five dimensions": {"many_features": ["many_features"]},
        },
        "phases": {
            "Phase diagram": {
                "phase_diagram": ["phase_diagram"],
                "third_feature": ["third_feature"],
            },
            "First-order transition": {"first_order": ["first_order"]},
        },
        "geometry": {
            "Geometry": {
                "rarer_feature": ["rarer_feature"],
                "sets": ["sets"],
                "uniform": ["uniform"],
            },
            "Adversarial vulnerability": {"adversarial": ["adversarial"]},
        },
        "learning": {
            "Learning": {
                "energy_levels": ["energy_levels"],
                "octahedron": ["octahedron"],
            },
            "Double descent": {
                "double_descent": ["double_descent"],
                "widths": ["widths"],
            },
        },
        "neurons": {
            "Privileged basis": {"neurons": ["neurons"], "absolute": ["absolute"]}
        },
    }.items()
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
        restarts="<results>/toy/polygons/restarts.csv",
        many_features_metrics="<results>/toy/many_features/metrics.json",
        many_features_table="<results>/toy/many_features/table.csv",
        products="<results>/toy/many_features/products.csv",
    log:
        "<logs>/measure_features.log",
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
    log:
        "<logs>/draw_features.log",
    priority: 10
    params:
        **STEP("features_figures", run=False),


use rule step as measure_phases with:
    input:
        **where_run(
            "third_feature",
            third_models="<results>/toy/third_feature/models.safetensors",
            third_exact="<results>/toy/third_feature/exact.csv",
        ),
        phase_diagram_models="<results>/toy/phase_diagram/models.safetensors",
        phase_diagram_exact="<results>/toy/phase_diagram/exact.csv",
        first_order_models="<results>/toy/first_order/models.safetensors",
        first_order_exact="<results>/toy/first_order/exact.csv",
    output:
        **where_run(
            "third_feature",
            third_metrics="<results>/toy/third_feature/metrics.json",
            third_table="<results>/toy/third_feature/table.csv",
        ),
        phase_diagram_metrics="<results>/toy/phase_diagram/metrics.json",
        phase_diagram_table="<results>/toy/phase_diagram/table.csv",
        first_order_metrics="<results>/toy/first_order/metrics.json",
        first_order_table="<results>/toy/first_order/table.csv",
        branches="<results>/toy/first_order/branches.csv",
    log:
        "<logs>/measure_phases.log",
    resources:
        mem_mb=3000,
    params:
        **STEP("measure_phases", chosen("phase_diagram", "third_feature")),


use rule step as draw_phases with:
    input:
        rules.measure_phases.output,
        captions=captions(CAPTIONS, FIGURES["phases"]),
    output:
        **figure_files("<results>/toy", FIGURES["phases"], "Superposition"),
    log:
        "<logs>/draw_phases.log",
    params:
        **STEP("phases_figures", run=False),


use rule step as measure_geometry with:
    input:
        **where_run(
            "rarer_feature",
            rarer_models="<results>/toy/rarer_feature/models.safetensors",
        ),
        sets_models="<results>/toy/sets/models.safetensors",
    output:
        **where_run(
            "rarer_feature",
            rarer_metrics="<results>/toy/rarer_feature/metrics.json",
            rarer_table="<results>/toy/rarer_feature/table.csv",
            rarer_columns="<results>/toy/rarer_feature/columns.csv",
        ),
        sets_metrics="<results>/toy/sets/metrics.json",
        sets_table="<results>/toy/sets/table.csv",
        collapse="<results>/toy/sets/collapse.csv",
        products="<results>/toy/sets/products.csv",
    log:
        "<logs>/measure_geometry.log",
    resources:
        mem_mb=3000,
    params:
        **STEP("measure_geometry", chosen("sets", "rarer_feature")),


use rule step as measure_uniform with:
    input:
        models="<results>/toy/uniform/models.safetensors",
    output:
        uniform_metrics="<results>/toy/uniform/metrics.json",
        uniform_table="<results>/toy/uniform/table.csv",
        graphs="<results>/toy/uniform/graphs.csv",
        adversarial_metrics="<results>/toy/adversarial/metrics.json",
        adversarial_table="<results>/toy/adversarial/table.csv",
    log:
        "<logs>/measure_uniform.log",
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
    log:
        "<logs>/draw_geometry.log",
    params:
        **STEP("geometry_figures", run=False),


use rule step as measure_learning with:
    input:
        **where_run(
            "energy_levels",
            levels_models="<results>/toy/energy_levels/models.safetensors",
        ),
        octahedron_models="<results>/toy/octahedron/models.safetensors",
    output:
        **where_run(
            "energy_levels",
            levels_metrics="<results>/toy/energy_levels/metrics.json",
            levels_table="<results>/toy/energy_levels/table.csv",
        ),
        octahedron_metrics="<results>/toy/octahedron/metrics.json",
        octahedron_table="<results>/toy/octahedron/table.csv",
    log:
        "<logs>/measure_learning.log",
    resources:
        mem_mb=3000,
    params:
        **STEP("measure_learning"),


use rule step as measure_double_descent with:
    input:
        **where_run(
            "widths",
            widths_models="<results>/toy/widths/models.safetensors",
        ),
        models="<results>/toy/double_descent/models.safetensors",
    output:
        **where_run(
            "widths",
            widths_metrics="<results>/toy/widths/metrics.json",
            widths_table="<results>/toy/widths/table.csv",
        ),
        metrics="<results>/toy/double_descent/metrics.json",
        table="<results>/toy/double_descent/table.csv",
        columns="<results>/toy/double_descent/columns.csv",
    log:
        "<logs>/measure_double_descent.log",
    resources:
        mem_mb=3000,
    params:
        **STEP("measure_double_descent", chosen("double_descent", "widths")),


use rule step as draw_learning with:
    input:
        rules.measure_learning.output,
        rules.measure_double_descent.output,
        captions=captions(CAPTIONS, FIGURES["learning"]),
    output:
        **figure_files("<results>/toy", FIGURES["learning"], "Superposition"),
    log:
        "<logs>/draw_learning.log",
    params:
        **STEP("learning_figures", run=False),


DRAWN = [
    rules.draw_features.output,
    rules.draw_phases.output,
    rules.draw_geometry.output,
    rules.draw_learning.output,
]

if config["neurons"] and config["absolute"]:

    use rule step as measure_neurons with:
        input:
            neurons_models="<results>/toy/neurons/models.safetensors",
            absolute_models="<results>/toy/absolute/models.safetensors",
        output:
            neurons_metrics="<results>/toy/neurons/metrics.json",
            neurons_table="<results>/toy/neurons/table.csv",
            absolute_metrics="<results>/toy/absolute/metrics.json",
            absolute_table="<results>/toy/absolute/table.csv",
            motif="<results>/toy/absolute/motif.csv",
        log:
            "<logs>/measure_neurons.log",
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
        log:
            "<logs>/draw_neurons.log",
        params:
            **STEP("neurons_figures", run=False),

    DRAWN.append(rules.draw_neurons.output)
