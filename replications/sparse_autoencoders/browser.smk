# The feature browser: a page for each architecture at the central point and for the SAE of the later layer; the target
# `browser` adds those of all other SAEs. Included by rules.smk.
from replications.sparse_autoencoders.members import members
from replications.sparse_autoencoders.settings import Sweep

SWEEP = config["sweep"]
CENTRE = f"{SWEEP['width']}-k{SWEEP['sparsity']}-s{config['seeds'][0]}"
SHOWN = [f"{name}-{CENTRE}" for name in ("batch_topk", *SWEEP["architectures"], "late")]
TRAINED = [one.name for one in members(Sweep(**SWEEP), SEEDS["seeds"])]


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


use rule browse as browse_rest with:
    output:
        [
            f"<results>/{{model}}/browser/others/{name}.html"
            for name in TRAINED
            if name not in SHOWN
        ],
    log:
        "<logs>/{model}/on_demand/browse_rest.log",
    resources:
        mem_mb=6000,
        runtime=120,


rule browser:
    input:
        expand(rules.browse.output, model=config["models"]),
        expand(rules.browse_rest.output, model=config["models"]),
