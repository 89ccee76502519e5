# Probing: what is read off a language model beside what acts on it, for every language model of the run.
from common.engine.rules import Steps, captions, figure_files, parts

STEP = Steps("replications.probing", config)
CAPTIONS = "replications/probing/captions"
MODEL = "<results>/{model}"
PYTHON, CHAT = (
    f"<corpora>/{name}/manifest.json" for name in ("python-docs", "self-chat")
)
TABLES = [f"replications/probing/{name}.yaml" for name in ("statements", "words")]
FIGURES = {
    "Truth": {"truth": ["read_and_act", "layers", "transfer"]},
    "Task vectors": {"task_vectors": ["tasks"]},
    "Massive activations": {"massive_activations": ["massive"]},
    "Lenses": {"lenses": ["lenses"]},
    "Selectivity": {"selectivity": ["selectivity"]},
}


include: "../../common/engine/step.smk"


use rule step as truth with:
    input:
        manifest="<models>/{model}/manifest.json",
        tables=TABLES,
    output:
        metrics=f"{MODEL}/truth/metrics.json",
        layers=f"{MODEL}/truth/layers.csv",
        readings=f"{MODEL}/truth/readings.csv",
        transfer=f"{MODEL}/truth/transfer.csv",
        patches=f"{MODEL}/truth/patches.csv",
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        **STEP("truth", config["truth"]),


use rule step as task_vectors with:
    input:
        manifest="<models>/{model}/manifest.json",
        tables=TABLES,
    output:
        metrics=f"{MODEL}/task_vectors/metrics.json",
        words=f"{MODEL}/task_vectors/words.csv",
        blocks=f"{MODEL}/task_vectors/blocks.csv",
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        **STEP("task_vectors", config["task_vectors"]),


use rule step as massive_activations with:
    input:
        manifest="<models>/{model}/manifest.json",
        corpora=[CHAT, PYTHON],
    output:
        metrics=f"{MODEL}/massive_activations/metrics.json",
        layers=f"{MODEL}/massive_activations/layers.csv",
        stream=f"{MODEL}/massive_activations/stream.csv",
        documents=f"{MODEL}/massive_activations/documents.csv",
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        **STEP("massive_activations", config["massive_activations"]),


use rule step as lenses with:
    input:
        manifest="<models>/{model}/manifest.json",
        corpora=[CHAT, PYTHON],
    output:
        metrics=f"{MODEL}/lenses/metrics.json",
        layers=f"{MODEL}/lenses/layers.csv",
    resources:
        mem_mb=2500 + config["lenses"]["train"] * config["lenses"]["length"] // 3,
        runtime=30,
    params:
        **STEP("lenses", config["lenses"]),


use rule step as selectivity with:
    input:
        manifest="<models>/{model}/manifest.json",
        corpora=[PYTHON],
    output:
        metrics=f"{MODEL}/selectivity/metrics.json",
        layers=f"{MODEL}/selectivity/layers.csv",
    resources:
        mem_mb=2500
        + config["selectivity"]["train"] * config["selectivity"]["length"] // 6,
        runtime=30,
    params:
        **STEP("selectivity", config["selectivity"]),


use rule step as draw with:
    input:
        rules.truth.output,
        rules.task_vectors.output,
        rules.massive_activations.output,
        rules.lenses.output,
        rules.selectivity.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files(MODEL, FIGURES, "Probing", model="{model}"),
    params:
        **STEP("figures", run=False),


rule figures:
    input:
        expand(rules.draw.output, model=config["models"]),


rule metrics:
    input:
        expand(
            "<results>/{model}/{part}/metrics.json",
            model=config["models"],
            part=parts(FIGURES),
        ),
