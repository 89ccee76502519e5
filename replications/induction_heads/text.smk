# Induction heads: models trained on natural text, included by rules.smk, which has the names used here.
TEXT = config["natural_text"]
TOKENS = {"tokens": TEXT["tokens"]}


wildcard_constraints:
    textarm="|".join(TEXT["arms"]),


rule tokenise_corpus:
    input:
        "<corpora>/python-docs/manifest.json",
    output:
        tokens="<results>/toy/text/tokens.safetensors",
        vocabulary="<results>/toy/text/vocabulary.json",
    log:
        "<logs>/tokenise_corpus.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        options=flags(TOKENS, seeds=config["seeds"]),
        sources=source_hash(f"{NAME}.tokenise_corpus"),
    shell:
        "python -m replications.induction_heads.tokenise_corpus --corpus {input} {params.options} --out {output.tokens} --vocabulary {output.vocabulary} > {log} 2>&1"


rule train_text:
    input:
        rules.tokenise_corpus.output.tokens,
    output:
        "<results>/toy/text/{textarm}.safetensors",
    log:
        "<logs>/train_text_{textarm}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=2500,
        runtime=120,
    params:
        options=lambda wildcards: flags(
            TOKENS,
            arm=TEXT["arms"][wildcards.textarm],
            training=TEXT["training"],
            **RUN,
        ),
        sources=source_hash(f"{NAME}.train_text"),
    shell:
        "python -m replications.induction_heads.train_text --name {wildcards.textarm} --corpus {input} {params.options} --out {output} > {log} 2>&1"


rule measure_text:
    input:
        expand("<results>/toy/text/{arm}.safetensors", arm=TEXT["arms"]),
    output:
        metrics="<results>/toy/text_training/metrics.json",
        curves="<results>/toy/text_training/curves.csv",
        indices="<results>/toy/text_training/indices.csv",
        heads="<results>/toy/text_training/heads.csv",
        paths="<results>/toy/text_training/paths.csv",
    log:
        "<logs>/measure_text.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        options=flags(
            TEXT["indices"], warmup=TEXT["training"]["optimisation"]["warmup"]
        ),
        sources=source_hash(f"{NAME}.measure_phase_change"),
    shell:
        "python -m replications.induction_heads.measure_phase_change --arms {input} {params.options} --metrics {output.metrics} --curves {output.curves} --indices {output.indices} --heads {output.heads} --paths {output.paths} > {log} 2>&1"


rule measure_framework:
    input:
        texts=expand(
            "<results>/toy/text/{arm}.safetensors", arm=["one_layer", "two_layers"]
        ),
        synthetic=expand(
            "<results>/toy/arms/{arm}.safetensors", arm=["one_layer", "two_layers"]
        ),
        corpus=rules.tokenise_corpus.output.tokens,
        vocabulary=rules.tokenise_corpus.output.vocabulary,
    output:
        metrics="<results>/toy/framework/metrics.json",
        orders="<results>/toy/framework/orders.csv",
        heads="<results>/toy/framework/heads.csv",
        trigrams="<results>/toy/framework/trigrams.csv",
    log:
        "<logs>/measure_framework.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2500,
        runtime=10,
    params:
        sources=source_hash(f"{NAME}.measure_framework"),
    shell:
        "python -m replications.induction_heads.measure_framework --texts {input.texts} --synthetic {input.synthetic} --corpus {input.corpus} --vocabulary {input.vocabulary} --metrics {output.metrics} --orders {output.orders} --heads {output.heads} --trigrams {output.trigrams} > {log} 2>&1"
