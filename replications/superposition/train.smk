# One rule for every line of TRAINED (the models of a part) and of SOLVED (the exact optimum it is compared with).


for PART, STEP in TRAINED.items():

    rule:
        name:
            f"train_{PART}"
        output:
            f"<results>/toy/{PART}/models.safetensors",
        log:
            f"<logs>/train_{PART}.log",
        priority: 10 if PART == "intro" else 0
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            **ON_GPU,
            mem_mb=20000 if ON_GPU else 3000,
            runtime=60,
        params:
            options=flags(
                {key: config[PART][key] for key in TRAINING.get(PART, ["training"])},
                **RUN,
            ),
            step=STEP,
            sources=source_hash(f"{NAME}.{STEP}"),
        shell:
            "python -m replications.superposition.{params.step} {params.options} --out {output} > {log} 2>&1"


for PART, STEP in SOLVED.items():

    rule:
        name:
            f"exact_{PART}"
        output:
            f"<results>/toy/{PART}/exact.csv",
        log:
            f"<logs>/exact_{PART}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=30,
        params:
            options=flags(
                {
                    axis: config[PART]["training"][axis]
                    for axis in ("importances", "densities")
                }
            ),
            step=STEP,
            sources=source_hash(f"{NAME}.{STEP}"),
        shell:
            "python -m replications.superposition.{params.step} {params.options} --out {output} > {log} 2>&1"
