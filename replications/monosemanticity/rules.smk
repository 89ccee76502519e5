# Monosemanticity: tokenise -> train one-layer models -> dictionaries on their neurons -> measure units, and dictionaries
# as wholes -> draw, and a page of all latents. Each language model of the run scores explanations. Wiring only.
from common.engine.rules import captions, figure_files, flags, parts, source_hash

NAME = "replications.monosemanticity"
CAPTIONS = "replications/monosemanticity/captions"
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
PAGE = f"trained-{config['dictionaries']['width']}-s{config['seeds'][0]}"
HOST_MB = 32000 if config["scale"] == "gpu" else 3000
FIGURES = {
    "Dictionaries": {"loss": ["loss"]},
    "Features and neurons": {"units": ["units", "examples"], "logits": ["logits"]},
    "Feature splitting": {"splitting": ["splitting", "families"]},
    "Universality": {"universality": ["universality"]},
}

SCORER_FIGURES = {"Language model as scorer": {"language_scorer": ["language_scorer"]}}


rule tokenise:
    input:
        "<corpora>/python-docs/manifest.json",
    output:
        tokens="<results>/toy/text/tokens.safetensors",
        vocabulary="<results>/toy/text/vocabulary.json",
    log:
        "<logs>/tokenise.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=20,
    params:
        options=flags({"text": config["text"]}, seeds=config["seeds"]),
        sources=source_hash(f"{NAME}.tokenise"),
    shell:
        "python -m replications.monosemanticity.tokenise --corpus {input} {params.options} --out {output.tokens} --vocabulary {output.vocabulary} > {log} 2>&1"


rule train:
    input:
        rules.tokenise.output.tokens,
    output:
        models="<results>/toy/models/models.safetensors",
        curves="<results>/toy/loss/curves.csv",
    log:
        "<logs>/train.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=2000,
        runtime=60,
    params:
        options=flags(
            {"text": config["text"], "model": config["model"]},
            seeds=config["seeds"],
            device=config["device"],
        ),
        sources=source_hash(f"{NAME}.train"),
    shell:
        "python -m replications.monosemanticity.train --tokens {input} {params.options} --out {output.models} --curves {output.curves} > {log} 2>&1"


rule dictionaries:
    input:
        tokens=rules.tokenise.output.tokens,
        models=rules.train.output.models,
    output:
        index="<results>/toy/dictionaries/index.json",
        traces="<results>/toy/dictionaries/traces.csv",
    log:
        "<logs>/dictionaries.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=HOST_MB,
        runtime=60,
    params:
        options=flags({"dictionaries": config["dictionaries"]}, device=config["device"]),
        sources=source_hash(f"{NAME}.dictionaries"),
    shell:
        "python -m replications.monosemanticity.dictionaries --tokens {input.tokens} --models {input.models} {params.options} --checkpoint {output.index}.checkpoint --index {output.index} --traces {output.traces} > {log} 2>&1"


rule measure_units:
    input:
        tokens=rules.tokenise.output.tokens,
        vocabulary=rules.tokenise.output.vocabulary,
        models=rules.train.output.models,
        index=rules.dictionaries.output.index,
    output:
        units="<results>/toy/units/metrics.json",
        logits="<results>/toy/logits/metrics.json",
        table="<results>/toy/units/units.csv",
        quarters="<results>/toy/units/quarters.csv",
        examples="<results>/toy/units/examples.csv",
        logit_table="<results>/toy/logits/units.csv",
    log:
        "<logs>/measure_units.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=HOST_MB,
        runtime=60,
    params:
        options=flags(
            {"measures": config["measures"]},
            width=config["dictionaries"]["width"],
            narrowest=config["dictionaries"]["widths"][0],
        ),
        sources=source_hash(f"{NAME}.measure_units"),
    shell:
        "python -m replications.monosemanticity.measure_units --tokens {input.tokens} --vocabulary {input.vocabulary} --models {input.models} --index {input.index} {params.options} --units {output.units} --logits {output.logits} --table {output.table} --quarters {output.quarters} --examples {output.examples} --logit-table {output.logit_table} > {log} 2>&1"


rule measure_dictionaries:
    input:
        tokens=rules.tokenise.output.tokens,
        vocabulary=rules.tokenise.output.vocabulary,
        models=rules.train.output.models,
        index=rules.dictionaries.output.index,
    output:
        loss="<results>/toy/loss/metrics.json",
        splitting="<results>/toy/splitting/metrics.json",
        universality="<results>/toy/universality/metrics.json",
        ways="<results>/toy/loss/ways.csv",
        nests="<results>/toy/splitting/nests.csv",
        families="<results>/toy/splitting/families.csv",
        twins="<results>/toy/universality/twins.csv",
    log:
        "<logs>/measure_dictionaries.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=HOST_MB,
        runtime=60,
    params:
        options=flags(
            {"dictionaries": config["dictionaries"], "measures": config["measures"]}
        ),
        sources=source_hash(f"{NAME}.measure_dictionaries"),
    shell:
        "python -m replications.monosemanticity.measure_dictionaries --tokens {input.tokens} --vocabulary {input.vocabulary} --models {input.models} --index {input.index} {params.options} --loss {output.loss} --splitting {output.splitting} --universality {output.universality} --ways {output.ways} --nests {output.nests} --families {output.families} --pairs {output.twins} > {log} 2>&1"


rule language_scorer:
    input:
        manifest="<models>/{model}/manifest.json",
        tokens=rules.tokenise.output.tokens,
        vocabulary=rules.tokenise.output.vocabulary,
        models=rules.train.output.models,
        index=rules.dictionaries.output.index,
    output:
        metrics="<results>/{model}/language_scorer/metrics.json",
        table="<results>/{model}/language_scorer/latents.csv",
    log:
        "<logs>/{model}/language_scorer.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=HOST_MB,
        runtime=60,
    params:
        options=flags(
            {"measures": config["measures"], "scorer": config["scorer"]},
            width=config["dictionaries"]["width"],
            device=config["device"],
        ),
        sources=source_hash(f"{NAME}.language_scorer"),
    shell:
        "python -m replications.monosemanticity.language_scorer --manifest {input.manifest} --tokens {input.tokens} --vocabulary {input.vocabulary} --models {input.models} --index {input.index} {params.options} --metrics {output.metrics} --table {output.table} > {log} 2>&1"


rule draw_language_scorer:
    input:
        rules.language_scorer.output,
        captions=captions(CAPTIONS, SCORER_FIGURES),
    output:
        **figure_files(
            "<results>/{model}", SCORER_FIGURES, "Monosemanticity", model="{model}"
        ),
    log:
        "<logs>/{model}/draw_language_scorer.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw"),
    shell:
        "python -m replications.monosemanticity.draw --captions {input.captions} --out {output.svg} > {log} 2>&1"


rule draw:
    input:
        rules.train.output.curves,
        rules.measure_units.output,
        rules.measure_dictionaries.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files("<results>/toy", FIGURES, "Monosemanticity"),
    log:
        "<logs>/draw.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw"),
    shell:
        "python -m replications.monosemanticity.draw --captions {input.captions} --out {output.svg} > {log} 2>&1"


rule browse:
    input:
        tokens=rules.tokenise.output.tokens,
        vocabulary=rules.tokenise.output.vocabulary,
        models=rules.train.output.models,
        index=rules.dictionaries.output.index,
        template="common/saes/browser.html",
        caption=f"{CAPTIONS}/browser.rst",
    output:
        report(
            f"<results>/toy/browser/{PAGE}.html",
            caption="captions/browser.rst",
            category="Feature browser",
            subcategory="Monosemanticity",
            labels={"dictionary": PAGE},
        ),
    log:
        "<logs>/browse.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=20,
    params:
        options=flags(
            {"measures": config["measures"]},
            census_tokens=config["dictionaries"]["tokens"],
        ),
        sources=source_hash(f"{NAME}.browse"),
    shell:
        "python -m replications.monosemanticity.browse --tokens {input.tokens} --vocabulary {input.vocabulary} --models {input.models} --index {input.index} {params.options} --template {input.template} --page {output} > {log} 2>&1"


rule figures:
    input:
        rules.draw.output,
        rules.browse.output,
        expand(rules.draw_language_scorer.output, model=config["models"]),


rule metrics:
    input:
        expand("<results>/toy/{part}/metrics.json", part=parts(FIGURES)),
        expand(rules.language_scorer.output.metrics, model=config["models"]),
