# The rule behind every step: `use rule step as <name> with:` inputs, outputs, resources and params of
# `common.engine.rules.Steps`. Log and GPU: `complete_steps`, there too. One thread: the workflow runs one step a core.

COMMAND = "python -m {params.module} {params.arguments} > {log} 2>&1"


rule step:
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=10,
    shell:
        COMMAND
