# Induction heads: train every arm (all seeds in one batched job, measured all along) -> measure -> draw, here; models
# trained on natural text in text.smk; the same questions of every language model in models.smk. A part whose settings
# are null does not run.
from common.engine.rules import Steps, captions, figure_files, parts

STEP = Steps("replications.induction_heads", config)
TOY = "<results>/toy"
CAPTIONS = "replications/induction_heads/captions"
ARMS = {name: arm for name, arm in config["arms"].items() if arm}
TWO_BACK = (
    {"keys": "smeared_two_back", **config["two_back"]} if config["two_back"] else {}
)
if TWO_BACK:
    ARMS["two_layers_two_back"] = {**ARMS["two_layers_smeared"], **TWO_BACK}
HELD_OUT = {"held_out": config["training"]["held_out"]}
PHASE_CHANGE = [
    "co_occurrence",
    "loss_curves",
    "head_scores",
    "paths",
]
FIGURES = {
    "Phase change": {"phase_change": PHASE_CHANGE},
    "Mechanism": {"heads": ["mechanism", "circuits"]},
}


arm_files = lambda arms: expand(f"{TOY}/arms/{{arm}}.safetensors", arm=arms)


include: "../../common/engine/step.smk"


use rule step as train with:
    output:
        models=f"{TOY}/arms/{{arm}}.safetensors",
    wildcard_constraints:
        arm="|".join(ARMS),
    resources:
        mem_mb=2500,
        runtime=60,
    params:
        **STEP(
            "train",
            lambda wildcards: {
                "arm": ARMS[wildcards.arm],
                "training": config["training"],
            },
        ),


use rule step as measure_phase_change with:
    input:
        arms=arm_files(ARMS),
    output:
        metrics=f"{TOY}/phase_change/metrics.json",
        curves=f"{TOY}/phase_change/curves.csv",
        heads=f"{TOY}/phase_change/heads.csv",
        paths=f"{TOY}/phase_change/paths.csv",
    params:
        **STEP(
            "measure_phase_change",
            {"warmup": config["training"]["optimisation"]["warmup"]},
            run=False,
        ),


use rule step as measure_heads with:
    input:
        arms=arm_files(config["heads"]["arms"]),
        example=f"{TOY}/arms/two_layers.safetensors",
    output:
        metrics=f"{TOY}/heads/metrics.json",
        heads=f"{TOY}/heads/heads.csv",
        attention=f"{TOY}/heads/attention.csv",
    resources:
        mem_mb=2500,
    params:
        **STEP("measure_heads", HELD_OUT, run=False),


if config["ablations"]:
    FIGURES["Ablations"] = {"ablations": ["ablations"]}

    use rule step as measure_ablations with:
        input:
            arms=arm_files(config["ablations"]["arms"]),
        output:
            metrics=f"{TOY}/ablations/metrics.json",
            table=f"{TOY}/ablations/ablations.csv",
        resources:
            mem_mb=2500,
            runtime=20,
        params:
            **STEP("measure_ablations", HELD_OUT, run=False),


if config["sweep"]:
    FIGURES["Phase change"]["sweep"] = ["sweep"]

    use rule step as train_sweep with:
        output:
            metrics=f"{TOY}/sweep/metrics.json",
            curves=f"{TOY}/sweep/curves.csv",
            times=f"{TOY}/sweep/times.csv",
        resources:
            mem_mb=2000,
            runtime=60,
        params:
            **STEP("train_sweep", config["sweep"]),


if config["chains"]:
    FIGURES["Markov chains"] = {"chains": ["chains"]}

    use rule step as train_chains with:
        output:
            metrics=f"{TOY}/chains/metrics.json",
            curves=f"{TOY}/chains/curves.csv",
        resources:
            runtime=60,
        params:
            **STEP("train_chains", config["chains"]),


if config["clamps"]:
    FIGURES["Phase change"]["clamps"] = ["clamps"]

    use rule step as train_clamped with:
        input:
            plain=f"{TOY}/arms/two_layers.safetensors",
        output:
            metrics=f"{TOY}/clamps/metrics.json",
            curves=f"{TOY}/clamps/curves.csv",
        resources:
            mem_mb=2500,
            runtime=60,
        params:
            **STEP(
                "train_clamped",
                {
                    "arm": {**config["arms"]["two_layers"], **config["clamps"]},
                    "training": config["training"],
                },
            ),


if config["natural_text"]:
    FIGURES["Natural text"] = {
        "text_training": ["text_phase_change", "text_paths", "text_slopes"],
        "text_heads": ["text_heads"],
        "text_ablations": ["text_ablations"],
    }
    FIGURES["Framework"] = {"framework": ["path_orders", "skip_trigrams"]}

    include: "text.smk"


include: "models.smk"


use rule step as draw with:
    input:
        expand(f"{TOY}/{{part}}/metrics.json", part=parts(FIGURES)),
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files(TOY, FIGURES, "Induction heads"),
    params:
        **STEP("draw", run=False),


rule figures:
    input:
        rules.draw.output,
        expand(rules.draw_model.output, model=config["models"]),


rule metrics:
    input:
        expand(f"{TOY}/{{part}}/metrics.json", part=parts(FIGURES)),
        expand(
            "<results>/{model}/{part}/metrics.json",
            model=config["models"],
            part=parts(MODEL_FIGURES),
        ),
