# Circuit tracing: train two-hop models -> transcoders -> measure, page; planted circuits beside them -> draw. Language
# models in language.smk.
from common.engine.rules import Steps, captions, figure_files, parts

STEP = Steps("replications.circuit_tracing", config)
CAPTIONS = "replications/circuit_tracing/captions"
TOY = "<results>/toy"
BOTH = {key: config[key] for key in ("toy", "measures")}
FIGURES = {
    "Graphs": {
        "graphs": {
            "two_hop": "A graph to read",
            "interventions": "Predictions and interventions",
            "top_features": "Most influential features, ablated and swapped",
            "dictionaries": "Sizes of graphs, names of features",
        },
    },
    "Planted circuit": {"planted": {"planted": "Planted edges recovered"}},
}


include: "../../common/engine/step.smk"


use rule step as train with:
    output:
        models=f"{TOY}/models/models.safetensors",
    resources:
        mem_mb=1500,
        runtime=20,
    params:
        **STEP("train", {key: config["toy"][key] for key in ("task", "model")}),


use rule step as dictionaries with:
    input:
        models=rules.train.output.models,
    output:
        dictionaries=f"{TOY}/dictionaries/dictionaries.safetensors",
        table=f"{TOY}/dictionaries/dictionaries.csv",
    resources:
        mem_mb=1500,
        runtime=20,
    params:
        **STEP("dictionaries", config["toy"]),


use rule step as measure with:
    input:
        models=rules.train.output.models,
        dictionaries=rules.dictionaries.output.dictionaries,
    output:
        metrics=f"{TOY}/graphs/metrics.json",
        prompts=f"{TOY}/graphs/prompts.csv",
        effects=f"{TOY}/graphs/effects.csv",
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        **STEP("measure", BOTH),


use rule step as page with:
    input:
        models=rules.train.output.models,
        dictionaries=rules.dictionaries.output.dictionaries,
        template="replications/circuit_tracing/viewer.html",
    output:
        page=report(
            f"{TOY}/viewer/two_hop.html",
            caption="captions/viewer.rst",
            category="Attribution graphs",
            subcategory="Circuit tracing",
            labels={"prompt": "two hops"},
        ),
        tracer=f"{TOY}/viewer/two_hop.json",
        nodes=f"{TOY}/graphs/nodes.csv",
        links=f"{TOY}/graphs/links.csv",
    params:
        **STEP("page", BOTH),


use rule step as measure_planted with:
    output:
        metrics=f"{TOY}/planted/metrics.json",
        table=f"{TOY}/planted/prompts.csv",
    resources:
        mem_mb=1500,
        runtime=20,
    params:
        **STEP("measure_planted", config["planted"]),


use rule step as draw with:
    input:
        rules.measure.output,
        rules.page.output,
        rules.measure_planted.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files(TOY, FIGURES, "Circuit tracing"),
    params:
        **STEP("figures", run=False),


GRAPHS = []
GRAPH_METRICS = []

if config["language"]:

    include: "language.smk"

    GRAPHS = expand(
        [*rules.draw_language.output, *rules.language.output.pages],
        model=config["models"],
    )
    GRAPH_METRICS = expand(
        f"{MODEL}/{{part}}/metrics.json",
        model=config["models"],
        part=[*parts(MODEL_FIGURES), *CROSSED],
    )


rule figures:
    input:
        rules.draw.output,
        rules.page.output,
        GRAPHS,


rule metrics:
    input:
        expand(f"{TOY}/{{part}}/metrics.json", part=parts(FIGURES)),
        GRAPH_METRICS,
