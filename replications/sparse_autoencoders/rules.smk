# Sparse autoencoders. Planted dictionaries and SynthSAEBench: train and measure -> draw. Language model (language.smk):
# harvest -> SAEs -> measure -> draw -> feature browser.
from common.engine.rules import Steps, captions, figure_files, parts
from replications.sparse_autoencoders.settings import Corpora, Sweep
from replications.sparse_autoencoders.sweep import central, everything

SEEDS = config["seeds"][: config["most_seeds"]]
STEP = Steps("replications.sparse_autoencoders", {**config, "seeds": SEEDS})
STEP_OF_ALL_SEEDS = Steps("replications.sparse_autoencoders", config)
CAPTIONS = "replications/sparse_autoencoders/captions"
REFERENCE = ["<results>/{model}/reference/metrics.json"] if config["reference"] else []
TOY_FIGURES = {
    "Planted dictionaries": {"planted": ["planted"]},
    "SynthSAEBench": {"synth_bench": ["architectures", "absorption"]},
}
MODEL_FIGURES = {
    "Language model": {"language": ["frontier", "training"]},
    "Errors": {"errors": ["errors"]},
    "Latents": {
        "latents": [
            "examples",
            "latents",
            *(["lengths"] if config["sweep"]["lengths"] else []),
        ]
    },
    "Named features": {"named_features": ["patterns"]},
}


include: "../../common/engine/step.smk"


use rule step as planted with:
    output:
        metrics="<results>/toy/planted/metrics.json",
        features="<results>/toy/planted/features.csv",
        kinds="<results>/toy/planted/kinds.csv",
    priority: 1  # long, and nothing else waits for it: at the end it would run alone
    resources:
        mem_mb=2500,
        runtime=60,
    params:
        **STEP_OF_ALL_SEEDS("planted", config["planted"]),


use rule step as synth_bench with:
    output:
        metrics="<results>/toy/synth_bench/metrics.json",
        table="<results>/toy/synth_bench/architectures.csv",
    priority: 1
    resources:
        mem_mb=2500,
        runtime=60,
    params:
        **STEP_OF_ALL_SEEDS("synth_bench", config["synth_bench"]),


include: "language.smk"


use rule step as draw with:
    input:
        rules.planted.output,
        rules.synth_bench.output,
        captions=captions(CAPTIONS, TOY_FIGURES),
    output:
        **figure_files("<results>/toy", TOY_FIGURES, "Sparse autoencoders"),
    resources:
        mem_mb=1000,
    params:
        **STEP("figures", run=False),


use rule step as draw_model with:
    input:
        rules.train_language.output.traces,
        rules.measure_language.output,
        rules.measure_errors.output,
        rules.measure_latents.output,
        rules.named_features.output,
        captions=captions(CAPTIONS, MODEL_FIGURES),
    output:
        **figure_files(
            "<results>/{model}", MODEL_FIGURES, "Sparse autoencoders", model="{model}"
        ),
    resources:
        mem_mb=1000,
    params:
        **STEP("figures", run=False),


rule browser:
    input:
        expand(rules.browse.output, model=config["models"]),
        expand(rules.browse_rest.output, model=config["models"]),


rule figures:
    input:
        rules.draw.output,
        expand(rules.draw_model.output, model=config["models"]),
        expand(rules.browse.output, model=config["models"]),


rule metrics:
    input:
        expand(REFERENCE, model=config["models"]),
        expand("<results>/toy/{part}/metrics.json", part=parts(TOY_FIGURES)),
        expand(
            "<results>/{model}/{part}/metrics.json",
            model=config["models"],
            part=parts(MODEL_FIGURES),
        ),
