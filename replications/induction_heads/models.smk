# Induction heads: the language models of the run, included by rules.smk, which has the names used here.
MODEL = "<results>/{model}"
MODEL_FIGURES = {
    "Language model": {
        "scores": ["score_maps", "writing", "fuzzy"],
        "repeats": ["repeats"],
    },
}


use rule step as measure_model with:
    input:
        manifest="<models>/{model}/manifest.json",
    output:
        scores=f"{MODEL}/scores/metrics.json",
        roles=f"{MODEL}/scores/roles.json",
        heads=f"{MODEL}/scores/scores.csv",
        fuzzy=f"{MODEL}/scores/fuzzy.csv",
        repeats=f"{MODEL}/repeats/metrics.json",
        ablations=f"{MODEL}/repeats/ablations.csv",
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        **STEP("measure_model", config["repeats"]),


if config["real_text"]:
    MODEL_FIGURES["Language model"]["real_text"] = ["windows", "rises"]

    use rule step as read_text with:
        input:
            manifest="<models>/{model}/manifest.json",
            roles=rules.measure_model.output.roles,
            corpus="<corpora>/python-docs/manifest.json",
        output:
            metrics=f"{MODEL}/real_text/metrics.json",
            windows=f"{MODEL}/real_text/windows.csv",
            rises=f"{MODEL}/real_text/rises.csv",
        resources:
            mem_mb=3500,
            runtime=30,
        params:
            **STEP("read_text", config["real_text"]),


use rule step as draw_model with:
    input:
        expand(
            f"{MODEL}/{{part}}/metrics.json",
            part=parts(MODEL_FIGURES),
            allow_missing=True,
        ),
        captions=captions(CAPTIONS, MODEL_FIGURES),
    output:
        **figure_files(MODEL, MODEL_FIGURES, "Induction heads", model="{model}"),
    params:
        **STEP("draw_model", run=False),
