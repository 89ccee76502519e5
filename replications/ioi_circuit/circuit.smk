# IOI, second part, included by rules.smk: path patching -> signals, and verification by knock-outs; MLPs; and the ground truth.
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
        steered="<results>/{model}/path_patching/steered.csv",
    log:
        "<logs>/{model}/path_patching.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=4000,
        runtime=30,
    params:
        options=flags(config["path_patching"], device=config["device"]),
        sources=source_hash("replications.ioi_circuit.path_patching"),
    shell:
        "python -m replications.ioi_circuit.path_patching --manifest {input.manifest} --prompts {input.prompts} --activations {input.activations} {params.options} --out {output.metrics} --heads {output.heads} --attention-table {output.attention} --steered-table {output.steered} > {log} 2>&1"


rule signals:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output,
        heads=rules.path_patching.output.heads,
    output:
        metrics="<results>/{model}/signals/metrics.json",
        table="<results>/{model}/signals/signals.csv",
    log:
        "<logs>/{model}/signals.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=2500,
        runtime=10,
    params:
        options=flags(config["signals"], device=config["device"]),
        sources=source_hash("replications.ioi_circuit.signals"),
    shell:
        "python -m replications.ioi_circuit.signals --manifest {input.manifest} --prompts {input.prompts} --heads {input.heads} {params.options} --out {output.metrics} --table {output.table} > {log} 2>&1"


rule mlp_knockout:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output,
    output:
        metrics="<results>/{model}/mlp_knockout/metrics.json",
        table="<results>/{model}/mlp_knockout/mlps.csv",
    log:
        "<logs>/{model}/mlp_knockout.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=2500,
        runtime=10,
    params:
        options=flags(config["mlp_knockout"], device=config["device"]),
        sources=source_hash("replications.ioi_circuit.mlp_knockout"),
    shell:
        "python -m replications.ioi_circuit.mlp_knockout --manifest {input.manifest} --prompts {input.prompts} {params.options} --out {output.metrics} --table {output.table} > {log} 2>&1"


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
    threads: 1
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
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        options=flags(config["ground_truth"], seeds=config["seeds"]),
        sources=source_hash("replications.ioi_circuit.ground_truth"),
    shell:
        "python -m replications.ioi_circuit.ground_truth {params.options} --out {output.metrics} --scores {output.scores} > {log} 2>&1"


rule edge_ground_truth:
    output:
        metrics="<results>/toy/edge_ground_truth/metrics.json",
        scores="<results>/toy/edge_ground_truth/edges.csv",
        curves="<results>/toy/edge_ground_truth/curves.csv",
    log:
        "<logs>/toy/edge_ground_truth.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        options=flags(config["edge_ground_truth"], seeds=config["seeds"]),
        sources=source_hash("replications.ioi_circuit.edge_ground_truth"),
    shell:
        "python -m replications.ioi_circuit.edge_ground_truth {params.options} --out {output.metrics} --scores {output.scores} --curves {output.curves} > {log} 2>&1"


rule draw_ground_truth:
    input:
        rules.ground_truth.output,
        rules.edge_ground_truth.output,
        captions=captions(CAPTIONS, GROUND_TRUTH),
    output:
        **figure_files("<results>/toy", GROUND_TRUTH, "IOI circuit", model="toy"),
    log:
        "<logs>/toy/draw.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash("replications.ioi_circuit.draw"),
    shell:
        "python -m replications.ioi_circuit.draw --captions {input.captions} --out {output.svg} > {log} 2>&1"
