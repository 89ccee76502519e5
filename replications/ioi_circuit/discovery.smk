# IOI, third part, included by rules.smk: activation patching, automated discovery by edges, the circuit one fine-tune
# away, and the models side by side.
# ON_GPU and the imports come from there.


rule activation_patching:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output,
    output:
        metrics="<results>/{model}/activation_patching/metrics.json",
        effects="<results>/{model}/activation_patching/effects.csv",
    log:
        "<logs>/{model}/activation_patching.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=4000,
        runtime=30,
    params:
        options=flags(config["activation_patching"], device=config["device"]),
        sources=source_hash("replications.ioi_circuit.activation_patching"),
    shell:
        "python -m replications.ioi_circuit.activation_patching --manifest {input.manifest} --prompts {input.prompts} {params.options} --out {output.metrics} --effects {output.effects} > {log} 2>&1"


rule edge_attribution:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output,
        heads=rules.path_patching.output.heads,
        direct=rules.direct_path.output.heads,
    output:
        metrics="<results>/{model}/edge_attribution/metrics.json",
        curves="<results>/{model}/edge_attribution/curves.csv",
        edges="<results>/{model}/edge_attribution/edges.csv",
        nodes="<results>/{model}/edge_attribution/nodes.csv",
    log:
        "<logs>/{model}/edge_attribution.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=4000,
        runtime=30,
    params:
        options=flags(config["edge_attribution"], device=config["device"]),
        sources=source_hash("replications.ioi_circuit.edge_attribution"),
    shell:
        "python -m replications.ioi_circuit.edge_attribution --manifest {input.manifest} --prompts {input.prompts} --heads {input.heads} --direct {input.direct} {params.options} --out {output.metrics} --curves {output.curves} --edges {output.edges} --nodes {output.nodes} > {log} 2>&1"


rule fine_tuned:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output,
        circuit=rules.verification.output.circuit,
        heads=rules.path_patching.output.heads,
        tuned=expand(
            "<all_results>/refusal_direction/{{model}}/models/harmful-{seed}/manifest.json",
            seed=range(config["fine_tuned"]["n_seeds"]),
        ),
    output:
        metrics="<results>/{model}/fine_tuned/metrics.json",
        shares="<results>/{model}/fine_tuned/shares.csv",
        heads="<results>/{model}/fine_tuned/heads.csv",
        nodes="<results>/{model}/fine_tuned/nodes.csv",
    log:
        "<logs>/{model}/fine_tuned.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=4000,
        runtime=30,
    params:
        options=flags(
            {
                key: value
                for key, value in config["fine_tuned"].items()
                if key not in ("models", "n_seeds")
            },
            device=config["device"],
        ),
        sources=source_hash("replications.ioi_circuit.fine_tuned"),
    shell:
        "python -m replications.ioi_circuit.fine_tuned --manifest {input.manifest} --prompts {input.prompts} --circuit {input.circuit} --searched {input.heads} --tuned {input.tuned} {params.options} --out {output.metrics} --shares {output.shares} --heads {output.heads} --nodes {output.nodes} > {log} 2>&1"


rule draw_fine_tuned:
    input:
        rules.fine_tuned.output,
        captions=captions(CAPTIONS, TUNED_FIGURES),
    output:
        **figure_files(
            "<results>/{model}", TUNED_FIGURES, "IOI circuit", model="{model}"
        ),
    log:
        "<logs>/{model}/draw_fine_tuned.log",
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


rule figure_transfer:
    input:
        circuits=expand(
            "<results>/{model}/verification/circuit.csv", model=config["models"]
        ),
        metrics=expand(
            "<results>/{model}/verification/metrics.json", model=config["models"]
        ),
        heads=expand(
            "<results>/{model}/path_patching/heads.csv", model=config["models"]
        ),
        tuned=expand("<results>/{model}/fine_tuned/nodes.csv", model=TUNED),
        caption="replications/ioi_circuit/captions/transfer.rst",
    output:
        svg=report(
            "<results>/models/transfer/figures/transfer.svg",
            caption="captions/transfer.rst",
            category="IOI circuit",
            subcategory="All models",
            labels={"figure": "circuits side by side", "model": "all"},
        ),
        others=multiext(
            "<results>/models/transfer/figures/transfer",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/models/figure_transfer.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash("replications.ioi_circuit.transfer_figures"),
    shell:
        "python -m replications.ioi_circuit.transfer_figures --circuits {input.circuits} --metrics {input.metrics} --heads {input.heads} --tuned {input.tuned} --out {output.svg} > {log} 2>&1"
