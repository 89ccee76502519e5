# Grokking: train (all conditions and seeds in two batched jobs) -> measure -> draw. Transformers: transformer.smk.
from common.engine.rules import Steps, captions, figure_files

STEP = Steps("replications.grokking", config)
CAPTIONS = "replications/grokking/captions"
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
FIGURES = {
    "Delay": {"delay": {"delay": "Memorised first, generalised later"}},
    "Features": {"features": {"features": "Frequencies and phases of the neurons"}},
}


include: "../../common/engine/step.smk"


use rule step as train with:
    output:
        models="<results>/toy/delay/models.safetensors",
    log:
        "<logs>/train.log",
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=30,
    params:
        **STEP("train", config["training"]),


use rule step as measure with:
    input:
        models=rules.train.output.models,
    output:
        delay="<results>/toy/delay/metrics.json",
        features="<results>/toy/features/metrics.json",
        curves="<results>/toy/delay/curves.csv",
        neurons="<results>/toy/features/neurons.csv",
    log:
        "<logs>/measure.log",
    params:
        **STEP(
            "measure",
            {key: config[key] for key in ("training", "judging")},
            run=False,
        ),


use rule step as draw with:
    input:
        rules.measure.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files("<results>/toy", FIGURES, "Grokking"),
    log:
        "<logs>/draw.log",
    params:
        **STEP("draw", run=False),


MORE_FIGURES, MORE_METRICS = [], []

if config["transformer"]:

    include: "transformer.smk"

    MORE_FIGURES = rules.draw_transformer.output
    MORE_METRICS = [rules.measure_transformer.output.metrics]


rule figures:
    input:
        rules.draw.output,
        MORE_FIGURES,


rule metrics:
    input:
        rules.measure.output.delay,
        rules.measure.output.features,
        MORE_METRICS,
