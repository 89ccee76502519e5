# Feature steering: prepare (concepts, steering vectors, judges) -> steer (texts, a job for each part and seed) ->
# measure -> figures. Removal and demonstration: extras.smk. The SAEs, one a seed, come from `sparse_autoencoders`,
# whose steps run first; those of a hub model from `config/saes.yaml` (`release`).
from common.engine.rules import Steps, captions, figure_files
from replications.feature_steering.sae_source import RELEASED, either, memory, of_model

# Seeds beyond the first ones are left out.
STEP = Steps(
    "replications.feature_steering",
    {**config, "seeds": config["seeds"][: config["most_seeds"]]},
)
CAPTIONS = "replications/feature_steering/captions"
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
STEERING = "<results>/{model}/steering"
SAES = "<all_results>/sparse_autoencoders/{model}"
OF_EVERY_SEED = {"seed": STEP.run["seeds"], "allow_missing": True}
PARTS = ["choosing", "scoring"] if config["fluency"] else ["scoring"]
FIGURES = {
    "Steering": {
        "steering": [
            "methods",
            "specificity",
            *(["frontier", "doses"] if config["fluency"] else []),
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
        docs="<corpora>/python-docs/manifest.json",
        chat="<corpora>/self-chat/manifest.json",
        registry="config/saes.yaml",
    output:
        index="<results>/{model}/released/index.json",
        activations="<results>/{model}/released/activations/manifest.json",
    log:
        "<logs>/{model}/release.log",
    resources:
        **ON_GPU,
        mem_mb=memory_of,
        runtime=60,
    params:
        **STEP("released", lambda wildcards: {"sae": RELEASED[wildcards.model]["sae"]}),


use rule step as prepare with:
    input:
        manifest="<models>/{model}/manifest.json",
        docs="<corpora>/python-docs/manifest.json",
        index=index_of_saes,
        activations=lambda wildcards: either(
            wildcards.model,
            "<results>/{model}/released/activations/manifest.json",
            f"{SAES}/activations/main/manifest.json",
        ),
    output:
        prepared=f"{STEERING}/prepared.safetensors",
        concepts=f"{STEERING}/concepts.json",
        latents="<results>/{model}/demonstration/latents.json",
        detectors=f"{STEERING}/detectors.csv",
    log:
        "<logs>/{model}/prepare.log",
    priority: 1
    resources:
        **ON_GPU,
        mem_mb=memory_of,
        runtime=120,
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
        tried=lambda wildcards: (
            expand(f"{STEERING}/texts/choosing-{{seed}}.csv", **OF_EVERY_SEED)
            if wildcards.part == "scoring" and config["fluency"]
            else []
        ),
    output:
        table=f"{STEERING}/texts/{{part}}-{{seed}}.csv",
        scores=f"{STEERING}/texts/{{part}}-{{seed}}.safetensors",
    log:
        "<logs>/{model}/steer-{part}-{seed}.log",
    wildcard_constraints:
        part="choosing|scoring|removing",
        seed=r"\d+",
    priority: 1
    resources:
        **ON_GPU,
        mem_mb=memory_of,
        runtime=60,
    params:
        **STEP(
            "steer",
            lambda wildcards: {
                "part": wildcards.part,
                "seed": int(wildcards.seed),
                **{key: config[key] for key in ("writing", "fluency", "removal")},
            },
        ),


use rule step as measure with:
    input:
        tables=expand(
            f"{STEERING}/texts/{{part}}-{{seed}}.csv", part=PARTS, **OF_EVERY_SEED
        ),
        scores=expand(
            f"{STEERING}/texts/{{part}}-{{seed}}.safetensors",
            part=PARTS,
            **OF_EVERY_SEED,
        ),
        detectors=rules.prepare.output.detectors,
    output:
        metrics=f"{STEERING}/metrics.json",
        gains=f"{STEERING}/gains.csv",
        specificity=f"{STEERING}/specificity.csv",
        doses=f"{STEERING}/doses.csv",
    log:
        "<logs>/{model}/measure.log",
    params:
        **STEP("measure", {key: config[key] for key in ("writing", "fluency")}),


use rule step as draw with:
    input:
        rules.measure.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files(
            "<results>/{model}", FIGURES, "Feature steering", model="{model}"
        ),
    log:
        "<logs>/{model}/draw.log",
    params:
        **STEP("figures", run=False),


MORE_FIGURES, MORE_METRICS = [], []


include: "extras.smk"


rule figures:
    input:
        expand(rules.draw.output, model=config["models"]),
        MORE_FIGURES,


rule metrics:
    input:
        expand(rules.measure.output.metrics, model=config["models"]),
        MORE_METRICS,
