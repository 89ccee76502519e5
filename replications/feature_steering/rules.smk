# Feature steering: prepare (topics, vectors, words, judge) -> steer (answers, a job for each seed) -> measure -> figures,
# page. The SAE is that of `config/saes.yaml` (`release`): the shipped reference dictionary, or a hub model's. A model
# without one there takes those of `sparse_autoencoders`, one a seed, whose steps run first.
from common.engine.rules import Steps, captions, figure_files
from replications.feature_steering.sae_source import either, memory, of_model, released

# Seeds beyond the first ones are left out.
STEP = Steps(
    "replications.feature_steering",
    {**config, "seeds": config["seeds"][: config["most_seeds"]]},
)
CAPTIONS = "replications/feature_steering/captions"
STEERING = "<results>/{model}/steering"
SAES = "<all_results>/sparse_autoencoders/{model}"
OF_EVERY_SEED = {"seed": STEP.run["seeds"], "allow_missing": True}
FIGURES = {
    "Steering": {
        "steering": [
            "takeover",
            "curves",
            "methods",
            "transcripts",
            *(["removal"] if config["removal"] else []),
        ]
    }
}


include: "../../common/engine/step.smk"


memory_of = lambda wildcards: memory(wildcards.model)
index_of_saes = lambda wildcards: either(
    wildcards.model,
    "<results>/{model}/released/index.json",
    f"{SAES}/saes/index.json",
)


use rule step as release with:
    input:
        manifest="<models>/{model}/manifest.json",
        registry="config/saes.yaml",
    output:
        index="<results>/{model}/released/index.json",
    resources:
        mem_mb=memory_of,
        runtime=60,
    params:
        **STEP("released", lambda wildcards: {"sae": released(wildcards.model)}),


use rule step as prepare with:
    input:
        manifest="<models>/{model}/manifest.json",
        index=index_of_saes,
    output:
        prepared=f"{STEERING}/prepared.safetensors",
        concepts=f"{STEERING}/concepts.json",
    priority: 1
    resources:
        mem_mb=memory_of,
        runtime=60,
    params:
        **STEP(
            "prepare",
            lambda wildcards: of_model(
                wildcards.model, config["concepts"], config["sae"]
            ),
        ),


use rule step as steer with:
    input:
        manifest="<models>/{model}/manifest.json",
        index=index_of_saes,
        prepared=rules.prepare.output.prepared,
        concepts=rules.prepare.output.concepts,
    output:
        answers=f"{STEERING}/answers-{{seed}}.csv",
        chosen=f"{STEERING}/chosen-{{seed}}.json",
    wildcard_constraints:
        seed=r"\d+",
    priority: 1
    resources:
        mem_mb=memory_of,
        runtime=120,
    params:
        **STEP(
            "steer",
            lambda wildcards: {
                "seed": int(wildcards.seed),
                **{key: config[key] for key in ("writing", "fluency", "removal")},
            },
        ),


use rule step as measure with:
    input:
        concepts=rules.prepare.output.concepts,
        answers=expand(f"{STEERING}/answers-{{seed}}.csv", **OF_EVERY_SEED),
    output:
        metrics=f"{STEERING}/metrics.json",
        scored=f"{STEERING}/scored.csv",
        topics=f"{STEERING}/topics.csv",
        doses=f"{STEERING}/doses.csv",
    params:
        **STEP(
            "measure", {key: config[key] for key in ("writing", "fluency", "removal")}
        ),


use rule step as show with:
    input:
        concepts=rules.prepare.output.concepts,
        chosen=expand(f"{STEERING}/chosen-{{seed}}.json", **OF_EVERY_SEED),
        scored=rules.measure.output.scored,
    output:
        shown=f"{STEERING}/shown.json",
        transcripts=f"{STEERING}/transcripts.csv",
    params:
        **STEP("show", {key: config[key] for key in ("demonstration", "writing")}),


use rule step as page with:
    input:
        shown=rules.show.output.shown,
        doses=rules.measure.output.doses,
        template="replications/feature_steering/page.html",
    output:
        page=report(
            "<results>/{model}/demonstration/page.html",
            caption="captions/transcripts.rst",
            category="Feature steering",
            subcategory="Demonstration",
            labels={"figure": "page", "model": "{model}"},
        ),
    params:
        **STEP("page", config["fluency"], run=False),


use rule step as draw with:
    input:
        rules.measure.output,
        rules.show.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files(
            "<results>/{model}", FIGURES, "Feature steering", model="{model}"
        ),
    params:
        **STEP("figures", run=False),


rule figures:
    input:
        expand(rules.draw.output, model=config["models"]),
        expand(rules.page.output, model=config["models"]),


rule metrics:
    input:
        expand(rules.measure.output.metrics, model=config["models"]),
