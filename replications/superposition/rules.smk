# Toy models of superposition. A part is: train (all its models in one batched job) -> measure -> draw. This file says
# which part runs which step. train.smk makes one rule of every line, measure.smk and figures.smk one of every group of
# parts: there, importing libraries would take longer than the steps.
from common.engine.rules import captions, figure_files, flags, parts, source_hash
from replications.superposition.wiring import calls

NAME = "replications.superposition"
CAPTIONS = "replications/superposition/captions"
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
    "double_descent": ["training", "widths"],
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
        ["points", "widths"],
        ["table", "columns", "sweep"],
    ),
    "adversarial": ("measure_adversarial", "uniform", ["attack_points"], ["table"]),
}
# parts that are measured, and drawn, in one process
GROUPS = {
    "intro": ["intro"],  # first: the picture a reader waits for
    "others": [part for part in MEASURED if part != "intro"],
}
SETTINGS = {"adversarial": "uniform"}  # parts that read the settings of another one

# subcategory of the report: parts, each with the names of its figures
FIGURES = {
    "Five features in a plane": {"intro": ["intro"]},
    "Polygons": {"polygons": ["polygons", "restarts"]},
    "Twenty features in five dimensions": {"many_features": ["many_features"]},
    "Phase diagram": {
        "phase_diagram": ["phase_diagram"],
        "third_feature": ["third_feature"],
    },
    "First-order transition": {"first_order": ["first_order"]},
    "Geometry": {
        "rarer_feature": ["rarer_feature"],
        "sets": ["sets"],
        "uniform": ["uniform"],
    },
    "Learning": {"learning": ["learning"]},
    "Privileged basis": {"neurons": ["neurons"], "absolute": ["absolute"]},
    "Double descent": {"double_descent": ["double_descent", "widths"]},
    "Adversarial vulnerability": {"adversarial": ["adversarial"]},
}


include: "train.smk"
include: "measure.smk"
include: "figures.smk"


rule figures:
    input:
        rules.draw_intro.output,
        rules.draw_others.output,


rule metrics:
    input:
        expand("<results>/toy/{part}/metrics.json", part=parts(FIGURES)),
