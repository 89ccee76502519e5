# Sparse autoencoders: planted dictionaries (train -> measure -> draw), then a language model (harvest -> one sweep of SAEs
# -> measure -> draw -> feature browser).
from common.engine.rules import captions, figure_files, flags, parts, source_hash

NAME = "replications.sparse_autoencoders"
CAPTIONS = "replications/sparse_autoencoders/captions"
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
SEEDS = {"seeds": config["seeds"][: config["most_seeds"]]}
RUN = {**SEEDS, "device": config["device"]}
WORLDS = {"easy": config["easy"], "hard": config["hard"]}
FIGURES = {
    "Planted dictionaries": {"planted": ["planted"]},
    "Absorption": {"absorption": ["absorption"]},
}
MODEL_FIGURES = {
    "Language model": {"language": ["frontier", "grid", "training"]},
    "Errors": {"errors": ["errors"]},
    "Seeds": {"overlap": ["overlap"]},
    "Dictionaries side by side": {"dictionaries": ["dictionaries"]},
    "Benchmarks": {"benchmarks": ["probes", "floors"]},
    "Natural absorption": {"natural_absorption": ["natural_absorption"]},
    "Layers": {"layers": ["layers"]},
    "Causal completeness": {"completeness": ["completeness"]},
}


rule train_planted:
    output:
        "<results>/toy/planted/saes.safetensors",
    log:
        "<logs>/train_planted.log",
    priority: 1  # long, and nothing else waits for it: at the end it would run alone
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=1500,
        runtime=30,
    params:
        options=flags(WORLDS, revival=config["revival"], **RUN),
        sources=source_hash(f"{NAME}.train_planted"),
    shell:
        "python -m replications.sparse_autoencoders.train_planted {params.options} --checkpoint {output}.checkpoint --out {output} > {log} 2>&1"


rule train_controls:
    output:
        "<results>/toy/planted/controls.safetensors",
    log:
        "<logs>/train_controls.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=1500,
        runtime=30,
    params:
        options=flags(WORLDS, **RUN),
        sources=source_hash(f"{NAME}.train_controls"),
    shell:
        "python -m replications.sparse_autoencoders.train_controls {params.options} --checkpoint {output}.checkpoint --out {output} > {log} 2>&1"


rule measure_planted:
    input:
        models=rules.train_planted.output,
        controls=rules.train_controls.output,
    output:
        metrics="<results>/toy/planted/metrics.json",
        table="<results>/toy/planted/features.csv",
        traces="<results>/toy/planted/traces.csv",
        kinds="<results>/toy/planted/kinds.csv",
    log:
        "<logs>/measure_planted.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        options=flags(WORLDS, **SEEDS),
        sources=source_hash(f"{NAME}.measure_planted"),
    shell:
        "python -m replications.sparse_autoencoders.measure_planted --models {input.models} --controls {input.controls} {params.options} --metrics {output.metrics} --table {output.table} --traces {output.traces} --kinds {output.kinds} > {log} 2>&1"


include: "language.smk"
include: "browser.smk"
include: "science.smk"
include: "benchmarks.smk"


rule draw:
    input:
        rules.measure_planted.output,
        rules.absorption.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files("<results>/toy", FIGURES, "Sparse autoencoders"),
    log:
        "<logs>/draw.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw"),
    shell:
        "python -m replications.sparse_autoencoders.draw --captions {input.captions} --out {output.svg} > {log} 2>&1"


rule draw_model:
    input:
        rules.train_language.output.traces,
        rules.measure_language.output,
        rules.measure_errors.output,
        rules.overlap.output,
        rules.dictionaries.output,
        rules.benchmarks.output,
        rules.natural.output,
        rules.completeness.output,
        captions=captions(CAPTIONS, MODEL_FIGURES),
    output:
        **figure_files(
            "<results>/{model}", MODEL_FIGURES, "Sparse autoencoders", model="{model}"
        ),
    log:
        "<logs>/{model}/draw.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw"),
    shell:
        "python -m replications.sparse_autoencoders.draw --captions {input.captions} --out {output.svg} > {log} 2>&1"


rule figures:
    input:
        rules.draw.output,
        expand(rules.draw_model.output, model=config["models"]),
        expand(rules.browse.output, model=config["models"]),


rule metrics:
    input:
        expand("<results>/toy/{part}/metrics.json", part=parts(FIGURES)),
        expand(
            "<results>/{model}/{part}/metrics.json",
            model=config["models"],
            part=parts(MODEL_FIGURES),
        ),
