# my_result: train -> measure -> draw. Wiring only; every rule carries the hash of the sources that its step imports.
from common.engine.rules import flags, source_hash

NAME = "replications.my_result"
CAPTIONS = "replications/my_result/captions"
ENDINGS = ["png", "pdf", "csv", "json"]
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}


rule train:
    output:
        "<results>/toy/probe/probes.safetensors",
    log:
        "<logs>/train.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=2000,
        runtime=10,
    params:
        options=flags(
            config["probe"]["data"], seeds=config["seeds"], device=config["device"]
        ),
        sources=source_hash(f"{NAME}.train"),
    shell:
        "python -m replications.my_result.train {params.options} --out {output} > {log} 2>&1"


rule measure:
    input:
        probes=rules.train.output,
    output:
        "<results>/toy/probe/metrics.json",
    log:
        "<logs>/measure.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        sources=source_hash(f"{NAME}.measure"),
    shell:
        "python -m replications.my_result.measure --probes {input.probes} --metrics {output} > {log} 2>&1"


rule draw:
    input:
        metrics=rules.measure.output,
        caption=f"{CAPTIONS}/probe.rst",
    output:
        svg=report(
            "<results>/toy/probe/figures/probe.svg",
            caption="captions/probe.rst",
            category="My result",
            subcategory="Probe",
            labels={"figure": "Cosine with the planted direction"},
        ),
        others=[f"<results>/toy/probe/figures/probe.{ending}" for ending in ENDINGS],
    log:
        "<logs>/draw.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        sources=source_hash(f"{NAME}.draw"),
    shell:
        "python -m replications.my_result.draw --metrics {input.metrics} --caption {input.caption} --out {output.svg} > {log} 2>&1"


rule figures:
    input:
        rules.draw.output,


rule metrics:
    input:
        rules.measure.output,
