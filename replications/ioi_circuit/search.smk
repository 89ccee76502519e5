# IOI, fourth part, included by rules.smk where the settings have `edge_search`: exact edges and ACDC on the language model.
# ON_GPU and the imports come from there.


rule edge_search:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output,
    output:
        metrics="<results>/{model}/edge_search/metrics.json",
        curves="<results>/{model}/edge_search/curves.csv",
        edges="<results>/{model}/edge_search/edges.csv",
    log:
        "<logs>/{model}/edge_search.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=4000,
        runtime=120,
    params:
        options=flags(config["edge_search"], device=config["device"]),
        sources=source_hash("replications.ioi_circuit.edge_search"),
    shell:
        "python -m replications.ioi_circuit.edge_search --manifest {input.manifest} --prompts {input.prompts} {params.options} --out {output.metrics} --curves {output.curves} --edges {output.edges} > {log} 2>&1"
