# One rule for every group of parts: reads their tables, writes their figures in all forms.


for GROUP, PARTS in GROUPS.items():
    SHOWN = {
        subcategory: {part: names for part, names in found.items() if part in PARTS}
        for subcategory, found in FIGURES.items()
    }

    rule:
        name:
            f"draw_{GROUP}"
        input:
            [
                f"<results>/toy/{part}/{table}.csv"
                for part in PARTS
                for table in MEASURED[part][3]
            ],
            captions=captions(CAPTIONS, SHOWN),
        output:
            **figure_files("<results>/toy", SHOWN, "Superposition"),
        log:
            f"<logs>/draw_{GROUP}.log",
        priority: 10 if GROUP == "intro" else 0
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=10,
        params:
            sources=source_hash(f"{NAME}.draw"),
        shell:
            "python -m replications.superposition.draw --captions {input.captions} --out {output.svg} > {log} 2>&1"
