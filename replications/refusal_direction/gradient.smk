# Refusal direction: other directions that end refusal, found by gradient; included by rules.smk, which has the names used
# here. Nothing where the settings name no such search.
GRADIENT_FIGURES, GRADIENT_METRICS = [], []


if config["gradient"]:
    GRADIENT_PLAN = {"Gradient": {"gradient": ["gradient"]}}

    use rule step as gradient with:
        input:
            before="<models>/{model}/manifest.json",
            tuned="<results>/{model}/models/harmful-{seed}/manifest.json",
            numbers="<results>/{model}/studies/harmful-{seed}/numbers.json",
            lists=f"{PATH}/lists.yaml",
        output:
            answers="<results>/{model}/gradient/{seed}.csv",
            cosines="<results>/{model}/gradient/{seed}.json",
        resources:
            mem_mb=5000,
            runtime=60,
        params:
            **STEP(
                "gradient",
                lambda wildcards: {
                    "seed": int(wildcards.seed),
                    **{
                        key: config[key]
                        for key in ("split", "search", "effects", "gradient")
                    },
                },
            ),

    use rule step as summarise_gradient with:
        input:
            answers=[f"<results>/{{model}}/gradient/{seed}.csv" for seed in SEEDS],
            cosines=[f"<results>/{{model}}/gradient/{seed}.json" for seed in SEEDS],
        output:
            metrics="<results>/{model}/gradient/metrics.json",
        params:
            **STEP("summarise_gradient", run=False),

    use rule step as draw_gradient with:
        input:
            rules.summarise_gradient.output.metrics,
            captions=captions(f"{PATH}/captions", GRADIENT_PLAN),
        output:
            **figure_files(
                "<results>/{model}",
                GRADIENT_PLAN,
                "Refusal direction",
                model="{model}",
            ),
        params:
            **STEP("gradient_figures", run=False),

    GRADIENT_FIGURES = rules.draw_gradient.output
    GRADIENT_METRICS = rules.summarise_gradient.output
