# IOI, second part, included by rules.smk: parts that a scale runs where its settings name them. SUPPLEMENT are the outputs
# that the figures of a model need besides; MORE_FIGURES and MORE_METRICS stand apart.
SUPPLEMENT, MORE_FIGURES, MORE_METRICS = [], [], []


if config["robustness"]:

    use rule step as robustness with:
        input:
            manifest="<models>/{model}/manifest.json",
            prompts=rules.prompts.output.prompts,
            activations=rules.collect.output.activations,
            circuit=rules.verification.output.circuit,
            grown=rules.verification.output.grown,
        output:
            metrics=f"{MODEL}/robustness/metrics.json",
            nodes=f"{MODEL}/robustness/nodes.csv",
            parts=f"{MODEL}/robustness/parts.csv",
            grid=f"{MODEL}/robustness/grid.csv",
        resources:
            mem_mb=4000,
            runtime=30,
        params:
            **STEP("robustness", config["robustness"]),

    SUPPLEMENT.append(rules.robustness.output)
    FIGURES["Robustness"] = {"robustness": ["parts", "minimality", "grid"]}


if config["sensitivity"]:

    use rule step as sensitivity with:
        input:
            manifest="<models>/{model}/manifest.json",
            prompts=rules.prompts.output.prompts,
        output:
            metrics=f"{MODEL}/sensitivity/metrics.json",
            heads=f"{MODEL}/sensitivity/heads.csv",
        resources:
            mem_mb=4000,
            runtime=20,
        params:
            **STEP("sensitivity", config["sensitivity"]),

    SUPPLEMENT.append(rules.sensitivity.output)
    FIGURES["Robustness"]["sensitivity"] = ["sensitivity"]


if config["other_half"]:

    use rule step as other_half with:
        input:
            manifest="<models>/{model}/manifest.json",
            prompts=rules.prompts.output.prompts,
            heads=rules.path_patching.output.heads,
        output:
            metrics=f"{MODEL}/other_half/metrics.json",
            classes=f"{MODEL}/other_half/classes.csv",
        resources:
            mem_mb=6000,
            runtime=20,
        params:
            **STEP("other_half", config["other_half"]),

    SUPPLEMENT.append(rules.other_half.output)
    FIGURES["Path patching"]["other_half"] = ["other_half"]


if config["receivers_apart"]:

    use rule step as receivers_apart with:
        input:
            manifest="<models>/{model}/manifest.json",
            prompts=rules.prompts.output.prompts,
            heads=rules.path_patching.output.heads,
        output:
            metrics=f"{MODEL}/receivers_apart/metrics.json",
            senders=f"{MODEL}/receivers_apart/senders.csv",
        resources:
            mem_mb=4000,
            runtime=20,
        params:
            **STEP("receivers_apart", config["receivers_apart"]),

    SUPPLEMENT.append(rules.receivers_apart.output)
    FIGURES["Path patching"]["receivers_apart"] = ["receivers_apart"]


if config["subject_or_repeat"]:

    use rule step as subject_or_repeat with:
        input:
            manifest="<models>/{model}/manifest.json",
            prompts=rules.prompts.output.prompts,
            heads=rules.path_patching.output.heads,
        output:
            metrics=f"{MODEL}/subject_or_repeat/metrics.json",
            answers=f"{MODEL}/subject_or_repeat/answers.csv",
        resources:
            mem_mb=4000,
            runtime=20,
        params:
            **STEP("subject_or_repeat", config["subject_or_repeat"]),

    SUPPLEMENT.append(rules.subject_or_repeat.output)
    FIGURES["Baseline"]["subject_or_repeat"] = ["subject_or_repeat"]


if config["edge_attribution"]:

    use rule step as edge_attribution with:
        input:
            manifest="<models>/{model}/manifest.json",
            prompts=rules.prompts.output.prompts,
            heads=rules.path_patching.output.heads,
            direct=rules.direct_path.output.heads,
        output:
            metrics=f"{MODEL}/edge_attribution/metrics.json",
            curves=f"{MODEL}/edge_attribution/curves.csv",
            edges=f"{MODEL}/edge_attribution/edges.csv",
            nodes=f"{MODEL}/edge_attribution/nodes.csv",
        resources:
            mem_mb=4000,
            runtime=30,
        params:
            **STEP("edge_attribution", config["edge_attribution"]),

    SUPPLEMENT.append(rules.edge_attribution.output)
    FIGURES["Automated discovery"] = {
        "edge_attribution": ["edge_curves", "attribution"]
    }


PLANTED, PLANTED_FIGURES = [], {"Ground truth": {}}


if config["ground_truth"]:

    use rule step as ground_truth with:
        output:
            metrics="<results>/toy/ground_truth/metrics.json",
            scores="<results>/toy/ground_truth/scores.csv",
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
        params:
            **STEP("figures", run=False),

    MORE_FIGURES.append(rules.draw_planted.output)
