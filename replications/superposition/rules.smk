# Toy models of superposition. A family of parts is: train -> (exact optimum) -> measure -> draw. A part that is null in
# config.yaml is left out. This file trains; measure.smk measures and draws.
from common.engine.rules import Steps, captions, figure_files, parts

STEP = Steps("replications.superposition", config)
CAPTIONS = "replications/superposition/captions"
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
TRAINING = {**ON_GPU, "mem_mb": 20000 if ON_GPU else 3000, "runtime": 60}


def training(wildcards):
    return config[wildcards.part]["training"]


include: "../../common/engine/step.smk"


use rule step as train_features with:
    output:
        models="<results>/toy/{part}/models.safetensors",
    log:
        "<logs>/train_{part}.log",
    wildcard_constraints:
        part="intro|polygons|many_features|neurons",
    priority: 10
    resources:
        **TRAINING,
    params:
        **STEP("train_features", training),


use rule step as train_cells with:
    output:
        models="<results>/toy/{part}/models.safetensors",
    log:
        "<logs>/train_{part}.log",
    wildcard_constraints:
        part="phase_diagram|first_order|third_feature",
    resources:
        **TRAINING,
    params:
        **STEP("train_cells", training),


use rule step as exact with:
    output:
        exact="<results>/toy/{part}/exact.csv",
    log:
        "<logs>/exact_{part}.log",
    wildcard_constraints:
        part="phase_diagram|first_order|third_feature",
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        **STEP("exact", training, run=False),


use rule step as train_rarer with:
    output:
        models="<results>/toy/rarer_feature/models.safetensors",
    log:
        "<logs>/train_rarer_feature.log",
    resources:
        **TRAINING,
    params:
        **STEP("train_rarer", lambda wildcards: config["rarer_feature"]["training"]),


use rule step as train_sets with:
    output:
        models="<results>/toy/sets/models.safetensors",
    log:
        "<logs>/train_sets.log",
    resources:
        **TRAINING,
    params:
        **STEP("train_sets", config["sets"]),


use rule step as train_uniform with:
    output:
        models="<results>/toy/uniform/models.safetensors",
    log:
        "<logs>/train_uniform.log",
    resources:
        **TRAINING,
    params:
        **STEP("train_uniform", config["uniform"]["training"]),


use rule step as train_learning with:
    output:
        models="<results>/toy/{part}/models.safetensors",
    log:
        "<logs>/train_{part}.log",
    wildcard_constraints:
        part="energy_levels|octahedron",
    resources:
        **TRAINING,
    params:
        **STEP("train_learning", training),


use rule step as train_absolute with:
    output:
        models="<results>/toy/absolute/models.safetensors",
    log:
        "<logs>/train_absolute.log",
    resources:
        **TRAINING,
    params:
        **STEP("train_absolute", lambda wildcards: config["absolute"]),


use rule step as train_double_descent with:
    output:
        models="<results>/toy/{part}/models.safetensors",
    log:
        "<logs>/train_{part}.log",
    wildcard_constraints:
        part="double_descent|widths",
    resources:
        **TRAINING,
    params:
        **STEP("train_double_descent", training),


include: "measure.smk"


rule figures:
    input:
        DRAWN,


rule metrics:
    input:
        [
            expand("<results>/toy/{part}/metrics.json", part=parts(figures))
            for figures in FIGURES.values()
        ],
