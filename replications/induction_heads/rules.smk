# Induction heads: train every arm (all seeds in one batched job, measured all along) -> measure -> draw; then the same
# questions of every language model of the run.
from common.workflow import flags, source_hash

NAME = "replications.induction_heads"
CAPTIONS = "replications/induction_heads/captions"
ENDINGS = ["svg", "png", "pdf", "csv", "json"]
ARMS = list(config["arms"])
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
HELD_OUT = {"held_out": config["training"]["held_out"]}


wildcard_constraints:
    arm="|".join(ARMS),


rule train:
    output:
        "<results>/toy/arms/{arm}.safetensors",
    log:
        "<logs>/train_{arm}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=2500,
        runtime=60,
    params:
        options=lambda wildcards: flags(
            config["training"],
            arm=config["arms"][wildcards.arm],
            seeds=config["seeds"],
            device=config["device"],
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
        "python -m replications.induction_heads.measure_phase_change --arms {input} {params.options} --metrics {output.metrics} --curves {output.curves} --indices {output.indices} > {log} 2>&1"


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
    threads: 2
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
    threads: 2
    resources:
        mem_mb=2500,
        runtime=20,
    params:
        options=flags(HELD_OUT),
        sources=source_hash(f"{NAME}.measure_ablations"),
    shell:
        "python -m replications.induction_heads.measure_ablations --arms {input} {params.options} --metrics {output.metrics} --table {output.table} > {log} 2>&1"


for PICTURE in ["co_occurrence", "loss_curves", "index_slopes"]:

    rule:
        name:
            f"draw_{PICTURE}"
        input:
            curves=rules.measure_phase_change.output.curves,
            indices=rules.measure_phase_change.output.indices,
            caption=f"{CAPTIONS}/{PICTURE}.rst",
        output:
            svg=report(
                f"<results>/toy/phase_change/figures/{PICTURE}.svg",
                caption=f"captions/{PICTURE}.rst",
                category="Induction heads",
                subcategory="Phase change",
                labels={"figure": PICTURE},
            ),
            others=multiext(
                f"<results>/toy/phase_change/figures/{PICTURE}",
                ".png",
                ".pdf",
                ".csv",
                ".json",
            ),
        log:
            f"<logs>/draw_{PICTURE}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            figure=PICTURE,
            sources=source_hash(f"{NAME}.draw_curves"),
        shell:
            "python -m replications.induction_heads.draw_curves --curves {input.curves} --indices {input.indices} --figure {params.figure} --caption {input.caption} --out {output.svg} > {log} 2>&1"


for PICTURE in ["mechanism", "circuits"]:

    rule:
        name:
            f"draw_{PICTURE}"
        input:
            heads=rules.measure_heads.output.heads,
            attention=rules.measure_heads.output.attention,
            caption=f"{CAPTIONS}/{PICTURE}.rst",
        output:
            svg=report(
                f"<results>/toy/heads/figures/{PICTURE}.svg",
                caption=f"captions/{PICTURE}.rst",
                category="Induction heads",
                subcategory="Mechanism",
                labels={"figure": PICTURE},
            ),
            others=multiext(
                f"<results>/toy/heads/figures/{PICTURE}",
                ".png",
                ".pdf",
                ".csv",
                ".json",
            ),
        log:
            f"<logs>/draw_{PICTURE}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            figure=PICTURE,
            sources=source_hash(f"{NAME}.draw_heads"),
        shell:
            "python -m replications.induction_heads.draw_heads --heads {input.heads} --attention {input.attention} --figure {params.figure} --caption {input.caption} --out {output.svg} > {log} 2>&1"


rule draw_ablations:
    input:
        table=rules.measure_ablations.output.table,
        caption=f"{CAPTIONS}/ablations.rst",
    output:
        svg=report(
            "<results>/toy/ablations/figures/ablations.svg",
            caption="captions/ablations.rst",
            category="Induction heads",
            subcategory="Ablations",
            labels={"figure": "gain left without heads"},
        ),
        others=multiext(
            "<results>/toy/ablations/figures/ablations",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/draw_ablations.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw_ablations"),
    shell:
        "python -m replications.induction_heads.draw_ablations --table {input.table} --caption {input.caption} --out {output.svg} > {log} 2>&1"


rule score_model:
    input:
        manifest="<models>/{model}/manifest.json",
    output:
        metrics="<results>/{model}/scores/metrics.json",
        roles="<results>/{model}/scores/roles.json",
        table="<results>/{model}/scores/scores.csv",
    log:
        "<logs>/{model}/score_model.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=20,
    params:
        options=flags(config["repeats"], seeds=config["seeds"], device=config["device"]),
        sources=source_hash(f"{NAME}.score_model"),
    shell:
        "python -m replications.induction_heads.score_model --manifest {input.manifest} {params.options} --metrics {output.metrics} --roles {output.roles} --table {output.table} > {log} 2>&1"


rule ablate_model:
    input:
        manifest="<models>/{model}/manifest.json",
        roles=rules.score_model.output.roles,
    output:
        metrics="<results>/{model}/repeats/metrics.json",
        table="<results>/{model}/repeats/ablations.csv",
    log:
        "<logs>/{model}/ablate_model.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=20,
    params:
        options=flags(config["repeats"], seeds=config["seeds"], device=config["device"]),
        sources=source_hash(f"{NAME}.ablate_model"),
    shell:
        "python -m replications.induction_heads.ablate_model --manifest {input.manifest} --roles {input.roles} {params.options} --metrics {output.metrics} --table {output.table} > {log} 2>&1"


rule draw_scores:
    input:
        table=rules.score_model.output.table,
        caption=f"{CAPTIONS}/score_maps.rst",
    output:
        svg=report(
            "<results>/{model}/scores/figures/score_maps.svg",
            caption="captions/score_maps.rst",
            category="Induction heads",
            subcategory="Language model",
            labels={"figure": "head scores", "model": "{model}"},
        ),
        others=multiext(
            "<results>/{model}/scores/figures/score_maps",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/{model}/draw_scores.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw_model"),
    shell:
        "python -m replications.induction_heads.draw_model --table {input.table} --figure score_maps --caption {input.caption} --out {output.svg} > {log} 2>&1"


rule draw_repeats:
    input:
        table=rules.ablate_model.output.table,
        caption=f"{CAPTIONS}/repeats.rst",
    output:
        svg=report(
            "<results>/{model}/repeats/figures/repeats.svg",
            caption="captions/repeats.rst",
            category="Induction heads",
            subcategory="Language model",
            labels={"figure": "ablations on random repeats", "model": "{model}"},
        ),
        others=multiext(
            "<results>/{model}/repeats/figures/repeats",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/{model}/draw_repeats.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw_model"),
    shell:
        "python -m replications.induction_heads.draw_model --table {input.table} --figure repeats --caption {input.caption} --out {output.svg} > {log} 2>&1"


rule figures:
    input:
        expand(
            "<results>/toy/{figure}.{ending}",
            figure=[
                "phase_change/figures/co_occurrence",
                "phase_change/figures/loss_curves",
                "phase_change/figures/index_slopes",
                "heads/figures/mechanism",
                "heads/figures/circuits",
                "ablations/figures/ablations",
            ],
            ending=ENDINGS,
        ),
        expand(
            "<results>/{model}/{figure}.{ending}",
            model=config["models"],
            figure=[
                "scores/figures/score_maps",
                "repeats/figures/repeats",
            ],
            ending=ENDINGS,
        ),


rule metrics:
    input:
        expand(
            "<results>/toy/{part}/metrics.json",
            part=["phase_change", "heads", "ablations"],
        ),
        expand(
            "<results>/{model}/{part}/metrics.json",
            model=config["models"],
            part=["scores", "repeats"],
        ),
