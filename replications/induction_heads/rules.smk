# Induction heads: train every arm (all seeds in one batched job, measured all along) -> measure -> draw, here; models
# trained on natural text in text.smk; the same questions of every language model in models.smk.
from common.engine.rules import captions, figure_files, flags, parts, source_hash

NAME = "replications.induction_heads"
CAPTIONS = "replications/induction_heads/captions"
ARMS = list(config["arms"])
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
HELD_OUT = {"held_out": config["training"]["held_out"]}
RUN = {"seeds": config["seeds"], "device": config["device"]}
FIGURES = {
    "Phase change": {
        "phase_change": [
            "co_occurrence",
            "loss_curves",
            "index_slopes",
            "head_scores",
            "paths",
        ],
        "sweep": ["sweep"],
    },
    "Mechanism": {"heads": ["mechanism", "circuits"]},
    "Ablations": {"ablations": ["ablations"]},
    "Markov chains": {"chains": ["chains"]},
    "Framework": {"framework": ["path_orders", "skip_trigrams"]},
    "Natural text": {"text_training": ["text_training"]},
}
MODEL_FIGURES = {
    "Language model": {
        "scores": ["score_maps", "fuzzy"],
        "repeats": ["repeats"],
        "real_text": ["windows", "rises"],
    },
}


wildcard_constraints:
    arm="|".join(ARMS),


rule train:
    output:
        "<results>/toy/arms/{arm}.safetensors",
    log:
        "<logs>/train_{arm}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=2500,
        runtime=60,
    params:
        options=lambda wildcards: flags(
            config["training"],
            arm=config["arms"][wildcards.arm],
            **RUN,
        ),
        sources=source_hash(f"{NAME}.train"),
    shell:
        "python -m replications.induction_heads.train --name {wildcards.arm} {params.options} --out {output} > {log} 2>&1"


rule measure_phase_change:
    input:
        expand("<results>/toy/arms/{arm}.safetensors", arm=ARMS),
    output:
        metrics="<results>/toy/phase_change/metrics.json",
        curves="<results>/toy/phase_change/curves.csv",
        indices="<results>/toy/phase_change/indices.csv",
        heads="<results>/toy/phase_change/heads.csv",
        paths="<results>/toy/phase_change/paths.csv",
    log:
        "<logs>/measure_phase_change.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        options=flags(
            config["phase_change"],
            warmup=config["training"]["optimisation"]["warmup"],
        ),
        sources=source_hash(f"{NAME}.measure_phase_change"),
    shell:
        "python -m replications.induction_heads.measure_phase_change --arms {input} {params.options} --metrics {output.metrics} --curves {output.curves} --indices {output.indices} --heads {output.heads} --paths {output.paths} > {log} 2>&1"


rule measure_heads:
    input:
        arms=expand("<results>/toy/arms/{arm}.safetensors", arm=config["heads"]["arms"]),
        example="<results>/toy/arms/two_layers.safetensors",
    output:
        metrics="<results>/toy/heads/metrics.json",
        heads="<results>/toy/heads/heads.csv",
        attention="<results>/toy/heads/attention.csv",
    log:
        "<logs>/measure_heads.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=10,
    params:
        options=flags(HELD_OUT),
        sources=source_hash(f"{NAME}.measure_heads"),
    shell:
        "python -m replications.induction_heads.measure_heads --arms {input.arms} --example {input.example} {params.options} --metrics {output.metrics} --heads {output.heads} --attention {output.attention} > {log} 2>&1"


rule measure_ablations:
    input:
        expand("<results>/toy/arms/{arm}.safetensors", arm=config["ablations"]["arms"]),
    output:
        metrics="<results>/toy/ablations/metrics.json",
        table="<results>/toy/ablations/ablations.csv",
    log:
        "<logs>/measure_ablations.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=20,
    params:
        options=flags(HELD_OUT),
        sources=source_hash(f"{NAME}.measure_ablations"),
    shell:
        "python -m replications.induction_heads.measure_ablations --arms {input} {params.options} --metrics {output.metrics} --table {output.table} > {log} 2>&1"


rule train_sweep:
    output:
        metrics="<results>/toy/sweep/metrics.json",
        curves="<results>/toy/sweep/curves.csv",
        times="<results>/toy/sweep/times.csv",
    log:
        "<logs>/train_sweep.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=2000,
        runtime=60,
    params:
        options=flags(config["sweep"], **RUN),
        sources=source_hash(f"{NAME}.train_sweep"),
    shell:
        "python -m replications.induction_heads.train_sweep {params.options} --metrics {output.metrics} --curves {output.curves} --times {output.times} > {log} 2>&1"


rule train_chains:
    output:
        metrics="<results>/toy/chains/metrics.json",
        curves="<results>/toy/chains/curves.csv",
    log:
        "<logs>/train_chains.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=1500,
        runtime=60,
    params:
        options=flags(config["chains"], **RUN),
        sources=source_hash(f"{NAME}.train_chains"),
    shell:
        "python -m replications.induction_heads.train_chains {params.options} --metrics {output.metrics} --curves {output.curves} > {log} 2>&1"


include: "text.smk"
include: "models.smk"


rule draw:
    input:
        rules.measure_phase_change.output,
        rules.measure_heads.output,
        rules.measure_ablations.output,
        rules.train_sweep.output,
        rules.train_chains.output,
        rules.measure_text.output,
        rules.measure_framework.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files("<results>/toy", FIGURES, "Induction heads"),
    log:
        "<logs>/draw.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw"),
    shell:
        "python -m replications.induction_heads.draw --captions {input.captions} --out {output.svg} > {log} 2>&1"


rule figures:
    input:
        rules.draw.output,
        expand(rules.draw_model.output, model=config["models"]),


rule metrics:
    input:
        expand("<results>/toy/{part}/metrics.json", part=parts(FIGURES)),
        expand(
            "<results>/{model}/{part}/metrics.json",
            model=config["models"],
            part=parts(MODEL_FIGURES),
        ),
