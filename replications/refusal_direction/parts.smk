# Refusal direction: parts that are measured on the tuned models where the settings name them; included by rules.smk, which
# has the names used here.
SAES = "<all_results>/sparse_autoencoders/{model}"


if config["guard"]:
    PART_FIGURES["Guardrail"] = {"guardrail": ["guardrail"]}

    use rule step as guardrail with:
        input:
            before="<models>/{model}/manifest.json",
            tuned=TUNED,
            directions=[f"{folder}/directions.safetensors" for folder in STUDIES],
            lists=f"{PATH}/lists.yaml",
        output:
            metrics="<results>/{model}/guardrail/metrics.json",
            conditions="<results>/{model}/guardrail/conditions.csv",
            numbers="<results>/{model}/guardrail/numbers.csv",
        log:
            "<logs>/{model}/guardrail.log",
        resources:
            **ON_GPU,
            mem_mb=2500,
            runtime=60,
        params:
            **STEP(
                "guardrail",
                {"seeds": SEEDS, "split": config["split"], "guard": config["guard"]},
            ),


if config["cone"]:
    PART_FIGURES["Cone"] = {"cone": ["cone"]}

    use rule step as cone with:
        input:
            tuned=TUNED,
            studies=[f"{folder}/numbers.json" for folder in STUDIES],
            lists=f"{PATH}/lists.yaml",
        output:
            metrics="<results>/{model}/cone/metrics.json",
            directions="<results>/{model}/cone/directions.csv",
        log:
            "<logs>/{model}/cone.log",
        resources:
            **ON_GPU,
            mem_mb=4000,
            runtime=60,
        params:
            **STEP(
                "cone",
                {"seeds": SEEDS, "split": config["split"], "cone": config["cone"]},
            ),


if config["transfer"]:
    PART_FIGURES["Dictionary transfer"] = {"transfer": ["transfer"]}

    use rule step as transfer with:
        input:
            before="<models>/{model}/manifest.json",
            tuned=TUNED,
            sham=f"<results>/{{model}}/models/food-{SEEDS[0]}/manifest.json",
            index=f"{SAES}/saes/index.json",
            held_out=f"{SAES}/activations/held_out.safetensors",
        output:
            metrics="<results>/{model}/transfer/metrics.json",
            models="<results>/{model}/transfer/models.csv",
        log:
            "<logs>/{model}/transfer.log",
        resources:
            **ON_GPU,
            mem_mb=4000,
            runtime=30,
        params:
            **STEP("transfer", {"seeds": SEEDS, "transfer": config["transfer"]}),


PART_METRICS = [
    f"<results>/{{model}}/{part}/metrics.json" for part in parts(PART_FIGURES)
]

if PART_FIGURES:

    use rule step as draw_parts with:
        input:
            PART_METRICS,
            captions=captions(f"{PATH}/captions", PART_FIGURES),
        output:
            **figure_files(
                "<results>/{model}", PART_FIGURES, "Refusal direction", model="{model}"
            ),
        log:
            "<logs>/{model}/draw_parts.log",
        params:
            **STEP("part_figures", run=False),
