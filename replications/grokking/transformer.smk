# The one-layer transformers: train (three batched jobs) -> measure -> draw. Included where the settings name them.
TRANSFORMER = "<results>/toy/transformer"
TRANSFORMER_FIGURES = {"Transformer": {"transformer": ["losses", "basis"]}}


use rule step as train_transformer with:
    output:
        models=f"{TRANSFORMER}/models.safetensors",
    log:
        "<logs>/train_transformer.log",
    resources:
        **ON_GPU,
        mem_mb=8000,
        runtime=60,
    params:
        **STEP("train_transformer", config["transformer"]),


use rule step as measure_transformer with:
    input:
        models=rules.train_transformer.output.models,
    output:
        metrics=f"{TRANSFORMER}/metrics.json",
        curves=f"{TRANSFORMER}/curves.csv",
        progress=f"{TRANSFORMER}/progress.csv",
        frequencies=f"{TRANSFORMER}/frequencies.csv",
    log:
        "<logs>/measure_transformer.log",
    resources:
        mem_mb=6000,
        runtime=30,
    params:
        **STEP(
            "measure_transformer",
            {key: config[key] for key in ("judging", "transformer")},
            run=False,
        ),


use rule step as draw_transformer with:
    input:
        rules.measure_transformer.output,
        captions=captions(CAPTIONS, TRANSFORMER_FIGURES),
    output:
        **figure_files("<results>/toy", TRANSFORMER_FIGURES, "Grokking"),
    log:
        "<logs>/draw_transformer.log",
    params:
        **STEP("draw_transformer", run=False),
