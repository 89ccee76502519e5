# The language model: harvest -> train -> measure -> feature browser. Included by rules.smk.
SWEEP = config["sweep"]
CHAT = Corpora(**config["corpora"]).chat
TOKENS = config["corpora"]["docs_tokens"] + config["corpora"]["chat_tokens"]
SECOND = (
    {"second": "<results>/{model}/activations/second/manifest.json"}
    if SWEEP["second"]
    else {}
)
TEXT = {
    "docs": "<corpora>/python-docs/manifest.json",
    "chat": f"<corpora>/{CHAT}/manifest.json",
}
MEASURE = {key: config[key] for key in ("sweep", "evaluation")}
SAES = [one.name for one in everything(Sweep(**SWEEP), SEEDS)]
SHOWN = [central(Sweep(**SWEEP), SEEDS[0])]


use rule step as collect with:
    input:
        **TEXT,
        manifest="<models>/{model}/manifest.json",
    output:
        **SECOND,
        main="<results>/{model}/activations/main/manifest.json",
        held_out="<results>/{model}/activations/held_out.safetensors",
    priority: 2
    resources:
        mem_mb=2000 + (5 if SWEEP["second"] else 3) * TOKENS // 1000,
        runtime=60,
    params:
        **STEP("collect", config["corpora"]),


use rule step as train_language with:
    input:
        **SECOND,
        main=rules.collect.output.main,
    output:
        index="<results>/{model}/saes/index.json",
        starts="<results>/{model}/saes/starts.safetensors",
        traces="<results>/{model}/language/traces.csv",
    priority: 2
    resources:
        mem_mb=3800 + 230 * len(SAES),
        runtime=240,
    params:
        **STEP("train_language", SWEEP),


use rule step as measure_language with:
    input:
        **SECOND,
        **TEXT,
        manifest="<models>/{model}/manifest.json",
        index=rules.train_language.output.index,
        main=rules.collect.output.main,
        held_out=rules.collect.output.held_out,
    output:
        metrics="<results>/{model}/language/metrics.json",
        table="<results>/{model}/language/saes.csv",
    priority: 2  # the longest of the steps that are ready by then
    resources:
        mem_mb=3600 + 290 * len(SAES),
        runtime=60,
    params:
        **STEP("measure_language", MEASURE),


use rule step as measure_errors with:
    input:
        **SECOND,
        manifest="<models>/{model}/manifest.json",
        index=rules.train_language.output.index,
        main=rules.collect.output.main,
        held_out=rules.collect.output.held_out,
    output:
        metrics="<results>/{model}/errors/metrics.json",
        table="<results>/{model}/errors/saes.csv",
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        **STEP("measure_errors", MEASURE),


use rule step as measure_latents with:
    input:
        manifest="<models>/{model}/manifest.json",
        index=rules.train_language.output.index,
        starts=rules.train_language.output.starts,
        main=rules.collect.output.main,
        held_out=rules.collect.output.held_out,
    output:
        metrics="<results>/{model}/latents/metrics.json",
        latents="<results>/{model}/latents/latents.csv",
        lengths="<results>/{model}/latents/lengths.csv",
        examples="<results>/{model}/latents/examples.csv",
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        **STEP("measure_latents", MEASURE),


use rule step as named_features with:
    input:
        manifest="<models>/{model}/manifest.json",
        index=rules.train_language.output.index,
        main=rules.collect.output.main,
        held_out=rules.collect.output.held_out,
    output:
        metrics="<results>/{model}/named_features/metrics.json",
        table="<results>/{model}/named_features/patterns.csv",
    resources:
        mem_mb=3000 + 140 * len(SAES),
        runtime=30,
    params:
        **STEP("named_features", MEASURE),


# A page for the main dictionary of the first seed; the target `browser` adds those of all other SAEs.
use rule step as browse with:
    input:
        manifest="<models>/{model}/manifest.json",
        index=rules.train_language.output.index,
        activations=[rules.collect.output.main, *SECOND.values()],
        held_out=rules.collect.output.held_out,
        template="common/saes/browser.html",
        caption=f"{CAPTIONS}/browser.rst",
    output:
        pages=[
            report(
                f"<results>/{{model}}/browser/{name}.html",
                caption="captions/browser.rst",
                category="Feature browser",
                subcategory="Sparse autoencoders",
                labels={"SAE": name, "model": "{model}"},
            )
            for name in SHOWN
        ],
    resources:
        mem_mb=5200,
        runtime=20,
    params:
        **STEP("browse", run=False),


# Its log lies in `on_demand`, which the cost of a run leaves out.
use rule browse as browse_rest with:
    output:
        pages=[
            f"<results>/{{model}}/browser/others/{name}.html"
            for name in SAES
            if name not in SHOWN
        ],
    log:
        "<logs>/{model}/on_demand/browse_rest.log",
    resources:
        mem_mb=6000,
        runtime=120,


if config["reference"]:

    # The dictionary that the repository ships (config/saes.yaml), made again and compared with the shipped one.
    use rule step as reference with:
        input:
            manifest="<models>/{model}/manifest.json",
            docs="<corpora>/python-docs/manifest.json",
            chat="<corpora>/self-chat/manifest.json",
            registry="config/saes.yaml",
        output:
            index="<results>/{model}/reference/saes/index.json",
            metrics="<results>/{model}/reference/metrics.json",
            topics="<results>/{model}/reference/topics.csv",
        resources:
            mem_mb=5500,
            runtime=240,
        params:
            **STEP("reference", config["reference"]),
