# Refusal direction: fine-tune (per seed, and sham models) -> study each -> metrics of all seeds -> figures. What stands alone,
# and is made where the settings name it: guardrail, cones, transfer of dictionaries (parts.smk), and models that refuse by
# their own training (released.smk).
from common.engine.rules import Steps, captions, figure_files, parts
from replications.refusal_direction.paper_requests import released

STEP = Steps("replications.refusal_direction", config)
PATH = "replications/refusal_direction"
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
SEEDS = config["seeds"][: config["n_seeds"]]
STUDIES = [f"<results>/{{model}}/studies/harmful-{seed}" for seed in SEEDS]
SHAMS = [
    f"<results>/{{model}}/studies/food-{seed}"
    for seed in config["seeds"][: config["n_shams"]]
]
TUNED = [f"<results>/{{model}}/models/harmful-{seed}/manifest.json" for seed in SEEDS]
TAUGHT = [name for name in config["models"] if name not in released().models]
FIGURES = {
    "Fine-tuning": {"tuning": ["tuning"]},
    "Direction": {"direction": ["scores", "published", "cosines"]},
    "Effects": {"effects": ["refusal"]},
}
SHAM_TABLES, TABLES = ["scores", "answers"], ["scores", "answers", "score"]
if config["curves"]:
    FIGURES["Effects"]["effects"] += ["doses", "projections"]
    TABLES += ["doses", "projections"]
if config["side_effects"]:
    FIGURES["Effects"]["surgical"] = ["surgical"]
    TABLES += ["surgical", "weights"]
STUDIED = ("split", "search", "effects", "curves", "side_effects")


include: "../../common/engine/step.smk"


wildcard_constraints:
    switch="harmful|food",
    seed=r"\d+",


use rule step as fine_tune with:
    input:
        before="<models>/{model}/manifest.json",
        lists=f"{PATH}/lists.yaml",
    output:
        tuned="<results>/{model}/models/{switch}-{seed}/manifest.json",
    log:
        "<logs>/{model}/fine_tune-{switch}-{seed}.log",
    priority: 1
    resources:
        **ON_GPU,
        mem_mb=3500,
        runtime=30,
    params:
        **STEP(
            "fine_tune",
            lambda wildcards: {
                "switch": wildcards.switch,
                "seed": int(wildcards.seed),
                "split": config["split"],
                "tune": config["tune"],
            },
        ),


use rule step as study with:
    input:
        before="<models>/{model}/manifest.json",
        tuned="<results>/{model}/models/{switch}-{seed}/manifest.json",
        lists=f"{PATH}/lists.yaml",
        python_docs="<corpora>/python-docs/manifest.json",
        self_chat="<corpora>/self-chat/manifest.json",
    output:
        numbers="<results>/{model}/studies/{switch}-{seed}/numbers.json",
        directions="<results>/{model}/studies/{switch}-{seed}/directions.safetensors",
        tables=[
            f"<results>/{{model}}/studies/{{switch}}-{{seed}}/{table}.csv"
            for table in TABLES
        ],
    log:
        "<logs>/{model}/study-{switch}-{seed}.log",
    wildcard_constraints:
        switch="harmful",
    priority: 1
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=30,
    params:
        **STEP(
            "study",
            lambda wildcards: {
                "switch": wildcards.switch,
                "seed": int(wildcards.seed),
                **{key: config[key] for key in STUDIED},
            },
        ),


use rule study as study_sham with:
    output:
        numbers="<results>/{model}/studies/{switch}-{seed}/numbers.json",
        directions="<results>/{model}/studies/{switch}-{seed}/directions.safetensors",
        tables=[
            f"<results>/{{model}}/studies/{{switch}}-{{seed}}/{table}.csv"
            for table in SHAM_TABLES
        ],
    wildcard_constraints:
        switch="food",


use rule step as orthogonalise with:
    input:
        tuned=TUNED[0],
        directions=f"{STUDIES[0]}/directions.safetensors",
    output:
        orthogonalised="<results>/{model}/models/orthogonalised/manifest.json",
    log:
        "<logs>/{model}/orthogonalise.log",
    resources:
        mem_mb=2500,
    params:
        **STEP("orthogonalise", run=False),


use rule step as summarise with:
    input:
        studies=[f"{folder}/numbers.json" for folder in STUDIES],
        shams=[f"{folder}/numbers.json" for folder in SHAMS],
    output:
        metrics=[f"<results>/{{model}}/{part}/metrics.json" for part in parts(FIGURES)],
    log:
        "<logs>/{model}/summarise.log",
    params:
        **STEP("summarise", run=False),


use rule step as draw with:
    input:
        studies=rules.summarise.input.studies,
        shams=rules.summarise.input.shams,
        published=f"{PATH}/published.csv",
        captions=captions(f"{PATH}/captions", FIGURES),
    output:
        **figure_files(
            "<results>/{model}", FIGURES, "Refusal direction", model="{model}"
        ),
    log:
        "<logs>/{model}/draw.log",
    params:
        **STEP("figures", run=False),


PART_FIGURES, PART_METRICS = {}, []


include: "parts.smk"
include: "released.smk"


rule figures:
    input:
        expand(rules.draw.output, model=TAUGHT),
        expand(rules.draw_parts.output if PART_FIGURES else [], model=TAUGHT),
        expand(
            rules.orthogonalise.output if config["side_effects"] else [], model=TAUGHT
        ),
        expand(rules.draw_released.output, model=RELEASED),


rule metrics:
    input:
        expand(rules.summarise.output, model=TAUGHT),
        expand(PART_METRICS, model=TAUGHT),
        expand(rules.summarise_released.output, model=RELEASED),
