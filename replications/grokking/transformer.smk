# The one-layer transformers: train (three batched jobs) -> measure -> draw. Included where the settings name them.
TRANSFORMER = "<results>/toy/transformer"
TRANSFORMER_FIGURES = {"Transformer": {"transformer": ["losses", "basis"]}}


rule train_transformer:
    output:
        f"{TRANSFORMER}/models.safetensors",
    log:
        "<logs>/train_transformer.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=8000,
        runtime=60,
    params:
        options=flags(
            {
                name: value
                for name, value in config["transformer"].items()
                if name != "key"
            },
            seeds=config["seeds"],
            device=config["device"],
        ),
        sources=source_hash(f"{NAME}.train_transformer"),
    shell:
        "python -m replications.grokking.train_transformer {params.options} --out {output} > {log} 2>&1"


rule measure_transformer:
    input:
        models=rules.train_transformer.output,
    output:
        metrics=f"{TRANSFORMER}/metrics.json",
        curves=f"{TRANSFORMER}/curves.csv",
        progress=f"{TRANSFORMER}/progress.csv",
        frequencies=f"{TRANSFORMER}/frequencies.csv",
    log:
        "<logs>/measure_transformer.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=6000,
        runtime=30,
    params:
        options=flags(
            {name: config["judging"][name] for name in ("learned", "pure")},
            key=config["transformer"]["key"],
            late_fraction=config["transformer"]["late_fraction"],
        ),
        sources=source_hash(f"{NAME}.measure_transformer"),
    shell:
        "python -m replications.grokking.measure_transformer --models {input.models} {params.options} --metrics {output.metrics} --curves {output.curves} --progress {output.progress} --frequencies {output.frequencies} > {log} 2>&1"


rule draw_transformer:
    input:
        rules.measure_transformer.output,
        captions=captions(CAPTIONS, TRANSFORMER_FIGURES),
    output:
        **figure_files("<results>/toy", TRANSFORMER_FIGURES, "Grokking"),
    log:
        "<logs>/draw_transformer.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        sources=source_hash(f"{NAME}.draw_transformer"),
    shell:
        "python -m replications.grokking.draw_transformer --captions {input.captions} --out {output.svg} > {log} 2>&1"
