# Grokking: train (one batched job an arm) -> measure, dictionary -> draw; train_paces -> measure_decay -> draw.
from common.engine.rules import Steps, captions, figure_files

STEP = Steps("replications.grokking", config)
CAPTIONS = "replications/grokking/captions"
FIGURES = {
    "Delay": {"delay": {"delay": "Memorised first, generalised later"}},
    "Progress measures": {
        "progress": {"progress": "Three phases behind the sudden change"},
    },
    "Circuit": {
        "circuit": {
            "frequencies": "Key frequencies in the embedding",
            "waves": "Logits and neurons in the Fourier basis",
            "neurons": "Neurons of one frequency, and their phases",
        },
        "dictionary": {
            "circles": "Embeddings are circles, latents are arcs of them",
        },
    },
}


include: "../../common/engine/step.smk"


use rule step as train with:
    output:
        models="<results>/toy/arms/{arm}.safetensors",
    wildcard_constraints:
        arm="|".join(config["arms"]),
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        **STEP(
            "train",
            lambda wildcards: {
                "arm": config["arms"][wildcards.arm],
                "training": config["training"],
            },
        ),


use rule step as measure with:
    input:
        **{arm: f"<results>/toy/arms/{arm}.safetensors" for arm in config["arms"]},
    output:
        delay="<results>/toy/delay/metrics.json",
        curves="<results>/toy/delay/curves.csv",
        progress="<results>/toy/progress/metrics.json",
        measures="<results>/toy/progress/measures.csv",
        circuit="<results>/toy/circuit/metrics.json",
        frequencies="<results>/toy/circuit/frequencies.csv",
        neurons="<results>/toy/circuit/neurons.csv",
        spectra="<results>/toy/circuit/spectra.csv",
    resources:
        mem_mb=4000,
    params:
        **STEP(
            "measure",
            {key: config[key] for key in ("training", "arms", "reading")},
            run=False,
        ),


use rule step as dictionary with:
    input:
        models="<results>/toy/arms/grokking.safetensors",
    output:
        metrics="<results>/toy/dictionary/metrics.json",
        circles="<results>/toy/dictionary/circles.csv",
        latents="<results>/toy/dictionary/latents.csv",
    resources:
        mem_mb=3000,
    params:
        **STEP(
            "dictionary",
            {key: config[key] for key in ("training", "reading", "dictionary")},
            run=False,
        ),


SWEEP, SWEEP_METRICS = [], []

if config["decay_sweep"]:
    PACES = config["decay_sweep"]["arms"]

    use rule step as train_paces with:
        output:
            models="<results>/toy/paces/{arm}.safetensors",
        wildcard_constraints:
            arm="|".join(PACES),
        resources:
            mem_mb=2000,
            runtime=30,
        params:
            **STEP(
                "train",
                lambda wildcards: {
                    "arm": {
                        "fraction": config["decay_sweep"]["fraction"],
                        "random_answers": False,
                        "snapshot_every": PACES[wildcards.arm]["steps"],
                        **{
                            key: PACES[wildcards.arm][key]
                            for key in ("weight_decay", "steps")
                        },
                    },
                    "training": {
                        **config["decay_sweep"]["training"],
                        "learning_rate": PACES[wildcards.arm]["learning_rate"],
                    },
                },
            ),

    use rule step as measure_decay with:
        input:
            **{arm: f"<results>/toy/paces/{arm}.safetensors" for arm in PACES},
        output:
            metrics="<results>/toy/decay/metrics.json",
            times="<results>/toy/decay/times.csv",
        resources:
            mem_mb=2000,
        params:
            **STEP(
                "measure_decay",
                {key: config[key] for key in ("decay_sweep", "reading")},
                run=False,
            ),

    SWEEP.append(rules.measure_decay.output)
    SWEEP_METRICS.append(rules.measure_decay.output.metrics)
    FIGURES["Delay"]["decay"] = {
        "decay": "The less weight decay, the longer the delay"
    }


use rule step as draw with:
    input:
        rules.measure.output,
        rules.dictionary.output,
        SWEEP,
        captions=captions(CAPTIONS, FIGURES),
    output:
        **figure_files("<results>/toy", FIGURES, "Grokking"),
    params:
        **STEP("draw", run=False),


rule figures:
    input:
        rules.draw.output,


rule metrics:
    input:
        rules.measure.output.delay,
        rules.measure.output.progress,
        rules.measure.output.circuit,
        rules.dictionary.output.metrics,
        SWEEP_METRICS,
