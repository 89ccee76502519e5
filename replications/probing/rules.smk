# Probing: what is read off a language model beside what acts on it, for every language model of the run.
from common.engine.rules import Steps, captions, figure_files, parts

STEP = Steps("replications.probing", config)
CAPTIONS = "replications/probing/captions"
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
MODEL = "<results>/{model}"
FIGURES = {
    "Truth": {"truth": ["read_and_act", "layers", "transfer"]},
}


include: "../../common/engine/step.smk"


use rule step as truth with:
    input:
        manifest="<models>/{model}/manifest.json",
    output:
        metrics=f"{MODEL}/truth/metrics.json",
        layers=f"{MODEL}/truth/layers.csv",
        readings=f"{MODEL}/truth/readings.csv",
        transfer=f"{MODEL}/truth/transfer.csv",
        patches=f"{MODEL}/truth/patches.csv",
    log:
        "<logs>/{model}/truth.log",
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=30,
    params:
        **STEP("truth", config["truth"]),


use rule step as draw with:
    input:
        rules.truth.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files(MODEL, FIGURES, "Probing", model="{model}"),
    log:
        "<logs>/{model}/draw.log",
    params:
        **STEP("figures", run=False),


rule figures:
    input:
        expand(rules.draw.output, model=config["models"]),


rule metrics:
    input:
        expand(
            "<results>/{model}/{part}/metrics.json",
            model=config["models"],
            part=parts(FIGURES),
        ),
