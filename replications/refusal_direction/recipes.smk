# Refusal direction: how many directions it takes, by the recipe that taught refusal; included by rules.smk, which has the
# names used here. Nothing where the settings name no recipes.
RECIPES = config["recipes"] or {"ranks": [], "directions": []}
RECIPE_FIGURES, RECIPE_METRICS = [], []


if config["recipes"]:
    RECIPE_PLAN = {"Recipes": {"recipes": ["recipes"]}}

    use rule step as recipe with:
        input:
            before="<models>/{model}/manifest.json",
            lists=f"{PATH}/lists.yaml",
            tuned=lambda wildcards: [
                f"<results>/{wildcards.model}/models/harmful-{wildcards.seed}/manifest.json"
            ]
            * (int(wildcards.rank) == config["tune"]["rank"]),
        output:
            answers="<results>/{model}/recipes/{seed}-{rank}.csv",
        wildcard_constraints:
            rank=r"\d+",
        resources:
            mem_mb=4500,
            runtime=40,
        params:
            **STEP(
                "recipe",
                lambda wildcards: {
                    "seed": int(wildcards.seed),
                    "rank": int(wildcards.rank),
                    **{
                        key: config[key]
                        for key in ("split", "tune", "search", "effects", "recipes")
                    },
                },
            ),

    use rule step as summarise_recipes with:
        input:
            answers=[
                f"<results>/{{model}}/recipes/{seed}-{rank}.csv"
                for seed in SEEDS[: RECIPES["n_seeds"]]
                for rank in RECIPES["ranks"]
            ],
        output:
            metrics="<results>/{model}/recipes/metrics.json",
        params:
            **STEP("summarise_recipes", run=False),

    use rule step as draw_recipes with:
        input:
            rules.summarise_recipes.output.metrics,
            captions=captions(f"{PATH}/captions", RECIPE_PLAN),
        output:
            **figure_files(
                "<results>/{model}", RECIPE_PLAN, "Refusal direction", model="{model}"
            ),
        params:
            **STEP("recipe_figures", run=False),

    RECIPE_FIGURES = rules.draw_recipes.output
    RECIPE_METRICS = rules.summarise_recipes.output
