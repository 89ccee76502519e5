# The feature browser: one page for each architecture at the central point, and for the SAE of the later layer. Included by
# rules.smk.

SWEEP = config["sweep"]
CENTRE = f"{SWEEP['width']}-k{SWEEP['sparsity']}-s{config['seeds'][0]}"
SHOWN = [f"{name}-{CENTRE}" for name in ("batch_topk", *SWEEP["architectures"], "late")]


rule browse:
    input:
        manifest="<models>/{model}/manifest.json",
        index=rules.train_language.output.index,
        activations=[rules.collect.output.early, rules.collect.output.late],
        held_out=rules.collect.output.held_out,
        template="common/saes/browser.html",
        caption=f"{CAPTIONS}/browser.rst",
    output:
        [
            report(
                f"<results>/{{model}}/browser/{name}.html",
                caption="captions/browser.rst",
                category="Feature browser",
                subcategory="Sparse autoencoders",
                labels={"SAE": name, "model": "{model}"},
            )
            for name in SHOWN
        ],
    log:
        "<logs>/{model}/browse.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=20,
    params:
        sources=source_hash(f"{NAME}.browse"),
    shell:
        "python -m replications.sparse_autoencoders.browse --manifest {input.manifest} --index {input.index} --activations {input.activations} --held-out {input.held_out} --template {input.template} --pages {output} > {log} 2>&1"
