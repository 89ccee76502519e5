# Refusal direction: fine-tune (per seed, and a sham model) -> study each -> metrics of all seeds -> figures. The dictionary
# of part transfer, and its held-out tokens, come from `sparse_autoencoders`, whose steps run first. Cones: cone.smk.
# Models that refuse by their own training: released.smk.
from common.engine.rules import captions, figure_files, flags, parts, source_hash
from replications.refusal_direction.paper_requests import released
from replications.refusal_direction.sizes import CONES, SIZES
from replications.refusal_direction.sizes import RELEASED as RELEASED_SIZES

NAME = "replications.refusal_direction"
PATH = "replications/refusal_direction"
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
SEEDS = config["seeds"][: config["n_seeds"]]
ARMS = [f"harmful-{seed}" for seed in SEEDS]
SHAM = f"food-{SEEDS[0]}"
RELEASED = [name for name in config["models"] if name in released().models]
TAUGHT = [name for name in config["models"] if name not in RELEASED]
FIGURES = {
    "Fine-tuning": {"tuning": ["tuning"]},
    "Direction": {"direction": ["scores", "published", "cosines"]},
    "Effects": {
        "effects": ["refusal", "doses", "projections"],
        "surgical": ["surgical"],
    },
    "Guardrail": {"guardrail": ["guardrail"]},
}
TRANSFER = {"Dictionary transfer": {"transfer": ["transfer"]}}
SAES = "<all_results>/sparse_autoencoders/{model}"
SHAM_TABLES = ["scores", "answers"]
TABLES = [*SHAM_TABLES, "doses", "projections", "openings", "surgical", "weights"]


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
    priority: 1
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=3500,
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
            for table in TABLES
        ],
    log:
        "<logs>/{model}/study-{switch}-{seed}.log",
    wildcard_constraints:
        switch="harmful",
    priority: 1
    conda:
        "../../envs/environment.yaml"
    threads: 1
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


rule guardrail:
    input:
        before="<models>/{model}/manifest.json",
        tuned="<results>/{model}/models/harmful-{seed}/manifest.json",
        directions="<results>/{model}/studies/harmful-{seed}/directions.safetensors",
        lists=f"{PATH}/lists.yaml",
    output:
        numbers="<results>/{model}/guards/{seed}/guard.json",
        conditions="<results>/{model}/guards/{seed}/conditions.csv",
    log:
        "<logs>/{model}/guardrail-{seed}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=2500,
        runtime=20,
    params:
        options=flags(
            {key: config[key] for key in ("split", "guard")}, device=config["device"]
        ),
        sources=source_hash(f"{NAME}.guardrail"),
    shell:
        "python -m replications.refusal_direction.guardrail --before {input.before} --tuned {input.tuned} --directions {input.directions} --lists {input.lists} --seed {wildcards.seed} {params.options} --out {output.numbers} > {log} 2>&1"


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
        guards=[f"<results>/{{model}}/guards/{seed}/guard.json" for seed in SEEDS],
    output:
        [f"<results>/{{model}}/{part}/metrics.json" for part in parts(FIGURES)],
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
        "python -m replications.refusal_direction.summarise --arms {input.arms} --sham {input.sham} --guards {input.guards} --out {output} > {log} 2>&1"


rule draw:
    input:
        metrics=rules.summarise.output,
        arms=rules.summarise.input.arms,
        sham=rules.summarise.input.sham,
        guards=rules.summarise.input.guards,
        published=f"{PATH}/published.csv",
        captions=captions(f"{PATH}/captions", FIGURES),
    output:
        **figure_files(
            "<results>/{model}", FIGURES, "Refusal direction", model="{model}"
        ),
    log:
        "<logs>/{model}/draw.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw"),
    shell:
        "python -m replications.refusal_direction.draw --arms {input.arms} --sham {input.sham} --guards {input.guards} --published {input.published} --captions {input.captions} --out {output.svg} > {log} 2>&1"


rule transfer:
    input:
        before="<models>/{model}/manifest.json",
        tuned=[f"<results>/{{model}}/models/{arm}/manifest.json" for arm in ARMS],
        sham=f"<results>/{{model}}/models/{SHAM}/manifest.json",
        index=f"{SAES}/saes/index.json",
        held_out=f"{SAES}/activations/held_out.safetensors",
    output:
        metrics="<results>/{model}/transfer/metrics.json",
        table="<results>/{model}/transfer/models.csv",
    log:
        "<logs>/{model}/transfer.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=4000,
        runtime=30,
    params:
        options=flags(
            {"sizes": SIZES[config["scale"]].model_dump()},
            seeds=SEEDS,
            device=config["device"],
        ),
        sources=source_hash(f"{NAME}.transfer"),
    shell:
        "python -m replications.refusal_direction.transfer --before {input.before} --tuned {input.tuned} --sham {input.sham} --index {input.index} --held-out {input.held_out} {params.options} --metrics {output.metrics} --table {output.table} > {log} 2>&1"


rule draw_transfer:
    input:
        rules.transfer.output,
        captions=captions(f"{PATH}/captions", TRANSFER),
    output:
        **figure_files(
            "<results>/{model}", TRANSFER, "Refusal direction", model="{model}"
        ),
    log:
        "<logs>/{model}/draw_transfer.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw_transfer"),
    shell:
        "python -m replications.refusal_direction.draw_transfer --captions {input.captions} --out {output.svg} > {log} 2>&1"


include: "released.smk"


CONE_FIGURES, CONE_METRICS = [], []
if CONES[config["scale"]]:

    include: "cone.smk"

    CONE_FIGURES, CONE_METRICS = rules.draw_cone.output, rules.cone.output.metrics


rule figures:
    input:
        expand(CONE_FIGURES, model=TAUGHT),
        expand(rules.draw.output, model=TAUGHT),
        expand(rules.draw_transfer.output, model=TAUGHT),
        expand(rules.remove.output, model=TAUGHT),
        expand(rules.draw_released.output, model=RELEASED),


rule metrics:
    input:
        expand(rules.summarise.output, model=TAUGHT),
        expand(rules.transfer.output.metrics, model=TAUGHT),
        expand(CONE_METRICS, model=TAUGHT),
        expand(rules.summarise_released.output, model=RELEASED),
