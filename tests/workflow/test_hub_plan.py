"""What a run with models of a hub would do, from dry runs; nothing is fetched."""

from collections import Counter

import pytest

from common.core.claims import load_claims
from common.core.settings import load_scale, replications
from common.engine.config import Run
from common.engine.hub_models import models_of

pytestmark = pytest.mark.workflow
OWN = "smollm2-135m-instruct-q4_1"


@pytest.fixture(scope="module")
def project(copy_project):
    """A copy in which nothing has run."""
    return copy_project()


def models(jobs):
    """Pairs (replication, model) of a plan's jobs on language models."""
    found = set()
    for job in jobs:
        if "model" in job.wildcards and job.rule != "materialise_model":
            found.add((next(name for name in replications() if job.rule.startswith(name)), job.wildcards["model"]))
    return found


def test_a_hub_model_joins_the_replications_whose_claims_name_it(project):
    found = models(project.planned(config=("scale=laptop", "hub=1")))
    claims = {name: load_claims(name) for name in replications()}
    named = {name for name, own in claims.items() if any(OWN in one.models and "laptop" in one.scales for one in own)}
    assert {name for name, model in found if model == OWN} == named >= {"ioi_circuit", "feature_steering"}
    assert {pair for pair in found if pair[1] != OWN} == {("ioi_circuit", "gpt2"), ("feature_steering", "gpt2")}


def test_of_the_hub_models_of_scale_gpu_those_join_that_a_claim_names():
    """As plain sizes: a plan at scale gpu needs a GPU."""
    scale = load_scale("gpu")
    run = Run(
        scale="gpu", results="results/gpu", device="cuda", seeds=scale.seeds, kind="scored",
        models=[*scale.models, *scale.hub_models], hub=True,
    )  # fmt: skip
    assert models_of("feature_steering", run, chosen=False) == [OWN, "gpt2"]
    assert models_of("monosemanticity", run, chosen=False) == [OWN]


def test_a_released_sae_takes_the_place_of_own_ones(project):
    """Nothing of `sparse_autoencoders` is asked for."""
    jobs = project.planned("feature_steering", config=("scale=laptop", "hub=1", "models=gpt2"))
    counts = Counter(job.rule for job in jobs)
    assert (counts["feature_steering_release"], counts["feature_steering_page"]) == (1, 1)
    assert not [rule for rule in counts if rule.startswith("sparse_autoencoders")]


def test_a_model_that_refuses_is_studied_as_it_is(project):
    chosen = ("scale=full", "hub=1", "models=qwen2.5-0.5b-instruct")
    jobs = project.planned("refusal_direction", config=chosen)
    counts = Counter(job.rule.removeprefix("refusal_direction_") for job in jobs)
    steps = {"requests": 1, "study_released": 5, "summarise_released": 1, "draw_released": 1, "claims": 1}
    assert {name: counts[name] for name in steps} == steps
    assert not {"fine_tune", "study", "guardrail", "summarise", "transfer", "draw_parts"} & set(counts)
