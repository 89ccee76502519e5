# The language model's part: harvest -> sweep, and what it leaves out -> measure -> figures. Included by rules.smk.


rule collect:
    input:
        manifest="<models>/{model}/manifest.json",
        docs="<corpora>/python-docs/manifest.json",
        chat=f"<corpora>/self-chat-{config['scale']}/manifest.json",
    output:
        early="<results>/{model}/activations/early/manifest.json",
        late="<results>/{model}/activations/late/manifest.json",
        held_out="<results>/{model}/activations/held_out.safetensors",
    log:
        "<logs>/{model}/collect.log",
    priority: 2
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=4500,
        runtime=60,
    params:
        options=flags({"corpora": config["corpora"]}, **RUN),
        sources=source_hash(f"{NAME}.collect"),
    shell:
        "python -m replications.sparse_autoencoders.collect --manifest {input.manifest} --docs {input.docs} --chat {input.chat} {params.options} --early {output.early} --late {output.late} --held-out {output.held_out} > {log} 2>&1"


rule train_language:
    input:
        early=rules.collect.output.early,
        late=rules.collect.output.late,
    output:
        index="<results>/{model}/saes/index.json",
        traces="<results>/{model}/language/traces.csv",
    log:
        "<logs>/{model}/train_language.log",
    priority: 2
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=4000,
        runtime=120,
    params:
        options=flags({"sweep": config["sweep"]}, **RUN),
        sources=source_hash(f"{NAME}.train_language"),
    shell:
        "python -m replications.sparse_autoencoders.train_language --early {input.early} --late {input.late} {params.options} --checkpoint {output.index}.checkpoint --index {output.index} --traces {output.traces} > {log} 2>&1"


rule train_more:
    input:
        early=rules.collect.output.early,
        late=rules.collect.output.late,
    output:
        index="<results>/{model}/more_saes/index.json",
    log:
        "<logs>/{model}/train_more.log",
    priority: 2
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=4000,
        runtime=60,
    params:
        options=flags({"sweep": config["sweep"]}, **RUN),
        sources=source_hash(f"{NAME}.train_more"),
    shell:
        "python -m replications.sparse_autoencoders.train_more --early {input.early} --late {input.late} {params.options} --checkpoint {output.index}.checkpoint --index {output.index} > {log} 2>&1"


rule measure_errors:
    input:
        manifest="<models>/{model}/manifest.json",
        index=rules.train_language.output.index,
        more=rules.train_more.output.index,
        held_out=rules.collect.output.held_out,
    output:
        metrics="<results>/{model}/errors/metrics.json",
        table="<results>/{model}/errors/saes.csv",
    log:
        "<logs>/{model}/measure_errors.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=60,
    params:
        options=flags(
            {"sweep": config["sweep"], "evaluation": config["evaluation"]}, **RUN
        ),
        sources=source_hash(f"{NAME}.measure_errors"),
    shell:
        "python -m replications.sparse_autoencoders.measure_errors --manifest {input.manifest} --index {input.index} --more {input.more} --held-out {input.held_out} {params.options} --metrics {output.metrics} --table {output.table} > {log} 2>&1"


rule measure_language:
    input:
        manifest="<models>/{model}/manifest.json",
        index=rules.train_language.output.index,
        more=rules.train_more.output.index,
        early=rules.collect.output.early,
        late=rules.collect.output.late,
        held_out=rules.collect.output.held_out,
    output:
        metrics="<results>/{model}/language/metrics.json",
        table="<results>/{model}/language/saes.csv",
    log:
        "<logs>/{model}/measure_language.log",
    priority: 2  # the longest of the steps that are ready by then
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=5500,
        runtime=60,
    params:
        options=flags(
            {"sweep": config["sweep"], "evaluation": config["evaluation"]}, **RUN
        ),
        sources=source_hash(f"{NAME}.measure_language"),
    shell:
        "python -m replications.sparse_autoencoders.measure_language --manifest {input.manifest} --index {input.index} --more {input.more} --early {input.early} --late {input.late} --held-out {input.held_out} {params.options} --metrics {output.metrics} --table {output.table} > {log} 2>&1"
