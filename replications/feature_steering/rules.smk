# Feature steering: prepare (concepts, dials, judges) -> steer (texts, a job for each part and seed) -> measure -> figures;
# demonstrate -> page.
# The SAEs, one a seed, come from `sparse_autoencoders`, whose steps run first; of a hub model, from `config/saes.yaml`.
from common.data.models import registry
from common.engine.rules import captions, figure_files, flags, source_hash
from replications.feature_steering.sae_source import RELEASED, either, memory, of_model

NAME = "replications.feature_steering"
CAPTIONS = "replications/feature_steering/captions"
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
SEEDS = {"seeds": config["seeds"][: config["most_seeds"]]}
TEXTS = "<results>/{model}/dials/texts"
PARTS = ["choosing", "scoring", "removing"]
EVERY_SEED = {"seed": SEEDS["seeds"], "allow_missing": True}
SAES = "<all_results>/sparse_autoencoders/{model}"
CHATTING = [
    name for name in config["models"] if registry()[name].chat_template != "none"
]
FIGURES = {
    "Dials": {"dials": ["frontier", "doses", "contest", "specificity"]},
    "Removal": {"removal": ["removal"]},
}


rule release:
    input:
        manifest="<models>/{model}/manifest.json",
        docs="<corpora>/python-docs/manifest.json",
        chat=f"<corpora>/self-chat-{config['scale']}/manifest.json",
        registry="config/saes.yaml",
    output:
        index="<results>/{model}/released/index.json",
        activations="<results>/{model}/released/activations/manifest.json",
    log:
        "<logs>/{model}/release.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=lambda wildcards: memory(wildcards.model),
        runtime=60,
    params:
        options=lambda wildcards: flags(
            {}, sae=RELEASED[wildcards.model]["sae"], device=config["device"], **SEEDS
        ),
        sources=source_hash(f"{NAME}.released"),
    shell:
        "python -m replications.feature_steering.released --manifest {input.manifest} --docs {input.docs} --chat {input.chat} {params.options} --index {output.index} --activations {output.activations} > {log} 2>&1"


rule prepare:
    input:
        manifest="<models>/{model}/manifest.json",
        docs="<corpora>/python-docs/manifest.json",
        index=lambda wildcards: either(
            wildcards.model,
            "<results>/{model}/released/index.json",
            f"{SAES}/saes/index.json",
        ),
        activations=lambda wildcards: either(
            wildcards.model,
            "<results>/{model}/released/activations/manifest.json",
            f"{SAES}/activations/early/manifest.json",
        ),
    output:
        prepared="<results>/{model}/dials/prepared.safetensors",
        listed="<results>/{model}/dials/concepts.json",
        latents="<results>/{model}/demonstration/latents.json",
        table="<results>/{model}/dials/detectors.csv",
    log:
        "<logs>/{model}/prepare.log",
    priority: 1
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=lambda wildcards: memory(wildcards.model),
        runtime=120,
    params:
        options=lambda wildcards: flags(
            of_model(wildcards.model, config["concepts"], config["sae"]),
            contexts=config["demonstration"]["contexts"],
            device=config["device"],
            **SEEDS,
        ),
        sources=source_hash(f"{NAME}.prepare"),
    shell:
        "python -m replications.feature_steering.prepare --manifest {input.manifest} --docs {input.docs} --index {input.index} --activations {input.activations} {params.options} --out {output.prepared} --listed {output.listed} --latents {output.latents} --table {output.table} > {log} 2>&1"


rule steer:
    input:
        manifest="<models>/{model}/manifest.json",
        index=lambda wildcards: either(
            wildcards.model,
            "<results>/{model}/released/index.json",
            f"{SAES}/saes/index.json",
        ),
        prepared=rules.prepare.output.prepared,
        listed=rules.prepare.output.listed,
        tried=lambda wildcards: (
            expand(f"{TEXTS}/choosing-{{seed}}.csv", **EVERY_SEED)
            if wildcards.part == "scoring"
            else []
        ),
    output:
        table=f"{TEXTS}/{{part}}-{{seed}}.csv",
        scores=f"{TEXTS}/{{part}}-{{seed}}.safetensors",
    log:
        "<logs>/{model}/steer-{part}-{seed}.log",
    wildcard_constraints:
        part="|".join(PARTS),
        seed=r"\d+",
    priority: 1
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=lambda wildcards: memory(wildcards.model),
        runtime=60,
    params:
        options=flags(
            {"writing": config["writing"], "fluency": config["fluency"]},
            device=config["device"],
            **SEEDS,
        ),
        sources=source_hash(f"{NAME}.steer"),
    shell:
        "python -m replications.feature_steering.steer --part {wildcards.part} --seed {wildcards.seed} --manifest {input.manifest} --index {input.index} --prepared {input.prepared} --listed {input.listed} --tried {input.tried} {params.options} --table {output.table} --scores {output.scores} > {log} 2>&1"


rule measure:
    input:
        tables=expand(f"{TEXTS}/{{part}}-{{seed}}.csv", part=PARTS, **EVERY_SEED),
        scores=expand(
            f"{TEXTS}/{{part}}-{{seed}}.safetensors", part=PARTS, **EVERY_SEED
        ),
        detectors=rules.prepare.output.table,
    output:
        dials="<results>/{model}/dials/metrics.json",
        removal="<results>/{model}/removal/metrics.json",
        curves="<results>/{model}/dials/doses.csv",
        concepts="<results>/{model}/dials/gains.csv",
        specificity="<results>/{model}/dials/specificity.csv",
    log:
        "<logs>/{model}/measure.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        options=flags(
            {"fluency": config["fluency"]},
            equal=config["writing"]["equal"],
            doses=config["writing"]["doses"],
            **SEEDS,
        ),
        sources=source_hash(f"{NAME}.measure"),
    shell:
        "python -m replications.feature_steering.measure --rows {input.tables} --scores {input.scores} --detectors {input.detectors} {params.options} --dials {output.dials} --removal {output.removal} --curves {output.curves} --concepts {output.concepts} --specificity {output.specificity} > {log} 2>&1"


rule demonstrate:
    input:
        manifest="<models>/{model}/manifest.json",
        index=lambda wildcards: either(
            wildcards.model,
            "<results>/{model}/released/index.json",
            f"{SAES}/saes/index.json",
        ),
        latents=rules.prepare.output.latents,
    output:
        "<results>/{model}/demonstration/answers.json",
    log:
        "<logs>/{model}/demonstrate.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=lambda wildcards: memory(wildcards.model),
        runtime=30,
    params:
        options=flags(
            {"demonstration": config["demonstration"]}, device=config["device"]
        ),
        sources=source_hash(f"{NAME}.demonstrate"),
    shell:
        "python -m replications.feature_steering.demonstrate --manifest {input.manifest} --index {input.index} --latents {input.latents} {params.options} --out {output} > {log} 2>&1"


rule page:
    input:
        answers=rules.demonstrate.output,
        caption=f"{CAPTIONS}/demonstration.rst",
    output:
        page=report(
            "<results>/{model}/demonstration/page.html",
            caption="captions/demonstration.rst",
            category="Feature steering",
            subcategory="Demonstration",
            labels={"figure": "page", "model": "{model}"},
        ),
        svg=report(
            "<results>/{model}/demonstration/figures/answers.svg",
            caption="captions/demonstration.rst",
            category="Feature steering",
            subcategory="Demonstration",
            labels={"figure": "answers", "model": "{model}"},
        ),
        others=multiext(
            "<results>/{model}/demonstration/figures/answers",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/{model}/page.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.page"),
    shell:
        "python -m replications.feature_steering.page --answers {input.answers} --caption {input.caption} --page {output.page} --figure {output.svg} > {log} 2>&1"


rule draw:
    input:
        rules.measure.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files(
            "<results>/{model}", FIGURES, "Feature steering", model="{model}"
        ),
    log:
        "<logs>/{model}/draw.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1500,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw"),
    shell:
        "python -m replications.feature_steering.draw --captions {input.captions} --out {output.svg} > {log} 2>&1"


rule figures:
    input:
        expand(rules.draw.output, model=config["models"]),
        expand(rules.page.output, model=CHATTING),


rule metrics:
    input:
        expand(rules.measure.output.dials, model=config["models"]),
        expand(rules.measure.output.removal, model=config["models"]),
