# Toy models of superposition, four parts: train (all models of a part in one batched job) -> measure -> draw.
from common.workflow import flags, source_hash

NAME = "replications.superposition"
CAPTIONS = "replications/superposition/captions"
ENDINGS = ["svg", "png", "pdf", "csv", "json"]
PARTS = ["intro", "polygons", "phase_diagram", "first_order"]
ON_GPU = {"gpu": 1} if config["device"] == "cuda" else {}
RUN = {"seeds": config["seeds"], "device": config["device"]}
SEEDS = {"seeds": config["seeds"]}


rule train_intro:
    output:
        "<results>/toy/intro/models.safetensors",
    log:
        "<logs>/train_intro.log",
    priority: 10  # the first picture a reader waits for
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=2500,
        runtime=30,
    params:
        options=flags(config["intro"]["training"], **RUN),
        sources=source_hash(f"{NAME}.train_plane"),
    shell:
        "python -m replications.superposition.train_plane {params.options} --out {output} > {log} 2>&1"


rule train_polygons:
    output:
        "<results>/toy/polygons/models.safetensors",
    log:
        "<logs>/train_polygons.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=2500,
        runtime=30,
    params:
        options=flags(config["polygons"]["training"], **RUN),
        sources=source_hash(f"{NAME}.train_plane"),
    shell:
        "python -m replications.superposition.train_plane {params.options} --out {output} > {log} 2>&1"


rule measure_intro:
    input:
        models=rules.train_intro.output,
    output:
        metrics="<results>/toy/intro/metrics.json",
        table="<results>/toy/intro/columns.csv",
    log:
        "<logs>/measure_intro.log",
    priority: 10  # the first picture a reader waits for
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        options=flags({"middle_density": config["intro"]["middle_density"]}, **SEEDS),
        sources=source_hash(f"{NAME}.measure_intro"),
    shell:
        "python -m replications.superposition.measure_intro --models {input.models} {params.options} --metrics {output.metrics} --table {output.table} > {log} 2>&1"


rule measure_polygons:
    input:
        models=rules.train_polygons.output,
    output:
        metrics="<results>/toy/polygons/metrics.json",
        table="<results>/toy/polygons/columns.csv",
        restarts="<results>/toy/polygons/restarts.csv",
    log:
        "<logs>/measure_polygons.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        options=flags(
            {
                "digon_density": config["polygons"]["digon_density"],
                "pentagon_density": config["polygons"]["pentagon_density"],
            },
            **SEEDS,
        ),
        sources=source_hash(f"{NAME}.measure_polygons"),
    shell:
        "python -m replications.superposition.measure_polygons --models {input.models} {params.options} --metrics {output.metrics} --table {output.table} --restarts {output.restarts} > {log} 2>&1"


rule train_phase_diagram:
    output:
        "<results>/toy/phase_diagram/models.safetensors",
    log:
        "<logs>/train_phase_diagram.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=60,
    params:
        options=flags(config["phase_diagram"]["training"], **RUN),
        sources=source_hash(f"{NAME}.train_cells"),
    shell:
        "python -m replications.superposition.train_cells {params.options} --out {output} > {log} 2>&1"


rule exact_phase_diagram:
    output:
        "<results>/toy/phase_diagram/exact.csv",
    log:
        "<logs>/exact_phase_diagram.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        options=flags(
            {
                "importances": config["phase_diagram"]["training"]["importances"],
                "densities": config["phase_diagram"]["training"]["densities"],
            }
        ),
        sources=source_hash(f"{NAME}.exact_cells"),
    shell:
        "python -m replications.superposition.exact_cells {params.options} --out {output} > {log} 2>&1"


rule train_first_order:
    output:
        "<results>/toy/first_order/models.safetensors",
    log:
        "<logs>/train_first_order.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        **ON_GPU,
        mem_mb=3000,
        runtime=60,
    params:
        options=flags(config["first_order"]["training"], **RUN),
        sources=source_hash(f"{NAME}.train_cells"),
    shell:
        "python -m replications.superposition.train_cells {params.options} --out {output} > {log} 2>&1"


rule exact_first_order:
    output:
        "<results>/toy/first_order/exact.csv",
    log:
        "<logs>/exact_first_order.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        options=flags(
            {
                "importances": config["first_order"]["training"]["importances"],
                "densities": config["first_order"]["training"]["densities"],
            }
        ),
        sources=source_hash(f"{NAME}.exact_cells"),
    shell:
        "python -m replications.superposition.exact_cells {params.options} --out {output} > {log} 2>&1"


rule measure_phase_diagram:
    input:
        models=rules.train_phase_diagram.output,
        exact=rules.exact_phase_diagram.output,
    output:
        metrics="<results>/toy/phase_diagram/metrics.json",
        table="<results>/toy/phase_diagram/cells.csv",
    log:
        "<logs>/measure_phase_diagram.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=20,
    params:
        options=flags({"judging": config["phase_diagram"]["judging"]}, **SEEDS),
        sources=source_hash(f"{NAME}.measure_phase_diagram"),
    shell:
        "python -m replications.superposition.measure_phase_diagram --models {input.models} --exact {input.exact} {params.options} --metrics {output.metrics} --table {output.table} > {log} 2>&1"


rule measure_first_order:
    input:
        models=rules.train_first_order.output,
        exact=rules.exact_first_order.output,
    output:
        metrics="<results>/toy/first_order/metrics.json",
        table="<results>/toy/first_order/scan.csv",
        branches="<results>/toy/first_order/branches.csv",
    log:
        "<logs>/measure_first_order.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        options=flags(SEEDS),
        sources=source_hash(f"{NAME}.measure_first_order"),
    shell:
        "python -m replications.superposition.measure_first_order --models {input.models} --exact {input.exact} {params.options} --metrics {output.metrics} --table {output.table} --branches {output.branches} > {log} 2>&1"


rule draw_intro:
    input:
        table=rules.measure_intro.output.table,
        caption=f"{CAPTIONS}/intro.rst",
    output:
        multiext("<results>/toy/intro/figures/intro", ".png", ".pdf", ".csv", ".json"),
        svg=report(
            "<results>/toy/intro/figures/intro.svg",
            caption="captions/intro.rst",
            category="Superposition",
            subcategory="Five features in a plane",
            labels={"figure": "columns by density"},
        ),
    log:
        "<logs>/draw_intro.log",
    priority: 10  # the first picture a reader waits for
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw_planes"),
    shell:
        "python -m replications.superposition.draw_planes --table {input.table} --caption {input.caption} --out {output.svg} > {log} 2>&1"


rule draw_polygons:
    input:
        table=rules.measure_polygons.output.table,
        caption=f"{CAPTIONS}/polygons.rst",
    output:
        svg=report(
            "<results>/toy/polygons/figures/polygons.svg",
            caption="captions/polygons.rst",
            category="Superposition",
            subcategory="Polygons",
            labels={"figure": "columns by density"},
        ),
        others=multiext(
            "<results>/toy/polygons/figures/polygons", ".png", ".pdf", ".csv", ".json"
        ),
    log:
        "<logs>/draw_polygons.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw_planes"),
    shell:
        "python -m replications.superposition.draw_planes --table {input.table} --caption {input.caption} --out {output.svg} > {log} 2>&1"


rule draw_restarts:
    input:
        table=rules.measure_polygons.output.restarts,
        caption=f"{CAPTIONS}/restarts.rst",
    output:
        svg=report(
            "<results>/toy/polygons/figures/restarts.svg",
            caption="captions/restarts.rst",
            category="Superposition",
            subcategory="Polygons",
            labels={"figure": "losses of all restarts"},
        ),
        others=multiext(
            "<results>/toy/polygons/figures/restarts", ".png", ".pdf", ".csv", ".json"
        ),
    log:
        "<logs>/draw_restarts.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw_restarts"),
    shell:
        "python -m replications.superposition.draw_restarts --table {input.table} --caption {input.caption} --out {output.svg} > {log} 2>&1"


rule draw_phase_diagram:
    input:
        table=rules.measure_phase_diagram.output.table,
        caption=f"{CAPTIONS}/phase_diagram.rst",
    output:
        svg=report(
            "<results>/toy/phase_diagram/figures/phase_diagram.svg",
            caption="captions/phase_diagram.rst",
            category="Superposition",
            subcategory="Phase diagram",
            labels={"figure": "trained, exact, linear"},
        ),
        others=multiext(
            "<results>/toy/phase_diagram/figures/phase_diagram",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/draw_phase_diagram.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw_phase_diagram"),
    shell:
        "python -m replications.superposition.draw_phase_diagram --table {input.table} --caption {input.caption} --out {output.svg} > {log} 2>&1"


rule draw_first_order:
    input:
        table=rules.measure_first_order.output.table,
        branches=rules.measure_first_order.output.branches,
        caption=f"{CAPTIONS}/first_order.rst",
    output:
        svg=report(
            "<results>/toy/first_order/figures/first_order.svg",
            caption="captions/first_order.rst",
            category="Superposition",
            subcategory="First-order transition",
            labels={"figure": "jump and loss branches"},
        ),
        others=multiext(
            "<results>/toy/first_order/figures/first_order",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/draw_first_order.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        sources=source_hash(f"{NAME}.draw_first_order"),
    shell:
        "python -m replications.superposition.draw_first_order --table {input.table} --branches {input.branches} --caption {input.caption} --out {output.svg} > {log} 2>&1"


rule figures:
    input:
        expand(
            "<results>/toy/{figure}.{ending}",
            figure=[
                "intro/figures/intro",
                "polygons/figures/polygons",
                "polygons/figures/restarts",
                "phase_diagram/figures/phase_diagram",
                "first_order/figures/first_order",
            ],
            ending=ENDINGS,
        ),


rule metrics:
    input:
        expand("<results>/toy/{part}/metrics.json", part=PARTS),
