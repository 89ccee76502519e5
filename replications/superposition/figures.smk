# One rule for every line of DRAWN: reads tables, writes a figure in all its forms.


for FIGURE, (PART, STEP, TABLES, SUBJECT, LABEL) in DRAWN.items():

    rule:
        name:
            f"draw_{FIGURE}"
        input:
            **{table: f"<results>/toy/{PART}/{table}.csv" for table in TABLES},
            caption=f"replications/superposition/captions/{FIGURE}.rst",
        output:
            svg=report(
                f"<results>/toy/{PART}/figures/{FIGURE}.svg",
                caption=f"captions/{FIGURE}.rst",
                category="Superposition",
                subcategory=SUBJECT,
                labels={"figure": LABEL},
            ),
            others=multiext(
                f"<results>/toy/{PART}/figures/{FIGURE}",
                ".png",
                ".pdf",
                ".csv",
                ".json",
            ),
        log:
            f"<logs>/draw_{FIGURE}.log",
        priority: 10 if FIGURE == "intro" else 0
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            step=STEP,
            files=lambda wildcards, input: flags(dict(input.items())),
            sources=source_hash(f"{NAME}.{STEP}"),
        shell:
            "python -m replications.superposition.{params.step} {params.files} --out {output.svg} > {log} 2>&1"
