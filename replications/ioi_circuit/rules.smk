# IOI: prompts -> one model pass -> baseline, logit lens, direct path -> figures, and prompts -> path patching ->
# verification by knock-outs -> figures, for every language model of the run.
from common.workflow import flags, source_hash

NAME = "replications.ioi_circuit"
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}


wildcard_constraints:
    picture="heat_map|strongest_heads",
    sweep_picture="sweeps|attention",
    test_picture="curve|completeness|minimality|grid|diagram",


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
        sources=source_hash(f"{NAME}.prompts"),
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
        sources=source_hash(f"{NAME}.collect"),
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
        sources=source_hash(f"{NAME}.baseline"),
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
        sources=source_hash(f"{NAME}.logit_lens"),
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
        sources=source_hash(f"{NAME}.direct_path"),
    shell:
        "python -m replications.ioi_circuit.direct_path --manifest {input.manifest} --prompts {input.prompts} --activations {input.activations} {params.options} --out {output.metrics} --heads {output.heads} > {log} 2>&1"


rule path_patching:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output,
    output:
        metrics="<results>/{model}/path_patching/metrics.json",
        heads="<results>/{model}/path_patching/heads.csv",
        attention="<results>/{model}/path_patching/attention.csv",
    log:
        "<logs>/{model}/path_patching.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=4000,
        runtime=30,
    params:
        options=flags(config["path_patching"], device=config["device"]),
        sources=source_hash(f"{NAME}.path_patching"),
    shell:
        "python -m replications.ioi_circuit.path_patching --manifest {input.manifest} --prompts {input.prompts} {params.options} --out {output.metrics} --heads {output.heads} --attention-table {output.attention} > {log} 2>&1"


rule verification:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output,
        heads=rules.path_patching.output.heads,
    output:
        metrics="<results>/{model}/verification/metrics.json",
        circuit="<results>/{model}/verification/circuit.csv",
        curve="<results>/{model}/verification/curve.csv",
        knockouts="<results>/{model}/verification/knockouts.csv",
        grid="<results>/{model}/verification/grid.csv",
    log:
        "<logs>/{model}/verification.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=4000,
        runtime=30,
    params:
        options=flags(config["verification"], device=config["device"]),
        sources=source_hash(f"{NAME}.verification"),
    shell:
        "python -m replications.ioi_circuit.verification --manifest {input.manifest} --prompts {input.prompts} --heads {input.heads} {params.options} --out {output.metrics} --circuit {output.circuit} --curve {output.curve} --knockouts {output.knockouts} --grid {output.grid} > {log} 2>&1"


rule ground_truth:
    output:
        metrics="<results>/toy/ground_truth/metrics.json",
        scores="<results>/toy/ground_truth/scores.csv",
    log:
        "<logs>/toy/ground_truth.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        options=flags(config["ground_truth"], seeds=config["seeds"]),
        sources=source_hash(f"{NAME}.ground_truth"),
    shell:
        "python -m replications.ioi_circuit.ground_truth {params.options} --out {output.metrics} --scores {output.scores} > {log} 2>&1"


rule figure_answers:
    input:
        answers=rules.baseline.output.answers,
        caption="replications/ioi_circuit/captions/answers.rst",
    output:
        svg=report(
            "<results>/{model}/baseline/figures/answers.svg",
            caption="captions/answers.rst",
            category="IOI circuit",
            subcategory="Baseline",
            labels={"figure": "logit difference", "model": "{model}"},
        ),
        others=multiext(
            "<results>/{model}/baseline/figures/answers",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/{model}/figure_answers.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.baseline_figures"),
    shell:
        "python -m replications.ioi_circuit.baseline_figures --answers {input.answers} --out {output.svg} > {log} 2>&1"


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
        sources=source_hash(f"{NAME}.logit_lens_figures"),
    shell:
        "python -m replications.ioi_circuit.logit_lens_figures --lens {input.lens} --out {output.svg} > {log} 2>&1"


rule figure_direct_path:
    input:
        heads=rules.direct_path.output.heads,
        caption="replications/ioi_circuit/captions/{picture}.rst",
    output:
        svg=report(
            "<results>/{model}/direct_path/figures/{picture}.svg",
            caption="captions/{picture}.rst",
            category="IOI circuit",
            subcategory="Direct path",
            labels={"figure": "{picture}", "model": "{model}"},
        ),
        others=multiext(
            "<results>/{model}/direct_path/figures/{picture}",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/{model}/figure_{picture}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.direct_path_figures"),
    shell:
        "python -m replications.ioi_circuit.direct_path_figures --heads {input.heads} --figure {wildcards.picture} --out {output.svg} > {log} 2>&1"


rule figure_path_patching:
    input:
        heads=rules.path_patching.output.heads,
        attention=rules.path_patching.output.attention,
        caption="replications/ioi_circuit/captions/{sweep_picture}.rst",
    output:
        svg=report(
            "<results>/{model}/path_patching/figures/{sweep_picture}.svg",
            caption="captions/{sweep_picture}.rst",
            category="IOI circuit",
            subcategory="Path patching",
            labels={"figure": "{sweep_picture}", "model": "{model}"},
        ),
        others=multiext(
            "<results>/{model}/path_patching/figures/{sweep_picture}",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/{model}/figure_{sweep_picture}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.path_patching_figures"),
    shell:
        "python -m replications.ioi_circuit.path_patching_figures --heads {input.heads} --attention {input.attention} --figure {wildcards.sweep_picture} --out {output.svg} > {log} 2>&1"


rule figure_verification:
    input:
        metrics=rules.verification.output.metrics,
        circuit=rules.verification.output.circuit,
        curve=rules.verification.output.curve,
        knockouts=rules.verification.output.knockouts,
        grid=rules.verification.output.grid,
        caption="replications/ioi_circuit/captions/{test_picture}.rst",
    output:
        svg=report(
            "<results>/{model}/verification/figures/{test_picture}.svg",
            caption="captions/{test_picture}.rst",
            category="IOI circuit",
            subcategory="Verification",
            labels={"figure": "{test_picture}", "model": "{model}"},
        ),
        others=multiext(
            "<results>/{model}/verification/figures/{test_picture}",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/{model}/figure_{test_picture}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.verification_figures"),
    shell:
        "python -m replications.ioi_circuit.verification_figures --metrics {input.metrics} --circuit {input.circuit} --curve {input.curve} --knockouts {input.knockouts} --grid {input.grid} --figure {wildcards.test_picture} --out {output.svg} > {log} 2>&1"


rule figure_ground_truth:
    input:
        scores=rules.ground_truth.output.scores,
        caption="replications/ioi_circuit/captions/planted.rst",
    output:
        svg=report(
            "<results>/toy/ground_truth/figures/planted.svg",
            caption="captions/planted.rst",
            category="IOI circuit",
            subcategory="Ground truth",
            labels={"figure": "planted circuit", "model": "toy"},
        ),
        others=multiext(
            "<results>/toy/ground_truth/figures/planted",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/toy/figure_planted.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.ground_truth_figures"),
    shell:
        "python -m replications.ioi_circuit.ground_truth_figures --scores {input.scores} --out {output.svg} > {log} 2>&1"


rule figures:
    input:
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
            ],
        ),
