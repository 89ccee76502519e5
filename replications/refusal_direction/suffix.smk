# Refusal direction: what an adversarial suffix does to it; included by rules.smk, which has the names used here. Nothing
# where the settings name no suffix.
SUFFIX_FIGURES, SUFFIX_METRICS = [], []


if config["suffix"]:
    SUFFIX_PLAN = {"Suffix": {"suffix": ["suffix"]}}

    use rule step as suffix with:
        input:
            tuned="<results>/{model}/models/harmful-{seed}/manifest.json",
            numbers="<results>/{model}/studies/harmful-{seed}/numbers.json",
            lists=f"{PATH}/lists.yaml",
        output:
            answers="<results>/{model}/suffix/{seed}.csv",
        resources:
            mem_mb=4000,
            runtime=40,
        params:
            **STEP(
                "suffix",
                lambda wildcards: {
                    "seed": int(wildcards.seed),
                    **{
                        key: config[key]
                        for key in ("split", "search", "effects", "suffix")
                    },
                },
            ),

    use rule step as summarise_suffix with:
        input:
            answers=[
                f"<results>/{{model}}/suffix/{seed}.csv"
                for seed in SEEDS[: config["suffix"]["n_seeds"]]
            ],
        output:
            metrics="<results>/{model}/suffix/metrics.json",
        params:
            **STEP("summarise_suffix", run=False),

    use rule step as draw_suffix with:
        input:
            rules.summarise_suffix.output.metrics,
            captions=captions(f"{PATH}/captions", SUFFIX_PLAN),
        output:
            **figure_files(
                "<results>/{model}", SUFFIX_PLAN, "Refusal direction", model="{model}"
            ),
        params:
            **STEP("suffix_figures", run=False),

    SUFFIX_FIGURES = rules.draw_suffix.output
    SUFFIX_METRICS = rules.summarise_suffix.output
