# Induction heads: the language models of the run, included by rules.smk, which has the names used here.
REPEATS = flags({"repeats": config["repeats"]}, **RUN)


rule score_model:
    input:
        manifest="<models>/{model}/manifest.json",
    output:
        metrics="<results>/{model}/scores/metrics.json",
        roles="<results>/{model}/scores/roles.json",
        table="<results>/{model}/scores/scores.csv",
        fuzzy="<results>/{model}/scores/fuzzy.csv",
    log:
        "<logs>/{model}/score_model.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=20,
    params:
        options=REPEATS,
        sources=source_hash(f"{NAME}.score_model"),
    shell:
        "python -m replications.induction_heads.score_model --manifest {input.manifest} {params.options} --metrics {output.metrics} --roles {output.roles} --table {output.table} --fuzzy {output.fuzzy} > {log} 2>&1"


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
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=20,
    params:
        options=REPEATS,
        sources=source_hash(f"{NAME}.ablate_model"),
    shell:
        "python -m replications.induction_heads.ablate_model --manifest {input.manifest} --roles {input.roles} {params.options} --metrics {output.metrics} --table {output.table} > {log} 2>&1"


rule read_text:
    input:
        manifest="<models>/{model}/manifest.json",
        roles=rules.score_model.output.roles,
        corpus="<corpora>/python-docs/manifest.json",
    output:
        metrics="<results>/{model}/real_text/metrics.json",
        windows="<results>/{model}/real_text/windows.csv",
        rises="<results>/{model}/real_text/rises.csv",
    log:
        "<logs>/{model}/read_text.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=3500,
        runtime=30,
    params:
        options=flags({"text": config["real_text"]}, **RUN),
        sources=source_hash(f"{NAME}.read_text"),
    shell:
        "python -m replications.induction_heads.read_text --manifest {input.manifest} --roles {input.roles} --corpus {input.corpus} {params.options} --metrics {output.metrics} --windows {output.windows} --rises {output.rises} > {log} 2>&1"


rule draw_model:
    input:
        rules.score_model.output,
        rules.ablate_model.output,
        rules.read_text.output,
        captions=captions(CAPTIONS, MODEL_FIGURES),
    output:
        **figure_files(
            "<results>/{model}", MODEL_FIGURES, "Induction heads", model="{model}"
        ),
    log:
        "<logs>/{model}/draw.log",
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
