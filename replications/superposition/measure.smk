# One rule for every group of parts: reads their models (and exact optima, where there are some), writes their metrics
# and tables. Files are named `<part>__<option of the step>`.

OPTIONS = {
    part: flags(
        {
            key: (config[chosen].get("training", {}) | config[chosen])[key]
            for key in keys
        },
        seeds=config["seeds"],
    )
    for part, (step, source, keys, tables) in MEASURED.items()
    for chosen in [SETTINGS.get(part, part)]
}

for GROUP, PARTS in GROUPS.items():

    rule:
        name:
            f"measure_{GROUP}"
        input:
            **{
                f"{part}__models": f"<results>/toy/{MEASURED[part][1]}/models.safetensors"
                for part in PARTS
            },
            **{
                f"{part}__exact": f"<results>/toy/{part}/exact.csv"
                for part in PARTS
                if part in SOLVED
            },
        output:
            **{
                f"{part}__{table}": f"<results>/toy/{part}/{table}.csv"
                for part in PARTS
                for table in MEASURED[part][3]
            },
            **{
                f"{part}__metrics": f"<results>/toy/{part}/metrics.json"
                for part in PARTS
            },
        log:
            f"<logs>/measure_{GROUP}.log",
        priority: 10 if GROUP == "intro" else 0
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=3000,
            runtime=20,
        params:
            steps=lambda wildcards, input, output: calls(
                {part: MEASURED[part][0] for part in MEASURED},
                {**dict(input.items()), **dict(output.items())},
                OPTIONS,
            ),
            sources=source_hash(f"{NAME}.measure"),
        shell:
            "python -m replications.superposition.measure {params.steps} > {log} 2>&1"
