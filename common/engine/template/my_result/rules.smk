# my_result: train -> measure -> draw. Rules name inputs and outputs; the step's `Files` has the same names.
from common.engine.rules import Steps, captions, figure_files

STEP = Steps("replications.my_result", config)
CAPTIONS = "replications/my_result/captions"
FIGURES = {"Probe": {"probe": {"probe": "Cosine with the planted direction"}}}


include: "../../common/engine/step.smk"


use rule step as train with:
    output:
        probes="<results>/toy/probe/probes.safetensors",
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        **STEP("train", config["probe"]["data"]),


use rule step as measure with:
    input:
        probes=rules.train.output.probes,
    output:
        metrics="<results>/toy/probe/metrics.json",
    params:
        **STEP("measure", run=False),


use rule step as draw with:
    input:
        rules.measure.output,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files("<results>/toy", FIGURES, "My result"),
    params:
        **STEP("figures", run=False),


rule figures:
    input:
        rules.draw.output,


rule metrics:
    input:
        rules.measure.output,
