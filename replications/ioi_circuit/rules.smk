# IOI: prompts -> one model pass -> baseline, logit lens, direct path -> figures, and prompts -> path patching ->
# verification by knock-outs -> figures, for every language model of the run.
from common.workflow import flags, source_hash

ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}


rule prompts:
    input:
        manifest="<models>/{model}/manifest.json",
    output:
        "<results>/{model}/data/prompts.json",
    log:
        "<logs>/{model}/prompts.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=5,
    params:
        options=flags(config["prompts"], seeds=config["seeds"]),
        sources=source_hash("replications.ioi_circuit.prompts"),
    shell:
        "python -m replications.ioi_circuit.prompts --manifest {input.manifest} {params.options} --out {output} > {log} 2>&1"


rule collect:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output,
    output:
        "<results>/{model}/data/activations.safetensors",
    log:
        "<logs>/{model}/collect.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=20,
    params:
        options=flags(config["collect"], device=config["device"]),
        sources=source_hash("replications.ioi_circuit.collect"),
    shell:
        "python -m replications.ioi_circuit.collect --manifest {input.manifest} --prompts {input.prompts} {params.options} --out {output} > {log} 2>&1"


rule baseline:
    input:
        prompts=rules.prompts.output,
        activations=rules.collect.output,
    output:
        metrics="<results>/{model}/baseline/metrics.json",
        answers="<results>/{model}/baseline/answers.csv",
    log:
        "<logs>/{model}/baseline.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        options=flags(config["baseline"]),
        sources=source_hash("replications.ioi_circuit.baseline"),
    shell:
        "python -m replications.ioi_circuit.baseline --prompts {input.prompts} --activations {input.activations} {params.options} --out {output.metrics} --answers {output.answers} > {log} 2>&1"


rule logit_lens:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output,
        activations=rules.collect.output,
    output:
        metrics="<results>/{model}/logit_lens/metrics.json",
        lens="<results>/{model}/logit_lens/lens.csv",
    log:
        "<logs>/{model}/logit_lens.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=2500,
        runtime=10,
    params:
        options=flags(config["logit_lens"], device=config["device"]),
        sources=source_hash("replications.ioi_circuit.logit_lens"),
    shell:
        "python -m replications.ioi_circuit.logit_lens --manifest {input.manifest} --prompts {input.prompts} --activations {input.activations} {params.options} --out {output.metrics} --lens {output.lens} > {log} 2>&1"


rule direct_path:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output,
        activations=rules.collect.output,
    output:
        metrics="<results>/{model}/direct_path/metrics.json",
        heads="<results>/{model}/direct_path/heads.csv",
    log:
        "<logs>/{model}/direct_path.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=10,
    params:
        options=flags(config["direct_path"], device=config["device"]),
        sources=source_hash("replications.ioi_circuit.direct_path"),
    shell:
        "python -m replications.ioi_circuit.direct_path --manifest {input.manifest} --prompts {input.prompts} --activations {input.activations} {params.options} --out {output.metrics} --heads {output.heads} > {log} 2>&1"


for PICTURE in ["answers", "adversarial"]:

    rule:
        name:
            f"figure_{PICTURE}"
        input:
            answers=rules.baseline.output.answers,
            metrics=rules.baseline.output.metrics,
            caption=f"replications/ioi_circuit/captions/{PICTURE}.rst",
        output:
            svg=report(
                f"<results>/{{model}}/baseline/figures/{PICTURE}.svg",
                caption=f"captions/{PICTURE}.rst",
                category="IOI circuit",
                subcategory="Baseline",
                labels={"figure": PICTURE, "model": "{model}"},
            ),
            others=multiext(
                f"<results>/{{model}}/baseline/figures/{PICTURE}",
                ".png",
                ".pdf",
                ".csv",
                ".json",
            ),
        log:
            f"<logs>/{{model}}/figure_{PICTURE}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            figure=PICTURE,
            sources=source_hash("replications.ioi_circuit.baseline_figures"),
        shell:
            "python -m replications.ioi_circuit.baseline_figures --answers {input.answers} --metrics {input.metrics} --figure {params.figure} --out {output.svg} > {log} 2>&1"


rule figure_lens:
    input:
        lens=rules.logit_lens.output.lens,
        caption="replications/ioi_circuit/captions/lens.rst",
    output:
        svg=report(
            "<results>/{model}/logit_lens/figures/lens.svg",
            caption="captions/lens.rst",
            category="IOI circuit",
            subcategory="Logit lens",
            labels={"figure": "logit lens over layers", "model": "{model}"},
        ),
        others=multiext(
            "<results>/{model}/logit_lens/figures/lens",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/{model}/figure_lens.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash("replications.ioi_circuit.logit_lens_figures"),
    shell:
        "python -m replications.ioi_circuit.logit_lens_figures --lens {input.lens} --out {output.svg} > {log} 2>&1"


for PICTURE in ["heat_map", "strongest_heads"]:

    rule:
        name:
            f"figure_{PICTURE}"
        input:
            heads=rules.direct_path.output.heads,
            caption=f"replications/ioi_circuit/captions/{PICTURE}.rst",
        output:
            svg=report(
                f"<results>/{{model}}/direct_path/figures/{PICTURE}.svg",
                caption=f"captions/{PICTURE}.rst",
                category="IOI circuit",
                subcategory="Direct path",
                labels={"figure": PICTURE, "model": "{model}"},
            ),
            others=multiext(
                f"<results>/{{model}}/direct_path/figures/{PICTURE}",
                ".png",
                ".pdf",
                ".csv",
                ".json",
            ),
        log:
            f"<logs>/{{model}}/figure_{PICTURE}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            figure=PICTURE,
            sources=source_hash("replications.ioi_circuit.direct_path_figures"),
        shell:
            "python -m replications.ioi_circuit.direct_path_figures --heads {input.heads} --figure {params.figure} --out {output.svg} > {log} 2>&1"


include: "circuit.smk"
include: "discovery.smk"


rule figures:
    input:
        multiext(
            "<results>/models/transfer/figures/transfer",
            ".svg",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
        multiext(
            "<results>/toy/ground_truth/figures/planted",
            ".svg",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
        expand(
            "<results>/{model}/{figure}.{ending}",
            model=config["models"],
            figure=[
                "baseline/figures/answers",
                "baseline/figures/adversarial",
                "logit_lens/figures/lens",
                "direct_path/figures/heat_map",
                "direct_path/figures/strongest_heads",
                "path_patching/figures/sweeps",
                "path_patching/figures/attention",
                "verification/figures/curve",
                "verification/figures/completeness",
                "verification/figures/minimality",
                "verification/figures/grid",
                "verification/figures/diagram",
                "activation_patching/figures/streams",
                "activation_patching/figures/patched_heads",
                "edge_attribution/figures/edge_curves",
                "edge_attribution/figures/attribution",
            ],
            ending=["svg", "png", "pdf", "csv", "json"],
        ),


rule metrics:
    input:
        rules.ground_truth.output.metrics,
        expand(
            "<results>/{model}/{part}/metrics.json",
            model=config["models"],
            part=[
                "baseline",
                "logit_lens",
                "direct_path",
                "path_patching",
                "verification",
                "activation_patching",
                "edge_attribution",
            ],
        ),
