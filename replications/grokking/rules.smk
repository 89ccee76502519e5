# Grokking: train (all conditions and seeds in two batched jobs) -> measure -> draw. Transformers: transformer.smk.
from common.engine.rules import captions, figure_files, flags, source_hash

NAME = "replications.grokking"
CAPTIONS = "replications/grokking/captions"
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
FIGURES = {
    "Delay": {"delay": {"delay": "Memorised first, generalised later"}},
    "Features": {"features": {"features": "Frequencies and phases of the neurons"}},
}


rule train:
    output:
        "<results>/toy/delay/models.safetensors",
    log:
        "<logs>/train.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=30,
    params:
        options=flags(
            config["training"], seeds=config["seeds"], device=config["device"]
        ),
        sources=source_hash(f"{NAME}.train"),
    shell:
        "python -m replications.grokking.train {params.options} --out {output} > {log} 2>&1"


rule measure:
    input:
        models=rules.train.output,
    output:
        delay="<results>/toy/delay/metrics.json",
        features="<results>/toy/features/metrics.json",
        curves="<results>/toy/delay/curves.csv",
        neurons="<results>/toy/features/neurons.csv",
    log:
        "<logs>/measure.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        options=flags(
            config["judging"], side_fraction=config["training"]["side_fraction"]
        ),
        sources=source_hash(f"{NAME}.measure"),
    shell:
        "python -m replications.grokking.measure --models {input.models} {params.options} --delay {output.delay} --features {output.features} --curves {output.curves} --neurons {output.neurons} > {log} 2>&1"


rule draw:
    input:
        rules.measure.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files("<results>/toy", FIGURES, "Grokking"),
    log:
        "<logs>/draw.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        sources=source_hash(f"{NAME}.draw"),
    shell:
        "python -m replications.grokking.draw --captions {input.captions} --out {output.svg} > {log} 2>&1"


MORE_FIGURES, MORE_METRICS = [], []

if config["transformer"]:

    include: "transformer.smk"

    MORE_FIGURES = rules.draw_transformer.output
    MORE_METRICS = [rules.measure_transformer.output.metrics]


rule figures:
    input:
        rules.draw.output,
        MORE_FIGURES,


rule metrics:
    input:
        rules.measure.output.delay,
        rules.measure.output.features,
        MORE_METRICS,
