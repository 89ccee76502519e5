# IOI: prompts -> one model pass -> baseline, logit lens, direct path, and prompts -> path patching ->
# verification by knock-outs; then all figures of a model in one step. For every language model of the run. The circuit
# is also tested in the models that `refusal_direction` fine-tunes.
from common.engine.rules import captions, figure_files, flags, parts, source_hash

CAPTIONS = "replications/ioi_circuit/captions"
FIGURES = {
    "Baseline": {"baseline": ["answers", "adversarial"]},
    "Logit lens": {"logit_lens": ["lens"]},
    "Direct path": {"direct_path": ["heat_map", "strongest_heads"]},
    "Path patching": {
        "path_patching": ["sweeps", "attention", "steered", "random_tokens"]
    },
    "Signals": {"signals": ["signals"]},
    "MLPs": {"mlp_knockout": ["mlps"]},
    "Verification": {
        "verification": ["curve", "completeness", "minimality", "grid", "diagram"]
    },
    "Activation patching": {"activation_patching": ["streams", "patched_heads"]},
    "Automated discovery": {
        "edge_attribution": ["edge_curves", "attribution"],
        **({"edge_search": ["searched_edges"]} if config["edge_search"] else {}),
    },
}
GROUND_TRUTH = {
    "Ground truth": {
        "ground_truth": ["planted"],
        "edge_ground_truth": ["planted_edges"],
    }
}

TUNED_FIGURES = {"One fine-tune away": {"fine_tuned": ["fine_tuned"]}}
TUNED = [name for name in config["models"] if name in config["fine_tuned"]["models"]]

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
    threads: 1
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
    threads: 1
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
    threads: 1
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=10,
    params:
        options=flags(config["direct_path"], device=config["device"]),
        sources=source_hash("replications.ioi_circuit.direct_path"),
    shell:
        "python -m replications.ioi_circuit.direct_path --manifest {input.manifest} --prompts {input.prompts} --activations {input.activations} {params.options} --out {output.metrics} --heads {output.heads} > {log} 2>&1"


include: "circuit.smk"
include: "discovery.smk"


SEARCHED = []

if config["edge_search"]:

    include: "search.smk"

    SEARCHED = rules.edge_search.output


rule draw:
    input:
        rules.baseline.output,
        rules.logit_lens.output,
        rules.direct_path.output,
        rules.path_patching.output,
        rules.signals.output,
        rules.mlp_knockout.output,
        rules.verification.output,
        rules.activation_patching.output,
        rules.edge_attribution.output,
        SEARCHED,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files("<results>/{model}", FIGURES, "IOI circuit", model="{model}"),
    log:
        "<logs>/{model}/draw.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=5,
    params:
        sources=source_hash("replications.ioi_circuit.draw"),
    shell:
        "python -m replications.ioi_circuit.draw --captions {input.captions} --out {output.svg} > {log} 2>&1"


rule figures:
    input:
        rules.figure_transfer.output,
        rules.draw_ground_truth.output,
        expand(rules.draw_fine_tuned.output, model=TUNED),
        expand(rules.draw.output, model=config["models"]),


rule metrics:
    input:
        rules.ground_truth.output.metrics,
        rules.edge_ground_truth.output.metrics,
        expand(rules.fine_tuned.output.metrics, model=TUNED),
        expand(
            "<results>/{model}/{part}/metrics.json",
            model=config["models"],
            part=parts(FIGURES),
        ),
