# Circuit tracing: a transcoder for each MLP of a language model, and graphs of prompts; included by rules.smk.
MODEL = "<results>/{model}"
PROMPTS = list(config["language"]["prompts"])
MODEL_FIGURES = {
    "Language model": {
        "language": {
            "layers": "Transcoders by layer",
            "graphs": "Graphs of the language model",
        }
    }
}
CORPORA = {
    "docs": "<corpora>/python-docs/manifest.json",
    "chat": "<corpora>/self-chat/manifest.json",
}


use rule step as language_train with:
    input:
        **CORPORA,
        manifest="<models>/{model}/manifest.json",
    output:
        transcoders=f"{MODEL}/transcoders/transcoders.safetensors",
        table=f"{MODEL}/language/layers.csv",
    log:
        "<logs>/{model}/language_train.log",
    resources:
        **ON_GPU,
        mem_mb=6000,
        runtime=120,
    params:
        **STEP("language_train", config["language"]),


use rule step as language with:
    input:
        **CORPORA,
        manifest="<models>/{model}/manifest.json",
        transcoders=rules.language_train.output.transcoders,
        table=rules.language_train.output.table,
        template="replications/circuit_tracing/viewer.html",
    output:
        metrics=f"{MODEL}/language/metrics.json",
        graphs=f"{MODEL}/language/graphs.csv",
        heads=f"{MODEL}/language/heads.csv",
        ablations=f"{MODEL}/language/ablations.csv",
        pages=[
            report(
                f"{MODEL}/viewer/{name}.html",
                caption="captions/viewer.rst",
                category="Attribution graphs",
                subcategory="Circuit tracing",
                labels={"prompt": name, "model": "{model}"},
            )
            for name in PROMPTS
        ],
        tracers=[f"{MODEL}/viewer/{name}.json" for name in PROMPTS],
    log:
        "<logs>/{model}/language.log",
    resources:
        mem_mb=6000,
        runtime=60,
    params:
        **STEP("language", config["language"]),


use rule step as draw_language with:
    input:
        rules.language.output,
        captions=captions(CAPTIONS, MODEL_FIGURES),
    output:
        **figure_files(MODEL, MODEL_FIGURES, "Circuit tracing", model="{model}"),
    log:
        "<logs>/{model}/draw.log",
    params:
        **STEP("figures", run=False),
