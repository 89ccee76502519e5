# Refusal direction: fine-tune (per seed, and sham models) -> study each -> exchange directions -> metrics of all seeds ->
# figures. Beside it, where the settings name them: recipes (how many directions it takes), and models that refuse by their
# own training (released.smk).
from common.engine.rules import Steps, captions, figure_files, parts
from replications.refusal_direction.paper_requests import released

STEP = Steps("replications.refusal_direction", config)
PATH = "replications/refusal_direction"
SEEDS = config["seeds"][: config["n_seeds"]]
SHAM_SEEDS = config["seeds"][: config["n_shams"]]
STUDIES = [f"<results>/{{model}}/studies/harmful-{seed}" for seed in SEEDS]
SHAMS = [f"<results>/{{model}}/studies/food-{seed}" for seed in SHAM_SEEDS]
PAIRS = [
    (seed, SHAM_SEEDS[place % len(SHAM_SEEDS)]) for place, seed in enumerate(SEEDS)
]
EXCHANGED = [f"<results>/{{model}}/cross/{harm}-{food}.csv" for harm, food in PAIRS]
TUNED = [f"<results>/{{model}}/models/harmful-{seed}/manifest.json" for seed in SEEDS]
TAUGHT = [name for name in config["models"] if name not in released().models]
CORPORA = ["<corpora>/python-docs/manifest.json"]
FIGURES = {
    "Effects": {"effects": ["refusal", "transcripts"]},
    "Direction": {"direction": ["tradeoff", "published"]},
    "Exchange": {"cross": ["cross"]},
}
LOSS_PLAN = {"Loss on text": {"losses": ["losses"]}} if config["losses"] else {}
PARTS = ["tuning", *parts(FIGURES), *parts(LOSS_PLAN)]
TABLES = ["scores", "answers"]
STUDIED = ("split", "search", "effects", "losses")


include: "../../common/engine/step.smk"


wildcard_constraints:
    switch="harmful|food",
    seed=r"\d+",
    harm=r"\d+",
    food=r"\d+",


use rule step as fine_tune with:
    input:
        before="<models>/{model}/manifest.json",
        lists=f"{PATH}/lists.yaml",
    output:
        tuned="<results>/{model}/models/{switch}-{seed}/manifest.json",
    priority: 1
    resources:
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
        corpora=CORPORA if config["losses"] else [],
    output:
        numbers="<results>/{model}/studies/{switch}-{seed}/numbers.json",
        directions="<results>/{model}/studies/{switch}-{seed}/directions.safetensors",
        tables=[
            f"<results>/{{model}}/studies/{{switch}}-{{seed}}/{table}.csv"
            for table in TABLES + (["losses"] if config["losses"] else [])
        ],
    wildcard_constraints:
        switch="harmful",
    priority: 1
    resources:
        mem_mb=4000,
        runtime=40,
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
            for table in TABLES + ["transcripts"]
        ],
    wildcard_constraints:
        switch="food",


use rule step as cross with:
    input:
        tuned=[
            "<results>/{model}/models/harmful-{harm}/manifest.json",
            "<results>/{model}/models/food-{food}/manifest.json",
        ],
        numbers=[
            "<results>/{model}/studies/harmful-{harm}/numbers.json",
            "<results>/{model}/studies/food-{food}/numbers.json",
        ],
        lists=f"{PATH}/lists.yaml",
    output:
        exchanged="<results>/{model}/cross/{harm}-{food}.csv",
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        **STEP(
            "cross",
            lambda wildcards: {
                "seeds": [int(wildcards.harm), int(wildcards.food)],
                "split": config["split"],
                "effects": config["effects"],
            },
        ),


use rule step as orthogonalise with:
    input:
        tuned=TUNED[0],
        directions=f"{STUDIES[0]}/directions.safetensors",
    output:
        orthogonalised="<results>/{model}/models/orthogonalised/manifest.json",
    resources:
        mem_mb=2500,
    params:
        **STEP("orthogonalise", run=False),


use rule step as summarise with:
    input:
        studies=[f"{folder}/numbers.json" for folder in STUDIES],
        shams=[f"{folder}/numbers.json" for folder in SHAMS],
        exchanged=EXCHANGED,
    output:
        metrics=[f"<results>/{{model}}/{part}/metrics.json" for part in PARTS],
    params:
        **STEP("summarise", run=False),


use rule step as draw with:
    input:
        studies=rules.summarise.input.studies,
        shams=rules.summarise.input.shams,
        exchanged=EXCHANGED,
        published=f"{PATH}/published.csv",
        captions=captions(f"{PATH}/captions", FIGURES),
    output:
        **figure_files(
            "<results>/{model}", FIGURES, "Refusal direction", model="{model}"
        ),
    params:
        **STEP("figures", run=False),


LOSS_FIGURES = []

if config["losses"]:

    use rule step as draw_losses with:
        input:
            studies=rules.summarise.input.studies,
            captions=captions(f"{PATH}/captions", LOSS_PLAN),
        output:
            **figure_files(
                "<results>/{model}", LOSS_PLAN, "Refusal direction", model="{model}"
            ),
        params:
            **STEP("loss_figures", run=False),

    LOSS_FIGURES = rules.draw_losses.output


include: "recipes.smk"
include: "suffix.smk"
include: "gradient.smk"
include: "released.smk"


rule figures:
    input:
        expand(rules.draw.output, model=TAUGHT),
        expand(LOSS_FIGURES, model=TAUGHT),
        expand(RECIPE_FIGURES, model=TAUGHT),
        expand(SUFFIX_FIGURES, model=TAUGHT),
        expand(GRADIENT_FIGURES, model=TAUGHT),
        expand(rules.orthogonalise.output if config["losses"] else [], model=TAUGHT),
        expand(rules.draw_released.output, model=RELEASED),


rule metrics:
    input:
        expand(rules.summarise.output, model=TAUGHT),
        expand(RECIPE_METRICS, model=TAUGHT),
        expand(SUFFIX_METRICS, model=TAUGHT),
        expand(GRADIENT_METRICS, model=TAUGHT),
        expand(rules.summarise_released.output, model=RELEASED),
