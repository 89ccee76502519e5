# Induction heads: figures of the trained arms, included by rules.smk, which has the names used here.


for PICTURE in FIGURES["phase_change"]:

    rule:
        name:
            f"draw_{PICTURE}"
        input:
            curves=rules.measure_phase_change.output.curves,
            indices=rules.measure_phase_change.output.indices,
            heads=rules.measure_phase_change.output.heads,
            paths=rules.measure_phase_change.output.paths,
            caption=f"{CAPTIONS}/{PICTURE}.rst",
        output:
            svg=report(
                f"<results>/toy/phase_change/figures/{PICTURE}.svg",
                caption=f"captions/{PICTURE}.rst",
                category="Induction heads",
                subcategory="Phase change",
                labels={"figure": PICTURE},
            ),
            others=multiext(
                f"<results>/toy/phase_change/figures/{PICTURE}",
                ".png",
                ".pdf",
                ".csv",
                ".json",
            ),
        log:
            f"<logs>/draw_{PICTURE}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            figure=PICTURE,
            sources=source_hash(f"{NAME}.draw_curves"),
        shell:
            "python -m replications.induction_heads.draw_curves --curves {input.curves} --indices {input.indices} --heads {input.heads} --paths {input.paths} --figure {params.figure} --caption {input.caption} --out {output.svg} > {log} 2>&1"


for PICTURE in FIGURES["sweep"]:

    rule:
        name:
            f"draw_{PICTURE}"
        input:
            curves=rules.train_sweep.output.curves,
            times=rules.train_sweep.output.times,
            caption=f"{CAPTIONS}/{PICTURE}.rst",
        output:
            svg=report(
                f"<results>/toy/sweep/figures/{PICTURE}.svg",
                caption=f"captions/{PICTURE}.rst",
                category="Induction heads",
                subcategory="Phase change",
                labels={"figure": PICTURE},
            ),
            others=multiext(
                f"<results>/toy/sweep/figures/{PICTURE}",
                ".png",
                ".pdf",
                ".csv",
                ".json",
            ),
        log:
            f"<logs>/draw_{PICTURE}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            sources=source_hash(f"{NAME}.draw_sweep"),
        shell:
            "python -m replications.induction_heads.draw_sweep --curves {input.curves} --times {input.times} --caption {input.caption} --out {output.svg} > {log} 2>&1"


for PICTURE in FIGURES["heads"]:

    rule:
        name:
            f"draw_{PICTURE}"
        input:
            heads=rules.measure_heads.output.heads,
            attention=rules.measure_heads.output.attention,
            caption=f"{CAPTIONS}/{PICTURE}.rst",
        output:
            svg=report(
                f"<results>/toy/heads/figures/{PICTURE}.svg",
                caption=f"captions/{PICTURE}.rst",
                category="Induction heads",
                subcategory="Mechanism",
                labels={"figure": PICTURE},
            ),
            others=multiext(
                f"<results>/toy/heads/figures/{PICTURE}",
                ".png",
                ".pdf",
                ".csv",
                ".json",
            ),
        log:
            f"<logs>/draw_{PICTURE}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            figure=PICTURE,
            sources=source_hash(f"{NAME}.draw_heads"),
        shell:
            "python -m replications.induction_heads.draw_heads --heads {input.heads} --attention {input.attention} --figure {params.figure} --caption {input.caption} --out {output.svg} > {log} 2>&1"


for PICTURE in FIGURES["ablations"]:

    rule:
        name:
            f"draw_{PICTURE}"
        input:
            table=rules.measure_ablations.output.table,
            caption=f"{CAPTIONS}/{PICTURE}.rst",
        output:
            svg=report(
                f"<results>/toy/ablations/figures/{PICTURE}.svg",
                caption=f"captions/{PICTURE}.rst",
                category="Induction heads",
                subcategory="Ablations",
                labels={"figure": PICTURE},
            ),
            others=multiext(
                f"<results>/toy/ablations/figures/{PICTURE}",
                ".png",
                ".pdf",
                ".csv",
                ".json",
            ),
        log:
            f"<logs>/draw_{PICTURE}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            sources=source_hash(f"{NAME}.draw_ablations"),
        shell:
            "python -m replications.induction_heads.draw_ablations --table {input.table} --caption {input.caption} --out {output.svg} > {log} 2>&1"


for PICTURE in FIGURES["chains"]:

    rule:
        name:
            f"draw_{PICTURE}"
        input:
            curves=rules.train_chains.output.curves,
            caption=f"{CAPTIONS}/{PICTURE}.rst",
        output:
            svg=report(
                f"<results>/toy/chains/figures/{PICTURE}.svg",
                caption=f"captions/{PICTURE}.rst",
                category="Induction heads",
                subcategory="Markov chains",
                labels={"figure": PICTURE},
            ),
            others=multiext(
                f"<results>/toy/chains/figures/{PICTURE}",
                ".png",
                ".pdf",
                ".csv",
                ".json",
            ),
        log:
            f"<logs>/draw_{PICTURE}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=5,
        params:
            sources=source_hash(f"{NAME}.draw_chains"),
        shell:
            "python -m replications.induction_heads.draw_chains --curves {input.curves} --caption {input.caption} --out {output.svg} > {log} 2>&1"
