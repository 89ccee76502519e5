# Removal (measure -> draw) and demonstration (answers -> page), each where config.yaml has its block.
from common.data.models import registry

if config["removal"]:
    REMOVAL_FIGURES = {"Removal": {"removal": ["removal"]}}

    use rule step as measure_removal with:
        input:
            tables=expand(f"{STEERING}/texts/removing-{{seed}}.csv", **OF_EVERY_SEED),
            scores=expand(
                f"{STEERING}/texts/removing-{{seed}}.safetensors", **OF_EVERY_SEED
            ),
        output:
            metrics="<results>/{model}/removal/metrics.json",
        log:
            "<logs>/{model}/measure_removal.log",
        params:
            **STEP("measure_removal"),

    use rule step as draw_removal with:
        input:
            rules.measure_removal.output,
            captions=captions(CAPTIONS, REMOVAL_FIGURES),
        output:
            **figure_files(
                "<results>/{model}",
                REMOVAL_FIGURES,
                "Feature steering",
                model="{model}",
            ),
        log:
            "<logs>/{model}/draw_removal.log",
        params:
            **STEP("figures", run=False),

    MORE_FIGURES += expand(rules.draw_removal.output, model=config["models"])
    MORE_METRICS += expand(rules.measure_removal.output, model=config["models"])


if config["demonstration"]:
    DEMONSTRATION = "<results>/{model}/demonstration"
    ABOUT_PAGE = {
        "caption": "captions/demonstration.rst",
        "category": "Feature steering",
        "subcategory": "Demonstration",
    }
    CHAT_MODELS = [
        name for name in config["models"] if registry()[name].chat_template != "none"
    ]

    use rule step as demonstrate with:
        input:
            manifest="<models>/{model}/manifest.json",
            index=index_of_saes,
            latents=rules.prepare.output.latents,
        output:
            answers=f"{DEMONSTRATION}/answers.json",
        log:
            "<logs>/{model}/demonstrate.log",
        resources:
            **ON_GPU,
            mem_mb=memory_of,
            runtime=30,
        params:
            **STEP("demonstrate", config["demonstration"]),

    use rule step as page with:
        input:
            answers=rules.demonstrate.output.answers,
            caption=f"{CAPTIONS}/demonstration.rst",
        output:
            page=report(
                f"{DEMONSTRATION}/page.html",
                labels={"figure": "page", "model": "{model}"},
                **ABOUT_PAGE,
            ),
            svg=report(
                f"{DEMONSTRATION}/figures/answers.svg",
                labels={"figure": "answers", "model": "{model}"},
                **ABOUT_PAGE,
            ),
            others=multiext(
                f"{DEMONSTRATION}/figures/answers", ".png", ".pdf", ".csv", ".json"
            ),
        log:
            "<logs>/{model}/page.log",
        params:
            **STEP("page", run=False),

    MORE_FIGURES += expand(rules.page.output, model=CHAT_MODELS)
