# Benchmarks of the field, natural absorption, universality between layers, causal
# completeness. Included by rules.smk.
from replications.sparse_autoencoders.sizes import SIZES

CENTRAL = flags(
    {"sizes": SIZES[config["scale"]].model_dump(), "sweep": config["sweep"]}, **SEEDS
)


rule benchmarks:
    input:
        manifest="<models>/{model}/manifest.json",
        docs="<corpora>/python-docs/manifest.json",
        chat=f"<corpora>/self-chat-{config['scale']}/manifest.json",
        early=rules.collect.output.early,
        index=rules.train_language.output.index,
        more=rules.train_more.output.index,
    output:
        metrics="<results>/{model}/benchmarks/metrics.json",
        probes="<results>/{model}/benchmarks/probes.csv",
        others="<results>/{model}/benchmarks/others.csv",
    log:
        "<logs>/{model}/benchmarks.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=3500,
        runtime=30,
    params:
        options=CENTRAL,
        device=config["device"],
        sources=source_hash(f"{NAME}.benchmarks"),
    shell:
        "python -m replications.sparse_autoencoders.benchmarks --manifest {input.manifest} --docs {input.docs} --chat {input.chat} --early {input.early} --index {input.index} --more {input.more} {params.options} --device {params.device} --metrics {output.metrics} --scores {output.probes} --table {output.others} > {log} 2>&1"


rule natural:
    input:
        manifest="<models>/{model}/manifest.json",
        early=rules.collect.output.early,
        held_out=rules.collect.output.held_out,
        index=rules.train_language.output.index,
        more=rules.train_more.output.index,
    output:
        absorption="<results>/{model}/natural_absorption/metrics.json",
        classes="<results>/{model}/natural_absorption/classes.csv",
        layers="<results>/{model}/layers/metrics.json",
        latents="<results>/{model}/layers/latents.csv",
    log:
        "<logs>/{model}/natural.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        options=CENTRAL,
        sources=source_hash(f"{NAME}.natural"),
    shell:
        "python -m replications.sparse_autoencoders.natural --manifest {input.manifest} --early {input.early} --held-out {input.held_out} --index {input.index} --more {input.more} {params.options} --absorption {output.absorption} --absorption-table {output.classes} --layers {output.layers} --layers-table {output.latents} > {log} 2>&1"


rule completeness:
    input:
        manifest="<models>/{model}/manifest.json",
        early=rules.collect.output.early,
        index=rules.train_language.output.index,
        ioi="<all_results>/ioi_circuit/{model}/data/prompts.json",
    output:
        metrics="<results>/{model}/completeness/metrics.json",
        table="<results>/{model}/completeness/sets.csv",
    log:
        "<logs>/{model}/completeness.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=30,
    params:
        options=CENTRAL,
        device=config["device"],
        sources=source_hash(f"{NAME}.completeness"),
    shell:
        "python -m replications.sparse_autoencoders.completeness --manifest {input.manifest} --early {input.early} --index {input.index} --ioi {input.ioi} {params.options} --device {params.device} --metrics {output.metrics} --table {output.table} > {log} 2>&1"
