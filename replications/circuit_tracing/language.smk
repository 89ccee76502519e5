# Circuit tracing: a transcoder for each MLP of a language model, and graphs of prompts; included by rules.smk.
MODEL = "<results>/{model}"
TRACED = {key: config[key] for key in ("language", "traces")}
PROMPTS = list(config["language"]["prompts"])
MODEL_FIGURES = {
    "Language model": {
        "language": {
            "layers": "Transcoders by layer",
            "graphs": "Graphs of the language model",
        },
        "traces": {"traces": "Predictions and interventions, over prompts"},
        "named_heads": {"named_heads": "Heads of a graph and of patching"},
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
    resources:
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
        carried=f"{MODEL}/language/carried.csv",
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
    resources:
        mem_mb=6000,
        runtime=60,
    params:
        **STEP("language", config["language"]),


use rule step as language_heads with:
    input:
        carried=rules.language.output.carried,
        ioi="<all_results>/ioi_circuit/{model}/path_patching/heads.csv",
        induction="<all_results>/induction_heads/{model}/scores/roles.json",
    output:
        metrics=f"{MODEL}/named_heads/metrics.json",
    params:
        **STEP("language_heads", run=False),


use rule step as language_untrained with:
    input:
        **CORPORA,
        manifest="<models>/{model}/manifest.json",
        transcoders=rules.language_train.output.transcoders,
    output:
        untrained=f"{MODEL}/transcoders/untrained.safetensors",
        linear=f"{MODEL}/transcoders/linear.safetensors",
        table=f"{MODEL}/traces/layers.csv",
    resources:
        mem_mb=9000,
        runtime=60,
    params:
        **STEP("language_untrained", TRACED),


use rule step as language_traces with:
    input:
        **CORPORA,
        manifest="<models>/{model}/manifest.json",
        transcoders=rules.language_train.output.transcoders,
        untrained=rules.language_untrained.output.untrained,
        linear=rules.language_untrained.output.linear,
    output:
        metrics=f"{MODEL}/traces/metrics.json",
        prompts=f"{MODEL}/traces/prompts.csv",
    resources:
        mem_mb=8000,
        runtime=90,
    params:
        **STEP("language_traces", TRACED),


CROSSED = []
if config["cross"]:

    use rule step as language_cross with:
        input:
            **CORPORA,
            manifest="<models>/{model}/manifest.json",
            transcoders=rules.language_train.output.transcoders,
            untrained=rules.language_untrained.output.untrained,
        output:
            cross=f"{MODEL}/transcoders/cross_layer.safetensors",
            metrics=f"{MODEL}/cross_layer/metrics.json",
            prompts=f"{MODEL}/cross_layer/prompts.csv",
        resources:
            mem_mb=40000 if config["device"] == "cuda" else 4000,
            runtime=120,
        params:
            **STEP("language_cross", {**TRACED, "cross": config["cross"]}),

    CROSSED = ["cross_layer"]


use rule step as draw_language with:
    input:
        rules.language.output,
        rules.language_traces.output,
        rules.language_heads.output,
        captions=captions(CAPTIONS, MODEL_FIGURES),
    output:
        **figure_files(MODEL, MODEL_FIGURES, "Circuit tracing", model="{model}"),
    params:
        **STEP("figures", run=False),
