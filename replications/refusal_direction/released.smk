# Refusal direction: chat models that refuse by their own training, on the paper's requests. With HUB=1; included by
# rules.smk, which has the names used here.
RELEASED_FIGURES = {"Released models": {"released": ["released", "candidates"]}}


rule requests:
    input:
        f"{PATH}/released.yaml",
    output:
        manifest="resources/requests/manifest.json",
        files=[f"resources/requests/{name}" for name in released().requests.files],
    log:
        "resources/logs/requests.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=500,
        runtime=10,
    params:
        sources=source_hash(f"{NAME}.paper_requests"),
    shell:
        "python -m replications.refusal_direction.paper_requests --registry {input} --out {output.manifest} > {log} 2>&1"


rule study_released:
    input:
        manifest="<models>/{model}/manifest.json",
        requests=rules.requests.output.manifest,
        files=rules.requests.output.files,
        lists=f"{PATH}/lists.yaml",
        python_docs="<corpora>/python-docs/manifest.json",
        self_chat=f"<corpora>/self-chat-{config['scale']}/manifest.json",
    output:
        numbers="<results>/{model}/released/{seed}/numbers.json",
        directions="<results>/{model}/released/{seed}/directions.safetensors",
        tables=[
            f"<results>/{{model}}/released/{{seed}}/{table}.csv"
            for table in [*SHAM_TABLES, "openings", "surgical"]
        ],
    log:
        "<logs>/{model}/study_released-{seed}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=12000,
        runtime=240,
    params:
        options=flags(
            {key: config[key] for key in ("search", "effects")},
            sizes=RELEASED_SIZES[config["scale"]].model_dump(),
            device=config["device"],
        ),
        sources=source_hash(f"{NAME}.released"),
    shell:
        "python -m replications.refusal_direction.released --manifest {input.manifest} --requests {input.requests} --lists {input.lists} --python-docs {input.python_docs} --self-chat {input.self_chat} --seed {wildcards.seed} {params.options} --out {output.numbers} > {log} 2>&1"


rule summarise_released:
    input:
        [f"<results>/{{model}}/released/{seed}/numbers.json" for seed in SEEDS],
    output:
        "<results>/{model}/released/metrics.json",
    log:
        "<logs>/{model}/summarise_released.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.summarise_released"),
    shell:
        "python -m replications.refusal_direction.summarise_released --arms {input} --out {output} > {log} 2>&1"


rule draw_released:
    input:
        metrics=rules.summarise_released.output,
        arms=rules.summarise_released.input,
        captions=captions(f"{PATH}/captions", RELEASED_FIGURES),
    output:
        **figure_files(
            "<results>/{model}", RELEASED_FIGURES, "Refusal direction", model="{model}"
        ),
    log:
        "<logs>/{model}/draw_released.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw_released"),
    shell:
        "python -m replications.refusal_direction.draw_released --arms {input.arms} --captions {input.captions} --out {output.svg} > {log} 2>&1"
