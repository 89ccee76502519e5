# Monosemanticity: tokenise -> train one-layer models -> dictionaries on their neurons -> measure units, and dictionaries
# as wholes -> draw. Where config.yaml says so: a page of all latents, and language models that score explanations.
from common.engine.rules import Steps, captions, figure_files, parts

STEP = Steps("replications.monosemanticity", config)
CAPTIONS = "replications/monosemanticity/captions"
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
HOST_MB = 32000 if config["scale"] == "gpu" else 3000
MEASURE = {key: config[key] for key in ("dictionaries", "measures")}
FIGURES = {
    "Dictionaries": {"loss": ["loss"]},
    "Features and neurons": {"units": ["units", "examples"], "logits": ["logits"]},
    "Feature splitting": {"splitting": ["splitting", "families"]},
    "Universality": {"universality": ["universality"]},
}


include: "../../common/engine/step.smk"


use rule step as tokenise with:
    input:
        corpus="<corpora>/python-docs/manifest.json",
    output:
        tokens="<results>/toy/text/tokens.safetensors",
        vocabulary="<results>/toy/text/vocabulary.json",
    log:
        "<logs>/tokenise.log",
    resources:
        mem_mb=1500,
        runtime=20,
    params:
        **STEP("tokenise", config["text"]),


use rule step as train with:
    input:
        tokens=rules.tokenise.output.tokens,
    output:
        models="<results>/toy/models/models.safetensors",
        curves="<results>/toy/loss/curves.csv",
    log:
        "<logs>/train.log",
    resources:
        **ON_GPU,
        mem_mb=2000,
        runtime=60,
    params:
        **STEP("train", {key: config[key] for key in ("text", "model")}),


use rule step as dictionaries with:
    input:
        tokens=rules.tokenise.output.tokens,
        models=rules.train.output.models,
    output:
        index="<results>/toy/dictionaries/index.json",
        traces="<results>/toy/dictionaries/traces.csv",
    log:
        "<logs>/dictionaries.log",
    resources:
        **ON_GPU,
        mem_mb=HOST_MB,
        runtime=60,
    params:
        **STEP("dictionaries", config["dictionaries"]),


TRAINED = {
    "tokens": rules.tokenise.output.tokens,
    "vocabulary": rules.tokenise.output.vocabulary,
    "models": rules.train.output.models,
    "index": rules.dictionaries.output.index,
}


use rule step as measure_units with:
    input:
        **TRAINED,
    output:
        units="<results>/toy/units/metrics.json",
        logits="<results>/toy/logits/metrics.json",
        table="<results>/toy/units/units.csv",
        quarters="<results>/toy/units/quarters.csv",
        examples="<results>/toy/units/examples.csv",
        logit_table="<results>/toy/logits/units.csv",
    log:
        "<logs>/measure_units.log",
    resources:
        mem_mb=HOST_MB,
        runtime=60,
    params:
        **STEP("measure_units", MEASURE, run=False),


use rule step as measure_dictionaries with:
    input:
        **TRAINED,
    output:
        loss="<results>/toy/loss/metrics.json",
        splitting="<results>/toy/splitting/metrics.json",
        universality="<results>/toy/universality/metrics.json",
        ways="<results>/toy/loss/ways.csv",
        nests="<results>/toy/splitting/nests.csv",
        families="<results>/toy/splitting/families.csv",
        pairs="<results>/toy/universality/twins.csv",
    log:
        "<logs>/measure_dictionaries.log",
    resources:
        mem_mb=HOST_MB,
        runtime=60,
    params:
        **STEP("measure_dictionaries", MEASURE, run=False),


use rule step as draw with:
    input:
        rules.train.output.curves,
        rules.measure_units.output,
        rules.measure_dictionaries.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files("<results>/toy", FIGURES, "Monosemanticity"),
    log:
        "<logs>/draw.log",
    params:
        **STEP("figures", run=False),


MORE_FIGURES, MORE_METRICS = [], []

if config["scorer"]:
    SCORER_FIGURES = {
        "Language model as scorer": {"language_scorer": ["language_scorer"]}
    }

    use rule step as language_scorer with:
        input:
            **TRAINED,
            manifest="<models>/{model}/manifest.json",
        output:
            metrics="<results>/{model}/language_scorer/metrics.json",
            table="<results>/{model}/language_scorer/latents.csv",
        log:
            "<logs>/{model}/language_scorer.log",
        resources:
            **ON_GPU,
            mem_mb=HOST_MB,
            runtime=60,
        params:
            **STEP("language_scorer", {**MEASURE, "scorer": config["scorer"]}),

    use rule step as draw_language_scorer with:
        input:
            rules.language_scorer.output,
            captions=captions(CAPTIONS, SCORER_FIGURES),
        output:
            **figure_files(
                "<results>/{model}", SCORER_FIGURES, "Monosemanticity", model="{model}"
            ),
        log:
            "<logs>/{model}/draw_language_scorer.log",
        params:
            **STEP("figures", run=False),

    MORE_FIGURES += expand(
        rules.draw_language_scorer.output, model=config["models"]
    )
    MORE_METRICS += expand(
        rules.language_scorer.output.metrics, model=config["models"]
    )


if config["browser"]:
    PAGE = f"trained-{config['dictionaries']['width']}-s{config['seeds'][0]}"

    use rule step as browse with:
        input:
            **TRAINED,
            template="common/saes/browser.html",
            caption=f"{CAPTIONS}/browser.rst",
        output:
            page=report(
                f"<results>/toy/browser/{PAGE}.html",
                caption="captions/browser.rst",
                category="Feature browser",
                subcategory="Monosemanticity",
                labels={"dictionary": PAGE},
            ),
        log:
            "<logs>/browse.log",
        resources:
            mem_mb=3000,
            runtime=20,
        params:
            **STEP("browse", MEASURE, run=False),

    MORE_FIGURES += rules.browse.output


rule figures:
    input:
        rules.draw.output,
        MORE_FIGURES,


rule metrics:
    input:
        expand("<results>/toy/{part}/metrics.json", part=parts(FIGURES)),
        MORE_METRICS,
