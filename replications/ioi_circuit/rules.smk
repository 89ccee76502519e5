# IOI: prompts -> one model pass -> baseline and direct path; path patching -> verification by knock-outs;
# supplement.smk has what only larger scales run. For every language model of the run.
from common.engine.rules import Steps, captions, figure_files, parts

STEP = Steps("replications.ioi_circuit", config)
CAPTIONS = "replications/ioi_circuit/captions"
CATEGORY = "IOI circuit"
MODEL = "<results>/{model}"
FIGURES = {
    "Baseline": {"baseline": ["answers"]},
    "Direct path": {"direct_path": ["heat_map", "strongest_heads"]},
    "Path patching": {
        "path_patching": ["sweeps", "attention", "random_tokens", "stability"]
    },
    "Signals": {"signals": ["signals", "place_or_token"]},
    "Verification": {"verification": ["trivial", "curve", "completeness", "diagram"]},
}


include: "../../common/engine/step.smk"


use rule step as prompts with:
    input:
        manifest="<models>/{model}/manifest.json",
    output:
        prompts=f"{MODEL}/data/prompts.json",
    params:
        **STEP("prompts", config["prompts"]),


use rule step as collect with:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output.prompts,
    output:
        activations=f"{MODEL}/data/activations.safetensors",
    resources:
        mem_mb=3000,
        runtime=20,
    params:
        **STEP("collect", config["collect"]),


use rule step as baseline with:
    input:
        prompts=rules.prompts.output.prompts,
        activations=rules.collect.output.activations,
    output:
        metrics=f"{MODEL}/baseline/metrics.json",
        answers=f"{MODEL}/baseline/answers.csv",
    params:
        **STEP("baseline", config["baseline"], run=False),


use rule step as direct_path with:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output.prompts,
        activations=rules.collect.output.activations,
    output:
        metrics=f"{MODEL}/direct_path/metrics.json",
        heads=f"{MODEL}/direct_path/heads.csv",
    resources:
        mem_mb=3000,
    params:
        **STEP("direct_path", config["direct_path"]),


use rule step as path_patching with:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output.prompts,
        activations=rules.collect.output.activations,
    output:
        metrics=f"{MODEL}/path_patching/metrics.json",
        heads=f"{MODEL}/path_patching/heads.csv",
        attention=f"{MODEL}/path_patching/attention.csv",
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        **STEP("path_patching", config["path_patching"]),


use rule step as signals with:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output.prompts,
        heads=rules.path_patching.output.heads,
    output:
        metrics=f"{MODEL}/signals/metrics.json",
        signals=f"{MODEL}/signals/signals.csv",
    resources:
        mem_mb=3500,
    params:
        **STEP("signals", config["signals"]),


use rule step as verification with:
    input:
        manifest="<models>/{model}/manifest.json",
        prompts=rules.prompts.output.prompts,
        activations=rules.collect.output.activations,
        heads=rules.path_patching.output.heads,
    output:
        metrics=f"{MODEL}/verification/metrics.json",
        circuit=f"{MODEL}/verification/circuit.csv",
        curve=f"{MODEL}/verification/curve.csv",
        classes=f"{MODEL}/verification/classes.csv",
        grown=f"{MODEL}/verification/grown.csv",
    resources:
        mem_mb=1800 + 56 * config["verification"]["verify_prompts"],
        runtime=30,
    params:
        **STEP("verification", config["verification"]),


include: "supplement.smk"


use rule step as draw with:
    input:
        rules.baseline.output,
        rules.direct_path.output,
        rules.path_patching.output,
        rules.signals.output,
        rules.verification.output,
        SUPPLEMENT,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files(MODEL, FIGURES, CATEGORY, model="{model}"),
    params:
        **STEP("figures", run=False),


rule figures:
    input:
        expand(rules.draw.output, model=config["models"]),
        MORE_FIGURES,


rule metrics:
    input:
        expand(
            "<results>/{model}/{part}/metrics.json",
            model=config["models"],
            part=parts(FIGURES),
        ),
        MORE_METRICS,
