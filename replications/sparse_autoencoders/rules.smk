# Sparse autoencoders: planted dictionaries (train -> measure -> draw), then a language model (harvest -> one sweep of SAEs
# -> measure -> draw -> feature browser).
from common.workflow import captions, figure_files, flags, parts, source_hash

NAME = "replications.sparse_autoencoders"
CAPTIONS = "replications/sparse_autoencoders/captions"
ENDINGS = ["svg", "png", "pdf", "csv", "json"]
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
SEEDS = {"seeds": config["seeds"][: config["most_seeds"]]}
RUN = {**SEEDS, "device": config["device"]}
WORLDS = {"easy": config["easy"], "hard": config["hard"]}


rule train_planted:
    output:
        "<results>/toy/planted/saes.safetensors",
    log:
        "<logs>/train_planted.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=1500,
        runtime=30,
    params:
        options=flags(WORLDS, revival=config["revival"], **RUN),
        sources=source_hash(f"{NAME}.train_planted"),
    shell:
        "python -m replications.sparse_autoencoders.train_planted {params.options} --checkpoint {output}.checkpoint --out {output} > {log} 2>&1"


rule measure_planted:
    input:
        models=rules.train_planted.output,
    output:
        metrics="<results>/toy/planted/metrics.json",
        table="<results>/toy/planted/features.csv",
        traces="<results>/toy/planted/traces.csv",
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
        "python -m replications.sparse_autoencoders.measure_planted --models {input.models} {params.options} --metrics {output.metrics} --table {output.table} --traces {output.traces} > {log} 2>&1"


rule draw_planted:
    input:
        table=rules.measure_planted.output.table,
        traces=rules.measure_planted.output.traces,
        metrics=rules.measure_planted.output.metrics,
        caption=f"{CAPTIONS}/planted.rst",
    output:
        svg=report(
            "<results>/toy/planted/figures/planted.svg",
            caption="captions/planted.rst",
            category="Sparse autoencoders",
            subcategory="Planted dictionaries",
            labels={"figure": "recovery against variance explained"},
        ),
        others=multiext(
            "<results>/toy/planted/figures/planted", ".png", ".pdf", ".csv", ".json"
        ),
    log:
        "<logs>/draw_planted.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw_planted"),
    shell:
        "python -m replications.sparse_autoencoders.draw_planted --table {input.table} --traces {input.traces} --metrics {input.metrics} --caption {input.caption} --out {output.svg} > {log} 2>&1"


include: "language.smk"
include: "browser.smk"
include: "science.smk"
include: "benchmarks.smk"


rule figures:
    input:
        expand("<results>/toy/planted/figures/planted.{ending}", ending=ENDINGS),
        rules.draw_absorption.output,
        expand(
            "<results>/{model}/language/figures/{figure}.{ending}",
            model=config["models"],
            figure=FIGURES,
            ending=ENDINGS,
        ),
        expand(rules.browse.output, model=config["models"]),
        expand(rules.draw_overlap.output, model=config["models"]),
        expand(rules.draw_dictionaries.output, model=config["models"]),
        expand(rules.draw_field.output, model=config["models"]),


rule metrics:
    input:
        rules.measure_planted.output.metrics,
        rules.absorption.output.metrics,
        expand(
            "<results>/{model}/{part}/metrics.json",
            model=config["models"],
            part=["language", "overlap", "dictionaries", *parts(FIELD)],
        ),
