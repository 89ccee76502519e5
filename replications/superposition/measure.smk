# One rule for every line of MEASURED: reads models (and the exact optimum, where there is one), writes metrics and tables.


for PART, (STEP, SOURCE, KEYS, TABLES) in MEASURED.items():
    EXACT = {"exact": f"<results>/toy/{PART}/exact.csv"} if PART in SOLVED else {}
    CHOSEN = config[SETTINGS.get(PART, PART)]
    OPTIONS = {key: (CHOSEN.get("training", {}) | CHOSEN)[key] for key in KEYS}

    rule:
        name:
            f"measure_{PART}"
        input:
            **EXACT,
            models=f"<results>/toy/{SOURCE}/models.safetensors",
        output:
            **{table: f"<results>/toy/{PART}/{table}.csv" for table in TABLES},
            metrics=f"<results>/toy/{PART}/metrics.json",
        log:
            f"<logs>/measure_{PART}.log",
        priority: 10 if PART == "intro" else 0
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=3000,
            runtime=20,
        params:
            options=flags(OPTIONS, seeds=config["seeds"]),
            step=STEP,
            files=lambda wildcards, input, output: flags(
                dict(input.items()), **dict(output.items())
            ),
            sources=source_hash(f"{NAME}.{STEP}"),
        shell:
            "python -m replications.superposition.{params.step} {params.files} {params.options} > {log} 2>&1"
