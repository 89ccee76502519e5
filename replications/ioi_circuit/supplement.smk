# IOI, second part, included by rules.smk: parts that a scale runs where its settings name them. SUPPLEMENT are the outputs
# that the figures of a model need besides; MORE_FIGURES and MORE_METRICS stand apart.
SUPPLEMENT, MORE_FIGURES, MORE_METRICS = [], [], []
TUNED = []


if config["robustness"]:

    use rule step as robustness with:
        input:
            manifest="<models>/{model}/manifest.json",
            prompts=rules.prompts.output.prompts,
            activations=rules.collect.output.activations,
            circuit=rules.verification.output.circuit,
        output:
            metrics=f"{MODEL}/robustness/metrics.json",
            nodes=f"{MODEL}/robustness/nodes.csv",
            parts=f"{MODEL}/robustness/parts.csv",
            grid=f"{MODEL}/robustness/grid.csv",
        log:
            "<logs>/{model}/robustness.log",
        resources:
            **ON_GPU,
            mem_mb=4000,
            runtime=30,
        params:
            **STEP("robustness", config["robustness"]),

    SUPPLEMENT.append(rules.robustness.output)
    FIGURES["Robustness"] = {"robustness": ["parts", "minimality", "grid"]}


if config["mlp_knockout"]:

    use rule step as mlp_knockout with:
        input:
            manifest="<models>/{model}/manifest.json",
            prompts=rules.prompts.output.prompts,
        output:
            metrics=f"{MODEL}/mlp_knockout/metrics.json",
            mlps=f"{MODEL}/mlp_knockout/mlps.csv",
        log:
            "<logs>/{model}/mlp_knockout.log",
        resources:
            **ON_GPU,
            mem_mb=2500,
        params:
            **STEP("mlp_knockout", config["mlp_knockout"]),

    SUPPLEMENT.append(rules.mlp_knockout.output)
    FIGURES["MLPs"] = {"mlp_knockout": ["mlps"]}


if config["activation_patching"]:

    use rule step as activation_patching with:
        input:
            manifest="<models>/{model}/manifest.json",
            prompts=rules.prompts.output.prompts,
        output:
            metrics=f"{MODEL}/activation_patching/metrics.json",
            effects=f"{MODEL}/activation_patching/effects.csv",
        log:
            "<logs>/{model}/activation_patching.log",
        resources:
            **ON_GPU,
            mem_mb=4000,
            runtime=30,
        params:
            **STEP("activation_patching", config["activation_patching"]),

    SUPPLEMENT.append(rules.activation_patching.output)
    FIGURES["Activation patching"] = {
        "activation_patching": ["streams", "patched_heads"]
    }


if config["edge_attribution"]:

    use rule step as edge_attribution with:
        input:
            manifest="<models>/{model}/manifest.json",
            prompts=rules.prompts.output.prompts,
            heads=rules.path_patching.output.heads,
            direct=rules.direct_effects.output.heads,
        output:
            metrics=f"{MODEL}/edge_attribution/metrics.json",
            curves=f"{MODEL}/edge_attribution/curves.csv",
            edges=f"{MODEL}/edge_attribution/edges.csv",
            nodes=f"{MODEL}/edge_attribution/nodes.csv",
        log:
            "<logs>/{model}/edge_attribution.log",
        resources:
            **ON_GPU,
            mem_mb=4000,
            runtime=30,
        params:
            **STEP("edge_attribution", config["edge_attribution"]),

    SUPPLEMENT.append(rules.edge_attribution.output)
    FIGURES["Automated discovery"] = {
        "edge_attribution": ["edge_curves", "attribution"]
    }


if config["edge_search"]:

    use rule step as edge_search with:
        input:
            manifest="<models>/{model}/manifest.json",
            prompts=rules.prompts.output.prompts,
        output:
            metrics=f"{MODEL}/edge_search/metrics.json",
            curves=f"{MODEL}/edge_search/curves.csv",
            edges=f"{MODEL}/edge_search/edges.csv",
        log:
            "<logs>/{model}/edge_search.log",
        resources:
            **ON_GPU,
            mem_mb=4000,
            runtime=120,
        params:
            **STEP("edge_search", config["edge_search"]),

    SUPPLEMENT.append(rules.edge_search.output)
    FIGURES["Exact edges"] = {"edge_search": ["searched_edges"]}


if config["fine_tuned"]:
    TUNED = [
        name for name in config["models"] if name in config["fine_tuned"]["models"]
    ]
    TUNED_FIGURES = {"One fine-tune away": {"fine_tuned": ["fine_tuned"]}}

    use rule step as fine_tuned with:
        input:
            manifest="<models>/{model}/manifest.json",
            prompts=rules.prompts.output.prompts,
            circuit=rules.verification.output.circuit,
            searched=rules.path_patching.output.heads,
            tuned=expand(
                "<all_results>/refusal_direction/{{model}}/models/harmful-{seed}/manifest.json",
                seed=config["seeds"][: config["fine_tuned"]["n_seeds"]],
            ),
        output:
            metrics=f"{MODEL}/fine_tuned/metrics.json",
            shares=f"{MODEL}/fine_tuned/shares.csv",
            heads=f"{MODEL}/fine_tuned/heads.csv",
            nodes=f"{MODEL}/fine_tuned/nodes.csv",
        log:
            "<logs>/{model}/fine_tuned.log",
        resources:
            **ON_GPU,
            mem_mb=4000,
            runtime=30,
        params:
            **STEP("fine_tuned", config["fine_tuned"]),

    use rule step as draw_fine_tuned with:
        input:
            rules.fine_tuned.output,
            captions=captions(CAPTIONS, TUNED_FIGURES),
        output:
            **figure_files(MODEL, TUNED_FIGURES, CATEGORY, model="{model}"),
        log:
            "<logs>/{model}/draw_fine_tuned.log",
        params:
            **STEP("figures", run=False),

    MORE_FIGURES.append(expand(rules.draw_fine_tuned.output, model=TUNED))
    MORE_METRICS.append(expand(rules.fine_tuned.output.metrics, model=TUNED))


use rule step as transfer with:
    input:
        circuits=expand(rules.verification.output.circuit, model=config["models"]),
        metrics=expand(rules.verification.output.metrics, model=config["models"]),
        heads=expand(rules.path_patching.output.heads, model=config["models"]),
        tuned=expand(f"{MODEL}/fine_tuned/nodes.csv", model=TUNED),
        caption=f"{CAPTIONS}/transfer.rst",
    output:
        svg=report(
            "<results>/models/transfer/figures/transfer.svg",
            caption="captions/transfer.rst",
            category=CATEGORY,
            subcategory="All models",
            labels={"figure": "circuits side by side", "model": "all"},
        ),
        others=multiext(
            "<results>/models/transfer/figures/transfer",
            ".png",
            ".pdf",
            ".csv",
            ".json",
        ),
    log:
        "<logs>/models/transfer.log",
    params:
        **STEP("transfer", run=False),


MORE_FIGURES.append(rules.transfer.output)


PLANTED, PLANTED_FIGURES = [], {"Ground truth": {}}


if config["ground_truth"]:

    use rule step as ground_truth with:
        output:
            metrics="<results>/toy/ground_truth/metrics.json",
            scores="<results>/toy/ground_truth/scores.csv",
        log:
            "<logs>/toy/ground_truth.log",
        resources:
            mem_mb=2000,
            runtime=15,
        params:
            **STEP("ground_truth", config["ground_truth"]),

    PLANTED.append(rules.ground_truth.output)
    MORE_METRICS.append(rules.ground_truth.output.metrics)
    PLANTED_FIGURES["Ground truth"]["ground_truth"] = ["planted"]


if config["edge_ground_truth"]:

    use rule step as edge_ground_truth with:
        output:
            metrics="<results>/toy/edge_ground_truth/metrics.json",
            edges="<results>/toy/edge_ground_truth/edges.csv",
            curves="<results>/toy/edge_ground_truth/curves.csv",
        log:
            "<logs>/toy/edge_ground_truth.log",
        resources:
            mem_mb=2000,
            runtime=30,
        params:
            **STEP("edge_ground_truth", config["edge_ground_truth"]),

    PLANTED.append(rules.edge_ground_truth.output)
    MORE_METRICS.append(rules.edge_ground_truth.output.metrics)
    PLANTED_FIGURES["Ground truth"]["edge_ground_truth"] = ["planted_edges"]


if PLANTED:

    use rule step as draw_planted with:
        input:
            PLANTED,
            captions=captions(CAPTIONS, PLANTED_FIGURES),
        output:
            **figure_files("<results>/toy", PLANTED_FIGURES, CATEGORY, model="toy"),
        log:
            "<logs>/toy/draw.log",
        params:
            **STEP("figures", run=False),

    MORE_FIGURES.append(rules.draw_planted.output)
