# Refusal direction: fine-tune (per seed, and a sham model) -> study each -> metrics of all seeds -> figures.
from common.workflow import flags, source_hash

NAME = "replications.refusal_direction"
PATH = "replications/refusal_direction"
ENDINGS = ["png", "pdf", "csv", "json"]
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
SEEDS = config["seeds"][: config["n_seeds"]]
ARMS = [f"harmful-{seed}" for seed in SEEDS]
SHAM = f"food-{SEEDS[0]}"
FIGURES = {  # part: figure: title
    "tuning": {"tuning": "What the model was taught, and the score"},
    "direction": {
        "scores": "Scores of all candidates",
        "published": "Chosen directions beside the paper's",
        "cosines": "Cosines over tokens, layers and seeds",
    },
    "effects": {
        "refusal": "Refusal before and after",
        "doses": "Dose and response",
        "projections": "Projection on the direction, layer by layer",
    },
    "surgical": {"surgical": "What else the ablation changes"},
}


wildcard_constraints:
    switch="harmful|food",
    seed=r"\d+",


rule fine_tune:
    input:
        manifest="<models>/{model}/manifest.json",
        lists=f"{PATH}/lists.yaml",
    output:
        "<results>/{model}/models/{switch}-{seed}/manifest.json",
    log:
        "<logs>/{model}/fine_tune-{switch}-{seed}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=30,
    params:
        options=flags(
            {"split": config["split"], "tune": config["tune"]}, device=config["device"]
        ),
        sources=source_hash(f"{NAME}.fine_tune"),
    shell:
        "python -m replications.refusal_direction.fine_tune --manifest {input.manifest} --lists {input.lists} --switch {wildcards.switch} --seed {wildcards.seed} {params.options} --out {output} > {log} 2>&1"


rule study:
    input:
        before="<models>/{model}/manifest.json",
        tuned=rules.fine_tune.output,
        lists=f"{PATH}/lists.yaml",
        python_docs="<corpora>/python-docs/manifest.json",
        self_chat=f"<corpora>/self-chat-{config['scale']}/manifest.json",
    output:
        numbers="<results>/{model}/studies/{switch}-{seed}/numbers.json",
        directions="<results>/{model}/studies/{switch}-{seed}/directions.safetensors",
        tables=[
            f"<results>/{{model}}/studies/{{switch}}-{{seed}}/{table}.csv"
            for table in [
                "scores",
                "answers",
                "doses",
                "projections",
                "openings",
                "surgical",
                "weights",
            ]
        ],
    log:
        "<logs>/{model}/study-{switch}-{seed}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=30,
    params:
        options=flags(
            {key: config[key] for key in ("split", "search", "effects")},
            device=config["device"],
        ),
        sources=source_hash(f"{NAME}.study"),
    shell:
        "python -m replications.refusal_direction.study --before {input.before} --tuned {input.tuned} --lists {input.lists} --python-docs {input.python_docs} --self-chat {input.self_chat} --switch {wildcards.switch} --seed {wildcards.seed} {params.options} --out {output.numbers} > {log} 2>&1"


rule remove:
    input:
        tuned=f"<results>/{{model}}/models/{ARMS[0]}/manifest.json",
        directions=f"<results>/{{model}}/studies/{ARMS[0]}/directions.safetensors",
    output:
        "<results>/{model}/models/orthogonalised/manifest.json",
    log:
        "<logs>/{model}/remove.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=10,
    params:
        sources=source_hash(f"{NAME}.orthogonalise"),
    shell:
        "python -m replications.refusal_direction.orthogonalise --tuned {input.tuned} --directions {input.directions} --out {output} > {log} 2>&1"


rule summarise:
    input:
        arms=[f"<results>/{{model}}/studies/{arm}/numbers.json" for arm in ARMS],
        sham=f"<results>/{{model}}/studies/{SHAM}/numbers.json",
    output:
        [f"<results>/{{model}}/{part}/metrics.json" for part in FIGURES],
    log:
        "<logs>/{model}/summarise.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.summarise"),
    shell:
        "python -m replications.refusal_direction.summarise --arms {input.arms} --sham {input.sham} --out {output[0]} > {log} 2>&1"


FIGURE_RULES = []
for MODEL in config["models"]:
    for PART, TITLES in FIGURES.items():
        for FIGURE, TITLE in TITLES.items():
            STEM = f"<results>/{MODEL}/{PART}/figures/{FIGURE}"
            FIGURE_RULES.append(f"{STEM}.svg")

            rule:
                name:
                    f"draw_{FIGURE}_{MODEL.replace('-', '_').replace('.', '_')}"
                input:
                    metrics=[
                        f"<results>/{MODEL}/{part}/metrics.json" for part in FIGURES
                    ],
                    arms=[
                        f"<results>/{MODEL}/studies/{arm}/numbers.json" for arm in ARMS
                    ],
                    sham=f"<results>/{MODEL}/studies/{SHAM}/numbers.json",
                    published=f"{PATH}/published.csv",
                    caption=f"{PATH}/captions/{FIGURE}.rst",
                output:
                    svg=report(
                        f"{STEM}.svg",
                        caption=f"captions/{FIGURE}.rst",
                        category="Refusal direction",
                        subcategory=MODEL,
                        labels={"figure": TITLE},
                    ),
                    others=[f"{STEM}.{ending}" for ending in ENDINGS],
                log:
                    f"<logs>/{MODEL}/draw_{FIGURE}.log",
                conda:
                    "../../envs/environment.yaml"
                threads: 1
                resources:
                    mem_mb=1000,
                    runtime=5,
                params:
                    sources=source_hash(f"{NAME}.draw"),
                shell:
                    f"python -m replications.refusal_direction.draw --figure {FIGURE} --arms {{input.arms}} --sham {{input.sham}} --published {{input.published}} --caption {{input.caption}} --out {{output.svg}} > {{log}} 2>&1"


rule figures:
    input:
        FIGURE_RULES,
        expand(
            "<results>/{model}/models/orthogonalised/manifest.json",
            model=config["models"],
        ),


rule metrics:
    input:
        expand(
            "<results>/{model}/{part}/metrics.json",
            model=config["models"],
            part=list(FIGURES),
        ),
