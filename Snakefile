# Landmarks: the whole workflow. Checks the settings, loads every replications/*/rules.smk as a module, and defines the
# targets. A new folder under replications/ is a new replication; nothing here needs an edit for it.
import sys

sys.path.insert(0, workflow.basedir)

from common.core.claims import load_claims
from common.core.seals import state as seal_state
from common.core.settings import load_replication, replications
from common.engine.config import load_run
from common.data.corpora import corpus_entry
from common.core.errors import UserError
from common.engine.hub_models import models_of
from common.data.models import folder_files, registry
from common.publish.controls import definition_files
from common.publish.paper import figure_rules, references
from common.publish.provenance import config_hash, git_state, lock_hash
from common.publish.reference import state
from common.engine.rules import (
    Steps,
    complete_steps,
    tie_steps_to_this_process,
)
from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.27")

tie_steps_to_this_process()

try:
    RUN = load_run(
        config.get("scale", "laptop"),
        calibrate=bool(config.get("calibrate", False)),
        models=config.get("models", ""),
        hub=bool(config.get("hub", False)),
        seeds=str(config.get("seeds", "")),
    )
    NAMES = replications()
    for name in NAMES:
        load_claims(name)  # a slip is found now, not after the computing
    SELF_CHAT = corpus_entry("self-chat")
    CHAT_MODEL = SELF_CHAT.model
    SETTINGS = {
        name: load_replication(name, RUN.scale).model_dump(mode="json")
        | {
            "seeds": RUN.of(name).seeds,
            "device": RUN.device,
            "models": models_of(name, RUN, chosen=bool(config.get("models"))),
            "scale": RUN.scale,
        }
        for name in NAMES
    }
    MODELS = registry()
except UserError as error:
    raise WorkflowError(str(error)) from None


pathvars:
    results=RUN.results,
    logs=f"{RUN.results}/logs",
    models="resources/models",
    corpora="resources/corpora",


wildcard_constraints:
    model="|".join(MODELS),


include: "common/engine/step.smk"


STEP = Steps("common", {"scale": RUN.scale, "seeds": RUN.seeds, "device": RUN.device})
RECORDED = RUN.model_dump(include={"scale", "seeds", "models", "device"})

for NAME in NAMES:
    PREFIX = f"{NAME}_"

    module:
        name: NAME
        pathvars:
            results=f"{RUN.results}/{NAME}",
            logs=f"{RUN.results}/logs/{NAME}",
            all_results=RUN.results,
            models="resources/models",
            corpora="resources/corpora",
        snakefile:
            f"replications/{NAME}/rules.smk"
        config:
            SETTINGS[NAME]

    use rule * from NAME as PREFIX*

    rule:
        name:
            f"{NAME}_claims"
        input:
            metrics=getattr(rules, f"{NAME}_metrics").input,
            definitions=f"replications/{NAME}/claims.yaml",
        output:
            claims=f"<results>/{NAME}/claims.json",
        log:
            f"<logs>/{NAME}/claims.log",
        conda:
            "envs/environment.yaml"
        params:
            **STEP(
                "core.verify",
                {
                    "name": NAME,
                    **RUN.model_dump(include={"scale", "results", "models", "kind"}),
                },
                run=False,
            ),
            seals=seal_state(NAME, RUN.scale),
        shell:
            COMMAND

    rule:
        name:
            f"{NAME}_provenance"
        input:
            getattr(rules, f"{NAME}_figures").input,
            f"<results>/{NAME}/claims.json",
        output:
            provenance=f"<results>/{NAME}/provenance.json",
        log:
            f"<logs>/{NAME}/provenance.log",
        conda:
            "envs/environment.yaml"
        params:
            **STEP(
                "publish.provenance",
                RECORDED
                | {
                    "seeds": RUN.of(NAME).seeds,
                    "name": NAME,
                    "state": state(NAME, RUN.scale),
                },
                run=False,
            ),
        shell:
            COMMAND

    rule:
        name:
            NAME
        input:
            getattr(rules, f"{NAME}_figures").input,
            f"<results>/{NAME}/claims.json",
            f"<results>/{NAME}/provenance.json",


include: "common/engine/rules.smk"


rule figures:
    input:
        [getattr(rules, f"{name}_figures").input for name in NAMES],


rule metrics:
    input:
        [getattr(rules, f"{name}_metrics").input for name in NAMES],


rule browser:
    input:
        [
            getattr(rules, rule.name).input
            for rule in workflow.rules
            if rule.name.endswith("_browser")
        ],


rule all:
    default_target: True
    input:
        rules.figures.input,
        [getattr(rules, f"{name}_provenance").output for name in NAMES],
        rules.verify.output,
        rules.claims_page.output,
        rules.provenance.output,
        rules.cost.output,
        rules.paper.output,


# logs, and places on the GPU
complete_steps(workflow.rules, RUN.device)
