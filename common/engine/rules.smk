# Rules that serve every replication: models and corpora, then claims, provenance, cost and paper.
# Logs of models and corpora lie in `resources/` beside them, since all scales share both.
# `priority`: what the longest chains begin with goes first, so that no core waits for them at the end.


use rule step as materialise_model with:
    input:
        lambda wildcards: folder_files(MODELS[wildcards.model]),
    output:
        manifest="<models>/{model}/manifest.json",
    log:
        "resources/logs/{model}.log",
    priority: 3
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        **STEP(
            "data.materialise",
            lambda wildcards: {
                "name": wildcards.model,
                "entry": MODELS[wildcards.model].model_dump(mode="json"),
            },
            run=False,
        ),


use rule step as smoke_model with:
    input:
        manifest=f"<models>/{CHAT_MODEL}/manifest.json",
    output:
        config="resources/trained/smollm2-135m-shallow/config.json",
        weights="resources/trained/smollm2-135m-shallow/model.safetensors",
    log:
        "resources/logs/smoke_model.log",
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        **STEP("recipes.smoke_model", run=False),


use rule step as python_docs with:
    input:
        registry="config/corpora.yaml",
    output:
        manifest="<corpora>/python-docs/manifest.json",
    log:
        "resources/logs/python-docs.log",
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        **STEP("recipes.python_docs", run=False),


use rule step as self_chat with:
    input:
        model=f"<models>/{CHAT_MODEL}/manifest.json",
        registry="config/corpora.yaml",
        packed=SELF_CHAT.file,
    output:
        manifest="<corpora>/self-chat/manifest.json",
    log:
        "resources/logs/self-chat.log",
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        **STEP("recipes.self_chat", run=False),


use rule self_chat as self_chat_long with:
    input:
        model=f"<models>/{CHAT_MODEL}/manifest.json",
        registry="config/corpora.yaml",
        packed=corpus_entry("self-chat-long").file,
    output:
        manifest="<corpora>/self-chat-long/manifest.json",
    log:
        "resources/logs/self-chat-long.log",
    params:
        **STEP("recipes.self_chat_long", run=False),


# On demand only: the files above, sampled again; the longer one begins with the shorter one.
use rule step as sample_self_chat with:
    input:
        model=f"<models>/{CHAT_MODEL}/manifest.json",
        registry="config/corpora.yaml",
    output:
        corpus="<corpora>/self-chat-sampled/self-chat-long.jsonl.xz",
    log:
        "resources/logs/self-chat-sampled.log",
    resources:
        mem_mb=5000,
        runtime=300,
    params:
        **STEP("recipes.sample_self_chat", run=False),


rule corpora:
    input:
        rules.python_docs.output,
        rules.self_chat.output,
        rules.self_chat_long.output,


use rule step as verify with:
    input:
        each=expand("<results>/{name}/claims.json", name=NAMES),
    output:
        claims="<results>/claims.json",
    params:
        **STEP("publish.all_claims", run=False),


use rule step as claims_page with:
    input:
        multiext("common/publish/templates/claims", ".html.j2", ".css", ".js"),
        definition_files(NAMES),
        claims=rules.verify.output.claims,
    output:
        markdown="<results>/claims.md",
        html=report(
            "<results>/claims.html",
            caption="../../paper/claims.rst",
            category="Claims",
            labels={"page": "All claims, with a filter"},
        ),
    params:
        **STEP("publish.claims_page", run=False),


use rule step as provenance with:
    input:
        rules.verify.output.claims,
        expand("<models>/{model}/manifest.json", model=RUN.models),
    output:
        provenance="<results>/provenance.json",
    params:
        **STEP("publish.provenance", RECORDED | {"own_seeds": RUN.own_seeds}, run=False),
        git=git_state(),
        hashes=[lock_hash(), config_hash()],


use rule step as cost with:
    input:
        [getattr(rules, f"{name}_figures").input for name in NAMES],
        rules.verify.output.claims,
    output:
        cost="<results>/cost.json",
    params:
        **STEP("publish.cost", run=False),


use rule step as paper with:
    input:
        rules.verify.output.claims,
        rules.provenance.output,
        rules.cost.output,
        [getattr(rules, f"{name}_metrics").input for name in NAMES],
        [getattr(rules, f"{name}_figures").input for name in NAMES],
        expand("replications/{name}/section.typ", name=NAMES),
        definition_files(NAMES),
        multiext("paper/", "main.typ", "landmarks.typ", "glance.typ", "discussion.typ"),
        references(),
    output:
        pdf=report(
            "<results>/paper.pdf",
            caption="../../paper/paper.rst",
            category="Paper",
            labels={"page": "The paper"},
        ),
    params:
        **STEP("publish.paper", {"makers": figure_rules(workflow.rules)}, run=False),
