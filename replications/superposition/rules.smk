# Toy models of superposition. A part is: train (all its models in one batched job) -> measure -> draw. This file says
# which part runs which step. train.smk makes one rule of every line, measure.smk and figures.smk one of every group of
# parts: there, importing libraries would take longer than the steps.
from common.workflow import flags, source_hash
from replications.superposition.wiring import calls

NAME = "replications.superposition"
ENDINGS = ["svg", "png", "pdf", "csv", "json"]
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
RUN = {"seeds": config["seeds"], "device": config["device"]}

# part: step that trains its models
TRAINED = {
    "intro": "train_features",
    "polygons": "train_features",
    "many_features": "train_features",
    "phase_diagram": "train_cells",
    "first_order": "train_cells",
    "third_feature": "train_cells",
    "rarer_feature": "train_rarer",
    "sets": "train_sets",
    "uniform": "train_uniform",
    "learning": "train_learning",
    "neurons": "train_features",
    "absolute": "train_absolute",
    "double_descent": "train_double_descent",
}

# part whose training takes more than its key `training`
TRAINING = {
    "sets": ["pairs", "three_pairs", "local_bases"],
    "learning": ["levels", "geometry"],
    "absolute": ["training", "motif"],
}

# part with an exact optimum: step that finds it
SOLVED = {
    "phase_diagram": "exact_cells",
    "first_order": "exact_cells",
    "third_feature": "exact_thirds",
}

# part: (step that measures it, parts whose models it reads, keys of its settings, tables it writes)
MEASURED = {
    "intro": ("measure_intro", "intro", ["middle_density"], ["table"]),
    "polygons": (
        "measure_polygons",
        "polygons",
        ["digon_density", "pentagon_density"],
        ["table", "restarts"],
    ),
    "many_features": ("measure_many", "many_features", [], ["table", "products"]),
    "phase_diagram": (
        "measure_phase_diagram",
        "phase_diagram",
        ["judging"],
        ["table"],
    ),
    "first_order": ("measure_first_order", "first_order", [], ["table", "branches"]),
    "third_feature": (
        "measure_third_feature",
        "third_feature",
        ["judging"],
        ["table"],
    ),
    "rarer_feature": (
        "measure_rarer",
        "rarer_feature",
        ["density"],
        ["table", "columns"],
    ),
    "sets": (
        "measure_sets",
        "sets",
        ["collapse_density"],
        ["table", "collapse", "products"],
    ),
    "uniform": (
        "measure_uniform",
        "uniform",
        ["polytope_densities"],
        ["table", "graphs"],
    ),
    "learning": ("measure_learning", "learning", [], ["table", "stages"]),
    "neurons": (
        "measure_neurons",
        "neurons",
        ["monosemantic_density"],
        ["table"],
    ),
    "absolute": (
        "measure_absolute",
        "absolute",
        ["mixed_density", "sparser_density"],
        ["table", "motif"],
    ),
    "double_descent": (
        "measure_double_descent",
        "double_descent",
        ["points"],
        ["table", "columns"],
    ),
    "adversarial": ("measure_adversarial", "uniform", ["attack_points"], ["table"]),
}
# parts that are measured, and drawn, in one process
GROUPS = {
    "intro": ["intro"],  # first: the picture a reader waits for
    "few_features": [
        "polygons",
        "many_features",
        "phase_diagram",
        "first_order",
        "third_feature",
        "rarer_feature",
        "sets",
    ],
    "many_models": [
        "uniform",
        "adversarial",
        "learning",
        "neurons",
        "absolute",
        "double_descent",
    ],
}
SETTINGS = {"adversarial": "uniform"}  # parts that read the settings of another one

# figure: (part, step that draws it, tables it reads, subcategory and label in the report)
DRAWN = {
    "intro": (
        "intro",
        "draw_planes",
        ["table"],
        "Five features in a plane",
        "columns by density",
    ),
    "polygons": (
        "polygons",
        "draw_planes",
        ["table"],
        "Polygons",
        "columns by density",
    ),
    "restarts": (
        "polygons",
        "draw_restarts",
        ["restarts"],
        "Polygons",
        "losses of all restarts",
    ),
    "phase_diagram": (
        "phase_diagram",
        "draw_phase_diagram",
        ["table"],
        "Phase diagram",
        "trained, exact, linear",
    ),
    "first_order": (
        "first_order",
        "draw_first_order",
        ["table", "branches"],
        "First-order transition",
        "jump and loss branches",
    ),
    "many_features": (
        "many_features",
        "draw_many",
        ["table", "products"],
        "Twenty features in five dimensions",
        "norms and superposition",
    ),
    "third_feature": (
        "third_feature",
        "draw_third_feature",
        ["table"],
        "Phase diagram",
        "a third feature",
    ),
    "rarer_feature": (
        "rarer_feature",
        "draw_rarer",
        ["table", "columns"],
        "Geometry",
        "one feature becomes rarer",
    ),
    "sets": (
        "sets",
        "draw_sets",
        ["table", "collapse", "products"],
        "Geometry",
        "correlated features",
    ),
    "uniform": (
        "uniform",
        "draw_uniform",
        ["table", "graphs"],
        "Geometry",
        "sticky dimensionalities",
    ),
    "learning": (
        "learning",
        "draw_learning",
        ["table", "stages"],
        "Learning",
        "levels and stages",
    ),
    "neurons": (
        "neurons",
        "draw_neurons",
        ["table"],
        "Privileged basis",
        "what hidden units serve",
    ),
    "absolute": (
        "absolute",
        "draw_absolute",
        ["table", "motif"],
        "Privileged basis",
        "absolute values",
    ),
    "double_descent": (
        "double_descent",
        "draw_double_descent",
        ["table", "columns"],
        "Double descent",
        "points, features, test loss",
    ),
    "adversarial": (
        "adversarial",
        "draw_adversarial",
        ["table"],
        "Adversarial vulnerability",
        "excess loss",
    ),
}


include: "train.smk"
include: "measure.smk"
include: "figures.smk"


rule figures:
    input:
        [
            f"<results>/toy/{drawn[0]}/figures/{figure}.{ending}"
            for figure, drawn in DRAWN.items()
            for ending in ENDINGS
        ],


rule metrics:
    input:
        expand("<results>/toy/{part}/metrics.json", part=MEASURED),
