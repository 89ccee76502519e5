# IOI, second part, included by rules.smk: path patching -> verification by knock-outs -> figures, and the ground truth.
# ON_GPU and the imports come from there.


rule path_patching:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output,
        activations=rules.collect.output,
    output:
        metrics="<results>/{model}/path_patching/metrics.json",
        heads="<results>/{model}/path_patching/heads.csv",
        attention="<results>/{model}/path_patching/attention.csv",
    log:
        "<logs>/{model}/path_patching.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=4000,
        runtime=30,
    params:
        options=flags(config["path_patching"], device=config["device"]),
        sources=source_hash("replications.ioi_circuit.path_patching"),
    shell:
        "python -m replications.ioi_circuit.path_patching --manifest {input.manifest} --prompts {input.prompts} --activations {input.activations} {params.options} --out {output.metrics} --heads {output.heads} --attention-table {output.attention} > {log} 2>&1"


rule verification:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output,
        activations=rules.collect.output,
        heads=rules.path_patching.output.heads,
    output:
        metrics="<results>/{model}/verification/metrics.json",
        circuit="<results>/{model}/verification/circuit.csv",
        curve="<results>/{model}/verification/curve.csv",
        knockouts="<results>/{model}/verification/knockouts.csv",
        grid="<results>/{model}/verification/grid.csv",
    log:
        "<logs>/{model}/verification.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=4000,
        runtime=30,
    params:
        options=flags(config["verification"], device=config["device"]),
        sources=source_hash("replications.ioi_circuit.verification"),
    shell:
        "python -m replications.ioi_circuit.verification --manifest {input.manifest} --prompts {input.prompts} --activations {input.activations} --heads {input.heads} {params.options} --out {output.metrics} --circuit {output.circuit} --curve {output.curve} --knockouts {output.knockouts} --grid {output.grid} > {log} 2>&1"


rule ground_truth:
    output:
        metrics="<results>/toy/ground_truth/metrics.json",
        scores="<results>/toy/ground_truth/scores.csv",
    log:
        "<logs>/toy/ground_truth.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        options=flags(config["ground_truth"], seeds=config["seeds"]),
        sources=source_hash("replications.ioi_circuit.ground_truth"),
    shell:
        "python -m replications.ioi_circuit.ground_truth {params.options} --out {output.metrics} --scores {output.scores} > {log} 2>&1"


for PICTURE in ["sweeps", "attention"]:

    rule:
        name:
            f"figure_{PICTURE}"
        input:
            heads=rules.path_patching.output.heads,
            attention=rules.path_patching.output.attention,
            caption=f"replications/ioi_circuit/captions/{PICTURE}.rst",
        output:
            svg=report(
                f"<results>/{{model}}/path_patching/figures/{PICTURE}.svg",
                caption=f"captions/{PICTURE}.rst",
                category="IOI circuit",
                subcategory="Path patching",
                labels={"figure": PICTURE, "model": "{model}"},
            ),
            others=multiext(
                f"<results>/{{model}}/path_patching/figures/{PICTURE}",
                ".png",
                ".pdf",
                ".csv",
                ".json",
            ),
        log:
            f"<logs>/{{model}}/figure_{PICTURE}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            figure=PICTURE,
            sources=source_hash("replications.ioi_circuit.path_patching_figures"),
        shell:
            "python -m replications.ioi_circuit.path_patching_figures --heads {input.heads} --attention {input.attention} --figure {params.figure} --out {output.svg} > {log} 2>&1"


for PICTURE in ["curve", "completeness", "minimality", "grid", "diagram"]:

    rule:
        name:
            f"figure_{PICTURE}"
        input:
            metrics=rules.verification.output.metrics,
            circuit=rules.verification.output.circuit,
            curve=rules.verification.output.curve,
            knockouts=rules.verification.output.knockouts,
            grid=rules.verification.output.grid,
            caption=f"replications/ioi_circuit/captions/{PICTURE}.rst",
        output:
            svg=report(
                f"<results>/{{model}}/verification/figures/{PICTURE}.svg",
                caption=f"captions/{PICTURE}.rst",
                category="IOI circuit",
                subcategory="Verification",
                labels={"figure": PICTURE, "model": "{model}"},
            ),
            others=multiext(
                f"<results>/{{model}}/verification/figures/{PICTURE}",
                ".png",
                ".pdf",
                ".csv",
                ".json",
            ),
        log:
            f"<logs>/{{model}}/figure_{PICTURE}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            figure=PICTURE,
            sources=source_hash("replications.ioi_circuit.verification_figures"),
        shell:
            "python -m replications.ioi_circuit.verification_figures --metrics {input.metrics} --circuit {input.circuit} --curve {input.curve} --knockouts {input.knockouts} --grid {input.grid} --figure {params.figure} --out {output.svg} > {log} 2>&1"


rule figure_ground_truth:
    input:
        scores=rules.ground_truth.output.scores,
        caption="replications/ioi_circuit/captions/planted.rst",
    output:
        svg=report(
            "<results>/toy/ground_truth/figures/planted.svg",
            caption="captions/planted.rst",
            category="IOI circuit",
            subcategory="Ground truth",
            labels={"figure": "planted circuit", "model": "toy"},
        ),
        others=multiext(
            "<results>/toy/ground_truth/figures/planted",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/toy/figure_planted.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash("replications.ioi_circuit.ground_truth_figures"),
    shell:
        "python -m replications.ioi_circuit.ground_truth_figures --scores {input.scores} --out {output.svg} > {log} 2>&1"
