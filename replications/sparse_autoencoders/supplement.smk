# What latents tell apart, what they miss and share: sparse probes, natural absorption, layers, causal completeness,
# overlap of seeds, dictionaries side by side. Included by rules.smk.
MEASURE_LATENTS = {key: config[key] for key in ("sweep", "supplement")}


use rule step as probes with:
    input:
        manifest="<models>/{model}/manifest.json",
        docs="<corpora>/python-docs/manifest.json",
        chat=f"<corpora>/self-chat-{config['scale']}/manifest.json",
        early=rules.collect.output.early,
        index=rules.train_language.output.index,
    output:
        metrics="<results>/{model}/benchmarks/metrics.json",
        probes="<results>/{model}/benchmarks/probes.csv",
        contrasts="<results>/{model}/benchmarks/contrasts.csv",
    log:
        "<logs>/{model}/probes.log",
    resources:
        **ON_GPU,
        mem_mb=3500,
        runtime=30,
    params:
        **STEP("probes", MEASURE_LATENTS),


use rule step as natural_absorption with:
    input:
        manifest="<models>/{model}/manifest.json",
        early=rules.collect.output.early,
        index=rules.train_language.output.index,
    output:
        metrics="<results>/{model}/natural_absorption/metrics.json",
        classes="<results>/{model}/natural_absorption/classes.csv",
    log:
        "<logs>/{model}/natural_absorption.log",
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        **STEP("natural_absorption", MEASURE_LATENTS),


use rule step as layers with:
    input:
        index=rules.train_language.output.index,
        held_out=rules.collect.output.held_out,
    output:
        metrics="<results>/{model}/layers/metrics.json",
        latents="<results>/{model}/layers/latents.csv",
    log:
        "<logs>/{model}/layers.log",
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        **STEP("layers", SWEEP),


use rule step as completeness with:
    input:
        manifest="<models>/{model}/manifest.json",
        early=rules.collect.output.early,
        index=rules.train_language.output.index,
        ioi="<all_results>/ioi_circuit/{model}/data/prompts.json",
    output:
        metrics="<results>/{model}/completeness/metrics.json",
        table="<results>/{model}/completeness/sets.csv",
    log:
        "<logs>/{model}/completeness.log",
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=30,
    params:
        **STEP("completeness", MEASURE_LATENTS),


use rule step as overlap with:
    input:
        index=rules.train_language.output.index,
    output:
        metrics="<results>/{model}/overlap/metrics.json",
        latents="<results>/{model}/overlap/latents.csv",
        pairs="<results>/{model}/overlap/pairs.csv",
    log:
        "<logs>/{model}/overlap.log",
    resources:
        runtime=20,
    params:
        **STEP("overlap", SWEEP),


MODEL_TABLES = [
    rules.probes.output,
    rules.natural_absorption.output,
    rules.layers.output,
    rules.completeness.output,
    rules.overlap.output,
]

if config["planted"]:

    use rule step as dictionaries with:
        input:
            saes=rules.measure_language.output.table,
            probes=rules.probes.output.probes,
            planted=rules.planted.output.kinds,
        output:
            metrics="<results>/{model}/dictionaries/metrics.json",
            table="<results>/{model}/dictionaries/dictionaries.csv",
        log:
            "<logs>/{model}/dictionaries.log",
        resources:
            mem_mb=1000,
        params:
            **STEP("dictionaries", SWEEP),

    MODEL_TABLES.append(rules.dictionaries.output)
