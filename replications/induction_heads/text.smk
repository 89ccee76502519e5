# Induction heads: models trained on natural text, included by rules.smk, which has the names used here.
TEXT = config["natural_text"]
TEXT_ARMS = {name: arm for name, arm in TEXT["arms"].items() if arm}
if TWO_BACK:
    TEXT_ARMS["one_layer_two_back"] = {**TEXT_ARMS["one_layer_smeared"], **TWO_BACK}

text_files = lambda arms: expand(f"{TOY}/text/{{arm}}.safetensors", arm=arms)


use rule step as tokenise_corpus with:
    input:
        corpus="<corpora>/python-docs/manifest.json",
    output:
        tokens=f"{TOY}/text/tokens.safetensors",
        vocabulary=f"{TOY}/text/vocabulary.json",
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        **STEP("tokenise_corpus", TEXT["tokens"]),


use rule step as train_text with:
    input:
        tokens=rules.tokenise_corpus.output.tokens,
    output:
        models=f"{TOY}/text/{{textarm}}.safetensors",
    wildcard_constraints:
        textarm="|".join(TEXT_ARMS),
    resources:
        mem_mb=2500,
        runtime=120,
    params:
        **STEP(
            "train_text",
            lambda wildcards: {
                "arm": TEXT_ARMS[wildcards.textarm],
                "tokens": TEXT["tokens"],
                "contexts": TEXT["contexts"],
                "training": TEXT["training"],
            },
        ),


use rule step as measure_text with:
    input:
        arms=text_files(TEXT_ARMS),
    output:
        metrics=f"{TOY}/text_training/metrics.json",
        curves=f"{TOY}/text_training/curves.csv",
        indices=f"{TOY}/text_training/indices.csv",
        heads=f"{TOY}/text_training/heads.csv",
        paths=f"{TOY}/text_training/paths.csv",
    resources:
        mem_mb=2000,
    params:
        **STEP(
            "measure_text",
            {
                "before": TEXT["training"]["snapshots"][1],
                "warmup": TEXT["training"]["optimisation"]["warmup"],
                "batch": TEXT["training"]["optimisation"]["batch"],
            },
            run=False,
        ),


use rule step as ablate_text with:
    input:
        arms=text_files(TEXT_ARMS),
        tokens=rules.tokenise_corpus.output.tokens,
    output:
        metrics=f"{TOY}/text_ablations/metrics.json",
        table=f"{TOY}/text_ablations/ablations.csv",
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        **STEP(
            "ablate_text",
            {
                "contexts": TEXT["contexts"],
                "repeats": TEXT["tokens"]["repeats"],
                "draws": TEXT["draws"],
            },
            run=False,
        ),


use rule step as measure_text_heads with:
    input:
        arms=text_files(TEXT_ARMS),
        tokens=rules.tokenise_corpus.output.tokens,
    output:
        metrics=f"{TOY}/text_heads/metrics.json",
        heads=f"{TOY}/text_heads/heads.csv",
    resources:
        mem_mb=2000,
    params:
        **STEP("measure_text_heads", {"repeats": TEXT["tokens"]["repeats"]}, run=False),


use rule step as measure_framework with:
    input:
        texts=text_files(["one_layer", "two_layers"]),
        synthetic=arm_files(["one_layer", "two_layers"]),
        tokens=rules.tokenise_corpus.output.tokens,
        vocabulary=rules.tokenise_corpus.output.vocabulary,
    output:
        metrics=f"{TOY}/framework/metrics.json",
        orders=f"{TOY}/framework/orders.csv",
        heads=f"{TOY}/framework/heads.csv",
        trigrams=f"{TOY}/framework/trigrams.csv",
    resources:
        mem_mb=2500,
    params:
        **STEP("measure_framework", run=False),
