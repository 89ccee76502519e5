# Monosemanticity: tokenise -> train one-layer models -> dictionaries on their neurons -> measure -> draw. Where
# config.yaml says so, a page of all latents.
from common.engine.rules import Steps, captions, figure_files, parts

STEP = Steps("replications.monosemanticity", config)
CAPTIONS = "replications/monosemanticity/captions"
HOST_MB = 32000 if config["scale"] == "gpu" else 3000
MEASURE = {key: config[key] for key in ("dictionaries", "measures")}
FIGURES = {
    "Features and neurons": {"units": ["units", "examples"]},
    "Named features": {"named": ["named", "activations"]},
    "Dictionaries": {"loss": ["loss"]},
    "Feature splitting": {"splitting": ["splitting"]},
    "Universality": {"universality": ["universality"]},
}


include: "../../common/engine/step.smk"


use rule step as tokenise with:
    input:
        corpus="<corpora>/python-docs/manifest.json",
    output:
        tokens="<results>/toy/text/tokens.safetensors",
        vocabulary="<results>/toy/text/vocabulary.json",
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
    resources:
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
    resources:
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


use rule step as measure with:
    input:
        **TRAINED,
    output:
        **{part: f"<results>/toy/{part}/metrics.json" for part in parts(FIGURES)},
        ways="<results>/toy/loss/ways.csv",
        scores="<results>/toy/units/scores.csv",
        examples="<results>/toy/units/examples.csv",
        patterns="<results>/toy/named/patterns.csv",
        histograms="<results>/toy/named/histograms.csv",
        families="<results>/toy/splitting/families.csv",
        correlations="<results>/toy/universality/correlations.csv",
    resources:
        mem_mb=HOST_MB,
        runtime=60,
    params:
        **STEP("measure", MEASURE, run=False),


use rule step as draw with:
    input:
        rules.train.output.curves,
        rules.measure.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files("<results>/toy", FIGURES, "Monosemanticity"),
    params:
        **STEP("figures", run=False),


PAGES = []

if config["browser"]:
    PAGE = f"trained-{config['dictionaries']['widths'][-1]}-s{config['seeds'][0]}"

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
        resources:
            mem_mb=3000,
            runtime=20,
        params:
            **STEP("browse", MEASURE, run=False),

    PAGES += rules.browse.output


rule figures:
    input:
        rules.draw.output,
        PAGES,


rule metrics:
    input:
        expand("<results>/toy/{part}/metrics.json", part=parts(FIGURES)),
