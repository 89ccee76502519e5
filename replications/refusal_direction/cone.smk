# Cones of directions: search and measure -> draw. Included at the scales that have sizes for it.
CONE = {"Cone": {"cone": ["cone"]}}


rule cone:
    input:
        tuned=[f"<results>/{{model}}/models/{arm}/manifest.json" for arm in ARMS],
        numbers=[f"<results>/{{model}}/studies/{arm}/numbers.json" for arm in ARMS],
        lists=f"{PATH}/lists.yaml",
    output:
        metrics="<results>/{model}/cone/metrics.json",
        table="<results>/{model}/cone/directions.csv",
    log:
        "<logs>/{model}/cone.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=4000,
        runtime=60,
    params:
        options=flags(
            {
                "split": config["split"],
                "sizes": CONES[config["scale"]].model_dump(),
            },
            seeds=SEEDS,
            device=config["device"],
        ),
        sources=source_hash(f"{NAME}.cone"),
    shell:
        "python -m replications.refusal_direction.cone --tuned {input.tuned} --numbers {input.numbers} --lists {input.lists} {params.options} --metrics {output.metrics} --table {output.table} > {log} 2>&1"


rule draw_cone:
    input:
        rules.cone.output,
        captions=captions(f"{PATH}/captions", CONE),
    output:
        **figure_files("<results>/{model}", CONE, "Refusal direction", model="{model}"),
    log:
        "<logs>/{model}/draw_cone.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw_cone"),
    shell:
        "python -m replications.refusal_direction.draw_cone --captions {input.captions} --out {output.svg} > {log} 2>&1"
