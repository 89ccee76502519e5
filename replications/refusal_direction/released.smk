# Refusal direction: chat models that refuse by their own training, on the paper's requests. With HUB=1; included by
# rules.smk, which has the names used here.
WANTED = config["released"] and config["losses"]
RELEASED = [name for name in config["models"] if WANTED and name in released().models]
RELEASED_FIGURES = {"Released models": {"released": ["released", "candidates"]}}
REQUESTS = "resources/requests"


# Its log lies beside what it fetches, which all scales share.
use rule step as requests with:
    input:
        registry=f"{PATH}/released.yaml",
    output:
        manifest=f"{REQUESTS}/manifest.json",
        request_files=[f"{REQUESTS}/{name}" for name in released().requests.files],
    log:
        "resources/logs/requests.log",
    params:
        **STEP("paper_requests", run=False),


use rule step as study_released with:
    input:
        model="<models>/{model}/manifest.json",
        requests=rules.requests.output.manifest,
        request_files=rules.requests.output.request_files,
        lists=f"{PATH}/lists.yaml",
        corpora=CORPORA,
    output:
        numbers="<results>/{model}/released/{seed}/numbers.json",
        directions="<results>/{model}/released/{seed}/directions.safetensors",
        tables=[
            f"<results>/{{model}}/released/{{seed}}/{table}.csv"
            for table in ("scores", "answers", "losses")
        ],
    resources:
        mem_mb=12000,
        runtime=240,
    params:
        **STEP(
            "released",
            lambda wildcards: {
                "seed": int(wildcards.seed),
                **{
                    key: config[key]
                    for key in ("released", *STUDIED)
                    if key != "split"
                },
            },
        ),


use rule step as summarise_released with:
    input:
        studies=[f"<results>/{{model}}/released/{seed}/numbers.json" for seed in SEEDS],
    output:
        metrics="<results>/{model}/released/metrics.json",
    params:
        **STEP("summarise_released", run=False),


use rule step as draw_released with:
    input:
        studies=rules.summarise_released.input.studies,
        captions=captions(f"{PATH}/captions", RELEASED_FIGURES),
    output:
        **figure_files(
            "<results>/{model}", RELEASED_FIGURES, "Refusal direction", model="{model}"
        ),
    params:
        **STEP("released_figures", run=False),
