# One rule for every group of parts: reads their tables, writes their figures in all forms. Files are named
# `<figure>__<option of the step>`.


for GROUP, PARTS in GROUPS.items():
    FIGURES = [figure for figure, drawn in DRAWN.items() if drawn[0] in PARTS]

    rule:
        name:
            f"draw_{GROUP}"
        input:
            **{
                f"{figure}__{table}": f"<results>/toy/{DRAWN[figure][0]}/{table}.csv"
                for figure in FIGURES
                for table in DRAWN[figure][2]
            },
            **{
                f"{figure}__caption": f"replications/superposition/captions/{figure}.rst"
                for figure in FIGURES
            },
        output:
            **{
                f"{figure}__out": report(
                    f"<results>/toy/{DRAWN[figure][0]}/figures/{figure}.svg",
                    caption=f"captions/{figure}.rst",
                    category="Superposition",
                    subcategory=DRAWN[figure][3],
                    labels={"figure": DRAWN[figure][4]},
                )
                for figure in FIGURES
            },
            others=[
                f"<results>/toy/{DRAWN[figure][0]}/figures/{figure}.{ending}"
                for figure in FIGURES
                for ending in ENDINGS
                if ending != "svg"
            ],
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
            steps=lambda wildcards, input, output: calls(
                {figure: drawn[1] for figure, drawn in DRAWN.items()},
                {**dict(input.items()), **dict(output.items())},
                {},
            ),
            sources=source_hash(f"{NAME}.draw"),
        shell:
            "python -m replications.superposition.draw {params.steps} > {log} 2>&1"
