# What dictionaries find and what they miss: absorption on planted trees, overlap of seeds,
# soft-frozen dictionaries. Included by rules.smk.


rule absorption:
    output:
        metrics="<results>/toy/absorption/metrics.json",
        table="<results>/toy/absorption/parents.csv",
    log:
        "<logs>/absorption.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=1500,
        runtime=20,
    params:
        options=flags(
            {"training": config["revival"]["training"]},
            seeds=config["seeds"],  # cheap, and three seeds lie far apart
            device=config["device"],
        ),
        sources=source_hash(f"{NAME}.absorption"),
    shell:
        "python -m replications.sparse_autoencoders.absorption {params.options} --checkpoint {output.metrics}.checkpoint --metrics {output.metrics} --table {output.table} > {log} 2>&1"


rule overlap:
    input:
        index=rules.train_language.output.index,
        more=rules.train_more.output.index,
    output:
        metrics="<results>/{model}/overlap/metrics.json",
        table="<results>/{model}/overlap/latents.csv",
        pairs="<results>/{model}/overlap/pairs.csv",
    log:
        "<logs>/{model}/overlap.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=20,
    params:
        options=flags({"sweep": config["sweep"]}, **SEEDS),
        sources=source_hash(f"{NAME}.overlap"),
    shell:
        "python -m replications.sparse_autoencoders.overlap --index {input.index} --more {input.more} {params.options} --metrics {output.metrics} --table {output.table} --pairs {output.pairs} > {log} 2>&1"


rule dictionaries:
    input:
        saes=rules.measure_language.output.table,
        probes="<results>/{model}/benchmarks/probes.csv",
        planted="<results>/toy/planted/kinds.csv",
    output:
        metrics="<results>/{model}/dictionaries/metrics.json",
        table="<results>/{model}/dictionaries/dictionaries.csv",
    log:
        "<logs>/{model}/dictionaries.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        options=flags({"sweep": config["sweep"]}, **SEEDS),
        sources=source_hash(f"{NAME}.dictionaries"),
    shell:
        "python -m replications.sparse_autoencoders.dictionaries --saes {input.saes} --probes {input.probes} --planted {input.planted} {params.options} --metrics {output.metrics} --table {output.table} > {log} 2>&1"
