# Toy models of superposition. A family of parts is: train -> (exact optimum) -> measure -> draw. This file trains;
# measure.smk measures and draws.
from common.engine.rules import Steps, captions, figure_files, parts

STEP = Steps("replications.superposition", config)
CAPTIONS = "replications/superposition/captions"
TRAINING = {"mem_mb": 8000 if config["device"] == "cuda" else 3000, "runtime": 60}


training = lambda wildcards: config[wildcards.part].get(
    "training", config[wildcards.part]
)


include: "../../common/engine/step.smk"


use rule step as train_grids with:
    output:
        models="<results>/toy/{part}/models.safetensors",
    wildcard_constraints:
        part="intro|polygons|many_features|neurons|phase_diagram|first_order|sets",
    priority: 10
    resources:
        **TRAINING,
    params:
        **STEP("train_grids", training),


use rule step as exact with:
    output:
        exact="<results>/toy/{part}/exact.csv",
    wildcard_constraints:
        part="phase_diagram|first_order",
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        **STEP("theory", training, run=False),


use rule step as train_uniform with:
    output:
        models="<results>/toy/uniform/models.safetensors",
    resources:
        **TRAINING,
    params:
        **STEP("train_uniform", config["uniform"]["training"]),


use rule step as train_learning with:
    output:
        models="<results>/toy/{part}/models.safetensors",
    wildcard_constraints:
        part="energy_levels|octahedron",
    resources:
        **TRAINING,
    params:
        **STEP("train_learning", training),


use rule step as train_absolute with:
    output:
        models="<results>/toy/absolute/models.safetensors",
    resources:
        **TRAINING,
    params:
        **STEP("train_absolute", lambda wildcards: config["absolute"]),


use rule step as train_double_descent with:
    output:
        models="<results>/toy/double_descent/models.safetensors",
    resources:
        **TRAINING,
    params:
        **STEP("train_double_descent", config["double_descent"]["training"]),


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
