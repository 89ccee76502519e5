# Rules that serve every replication: models and corpora, then claims, provenance, cost and paper.
# `priority`: what the longest chains begin with goes first, so that no core waits for them at the end.


rule materialise_model:
    input:
        lambda wildcards: folder_files(MODELS[wildcards.model]),
    output:
        "<models>/{model}/manifest.json",
    log:
        "resources/logs/{model}.log",
    priority: 3
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        entry=lambda wildcards: MODELS[wildcards.model].model_dump_json(),
        sources=source_hash("common.data.materialise"),
    shell:
        "python -m common.data.materialise --name {wildcards.model} --out {output} > {log} 2>&1"


rule shallow_model:
    input:
        f"<models>/{CHAT_MODEL}/manifest.json",
    output:
        config="resources/trained/smollm2-135m-shallow/config.json",
        weights="resources/trained/smollm2-135m-shallow/model.safetensors",
    log:
        "resources/logs/shallow_model.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        sources=source_hash("common.recipes.smoke_model"),
    shell:
        "python -m common.recipes.smoke_model --manifest {input} --config {output.config} --weights {output.weights} > {log} 2>&1"


rule python_docs:
    input:
        model=f"<models>/{CHAT_MODEL}/manifest.json",
        registry="config/corpora.yaml",
    output:
        "<corpora>/python-docs/manifest.json",
    log:
        "resources/logs/python-docs.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        sources=source_hash("common.recipes.python_docs"),
    shell:
        "python -m common.recipes.python_docs --model-manifest {input.model} --out {output} > {log} 2>&1"


rule self_chat:
    input:
        model=f"<models>/{CHAT_MODEL}/manifest.json",
        registry="config/corpora.yaml",
    output:
        f"<corpora>/self-chat-{RUN.scale}/manifest.json",
    log:
        f"resources/logs/self-chat-{RUN.scale}.log",
    priority: 2
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        options=flags({"scale": RUN.scale, "device": RUN.device}),
        sources=source_hash("common.recipes.self_chat"),
    shell:
        "python -m common.recipes.self_chat {params.options} --model-manifest {input.model} --out {output} > {log} 2>&1"


rule corpora:
    input:
        rules.python_docs.output,
        rules.self_chat.output,


rule verify:
    input:
        expand("<results>/{name}/claims.json", name=NAMES),
    output:
        json="<results>/claims.json",
    log:
        "<logs>/verify.log",
    conda:
        "../../envs/environment.yaml"
    params:
        sources=source_hash("common.core.verify"),
    shell:
        "python -m common.core.verify all --claims {input} --out {output.json} > {log} 2>&1"


rule claims_page:
    input:
        multiext("common/publish/templates/claims", ".html.j2", ".css", ".js"),
        claims=rules.verify.output.json,
    output:
        markdown="<results>/claims.md",
        html=report(
            "<results>/claims.html",
            caption="../../paper/claims.rst",
            category="Claims",
            labels={"page": "All claims, with a filter"},
        ),
    log:
        "<logs>/claims_page.log",
    conda:
        "../../envs/environment.yaml"
    params:
        sources=source_hash("common.publish.claims_page"),
    shell:
        "python -m common.publish.claims_page --claims {input.claims} --out {output.html} > {log} 2>&1"


rule provenance:
    input:
        rules.verify.output.json,
        expand("<models>/{model}/manifest.json", model=RUN.models),
    output:
        "<results>/provenance.json",
    log:
        "<logs>/provenance.log",
    conda:
        "../../envs/environment.yaml"
    params:
        run=RUN.model_dump_json(),
        git=git_state(),
        hashes=[lock_hash(), config_hash()],
        sources=source_hash("common.publish.provenance"),
    shell:
        "python -m common.publish.provenance --run {params.run:q} --out {output} > {log} 2>&1"


rule cost:
    input:
        [getattr(rules, f"{name}_figures").input for name in NAMES],
        rules.verify.output.json,
    output:
        "<results>/cost.json",
    log:
        "<logs>/cost.log",
    conda:
        "../../envs/environment.yaml"
    params:
        sources=source_hash("common.publish.cost"),
    shell:
        "python -m common.publish.cost --out {output} > {log} 2>&1"


rule paper:
    input:
        rules.verify.output.json,
        rules.provenance.output,
        rules.cost.output,
        [getattr(rules, f"{name}_metrics").input for name in NAMES],
        [getattr(rules, f"{name}_figures").input for name in NAMES],
        expand("replications/{name}/section.typ", name=NAMES),
        main="paper/main.typ",
        library="paper/landmarks.typ",
        discussion="paper/discussion.typ",
        references=references(),
    output:
        report(
            "<results>/paper.pdf",
            caption="../../paper/paper.rst",
            category="Paper",
            labels={"page": "The paper"},
        ),
    log:
        "<logs>/paper.log",
    conda:
        "../../envs/environment.yaml"
    params:
        makers=figure_rules(workflow.rules),
        sources=source_hash("common.publish.paper"),
    shell:
        "python -m common.publish.paper --makers {params.makers:q} --out {output} > {log} 2>&1"
