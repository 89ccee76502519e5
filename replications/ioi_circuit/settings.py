"""Settings of the IOI circuit. `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import Field, model_validator

from common.core.settings import Strict
from replications.ioi_circuit.templates import TEMPLATES


class Prompts(Strict):
    per_cell: Annotated[int, Field(ge=1, le=100)] = Field(
        description="prompts per seed, template and order; with all templates a seed has 88 times as many"
    )
    circuit_per_cell: Annotated[int, Field(ge=1, le=100)] = Field(
        description="the same for the separate draw on which the circuit is searched and tested"
    )
    minimum_names: Annotated[int, Field(ge=10, le=100)] = Field(
        description="single-token names that a tokenizer must offer; with fewer the step stops"
    )
    templates: Annotated[int, Field(ge=2, le=len(TEMPLATES))] | None = Field(
        None, description="the first so many templates; null for all"
    )


class Collect(Strict):
    batch_size: Annotated[int, Field(ge=1, le=4096)] = Field(description="prompts in one forward pass")
    small_group: Annotated[int, Field(ge=1, le=100)] = Field(
        description="prompts in the smaller template means, the paper's regime"
    )


class Baseline(Strict):
    shuffles: Annotated[int, Field(ge=100, le=10_000)] = Field(description="draws of shuffled IO and S labels")


class DirectPath(Strict):
    batch_size: Annotated[int, Field(ge=1, le=4096)] = Field(description="prompts whose heads are patched at a time")
    draws: Annotated[int, Field(ge=100, le=10_000)] = Field(description="draws of each null distribution")


class PathPatching(Strict):
    end_prompts: Annotated[int, Field(ge=7, le=1000)] = Field(
        description="discovery prompts of the sweeps whose receivers sit at END"
    )
    inner_step: Annotated[int, Field(ge=1, le=100)] = Field(
        description="every how many of these prompts are swept with receivers at S2 and S1+1, and with flipped roles"
    )
    screened: Annotated[int, Field(ge=1, le=10_000)] = Field(
        description="heads with the largest first-order effect, which get the exact sweep, receivers at END"
    )
    screened_inner: Annotated[int, Field(ge=1, le=10_000)] = Field(description="the same, receivers at S2 and S1+1")
    resamples: Annotated[int, Field(ge=20, le=10_000)] = Field(
        description="resamples of the prompts on which each head's class must hold"
    )
    again_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(
        description="verification prompts on which the named heads are patched again"
    )
    minimum_percent: Annotated[float, Field(gt=0, le=50)] = Field(
        description="smallest effect that counts, percent of the mean logit difference"
    )
    period: Annotated[int, Field(ge=10, le=500)] = Field(description="random tokens before they are repeated")
    sequences: Annotated[int, Field(ge=1, le=100)] = Field(description="sequences of repeated random tokens")
    draws: Annotated[int, Field(ge=100, le=10_000)] = Field(description="draws of each null distribution")


class ReceiversApart(Strict):
    n_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="discovery prompts that choose the senders")
    again_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="verification prompts that measure them")
    screened: Annotated[int, Field(ge=1, le=10_000)] = Field(
        description="heads with the largest first-order effect, which get the exact sweep"
    )


class SubjectOrRepeat(Strict):
    n_prompts: Annotated[int, Field(ge=2, le=10_000)] = Field(description="prompts of each half")
    batch_size: Annotated[int, Field(ge=1, le=4096)] = Field(description="prompts in one forward pass")


class Signals(Strict):
    n_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="verification prompts")
    draws: Annotated[int, Field(ge=20, le=1000)] = Field(
        description="sets of other heads that are patched in place of the S-inhibition heads"
    )
    edit_draws: Annotated[int, Field(ge=20, le=1000)] = Field(
        description="the same where tokens behind the names are edited"
    )


class Greedy(Strict):
    runs: Annotated[int, Field(ge=1, le=100)] = Field(description="independent greedy runs")
    iterations: Annotated[int, Field(ge=1, le=100)] = Field(description="nodes that a run takes out")
    candidates: Annotated[int, Field(ge=1, le=100)] = Field(description="random nodes of which it takes the worst")


class Verification(Strict):
    curve_prompts: Annotated[int, Field(ge=4, le=1000)] = Field(
        description="discovery prompts on which the circuit's size is chosen"
    )
    verify_prompts: Annotated[int, Field(ge=4, le=1000)] = Field(
        description="verification prompts of circuits and classes"
    )
    sizes: Annotated[list[int], Field(min_length=2)] = Field(description="numbers of nodes on the size curve")
    largest_share: Annotated[float, Field(gt=0, le=1)] = Field(
        description="largest share of the model's heads that a circuit may have"
    )
    smallest_faithfulness: Annotated[float, Field(ge=0, le=1)] = Field(
        description="what a circuit keeps of the logit difference at least; below, the verdict is 'no small circuit'"
    )
    random_sets: Annotated[int, Field(ge=20, le=10_000)] = Field(
        description="draws of the circuit's writers with random nodes upstream"
    )
    blind_sets: Annotated[int, Field(ge=20, le=10_000)] = Field(
        description="how many of these run on ABC prompts too; random parts beside the greedy one"
    )
    greedy_prompts: Annotated[int, Field(ge=4, le=1000)] = Field(description="discovery prompts of the greedy search")
    greedy: Greedy
    batch_size: Annotated[int, Field(ge=8, le=100_000)] = Field(description="token positions computed in one pass")


class Robustness(Strict):
    verify_prompts: Annotated[int, Field(ge=4, le=1000)] = Field(
        description="verification prompts of small sets, of minimality, and of the naive circuit's greedy gap"
    )
    random_prompts: Annotated[int, Field(ge=4, le=1000)] = Field(
        description="verification prompts of random node sets, of parts taken out, and of answers"
    )
    greedy_prompts: Annotated[int, Field(ge=4, le=1000)] = Field(description="discovery prompts of the greedy search")
    grid_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="verification prompts of the ablation grid")
    random_sets: Annotated[int, Field(ge=20, le=10_000)] = Field(
        description="random node sets with the layers and positions of the circuit"
    )
    random_parts: Annotated[int, Field(ge=20, le=10_000)] = Field(description="random parts taken out of the circuit")
    greedy: Greedy
    small_group: Annotated[int, Field(ge=1, le=100)] = Field(description="prompts in the smaller template means")
    batch_size: Annotated[int, Field(ge=8, le=100_000)] = Field(description="token positions computed in one pass")


class Sensitivity(Strict):
    batch_size: Annotated[int, Field(ge=1, le=4096)] = Field(description="prompts in one forward pass")


class EdgeCurves(Strict):
    """Scores of edges, and how faithful the circuits are that they rank."""

    score_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(
        description="discovery prompts of EAP and EAP-IG, of each set"
    )
    curve_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="verification prompts of the curves")
    ig_steps: Annotated[int, Field(ge=2, le=100)] = Field(description="points between partner and prompt of EAP-IG")
    shares: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)] = Field(
        description="shares of all edges on the curves"
    )
    random_circuits: Annotated[int, Field(ge=20, le=1000)] = Field(description="random rankings of the edges")
    circuits_per_pass: Annotated[int, Field(ge=1, le=1000)] = Field(8, description="circuits that are run at a time")


class EdgeAttribution(EdgeCurves):
    small: float = Field(description="of `shares`, that at which small circuits are compared")
    draws: Annotated[int, Field(ge=100, le=10_000)] = Field(description="draws of shuffled labels")

    @model_validator(mode="after")
    def _small_is_a_share(self) -> "EdgeAttribution":
        if self.small not in self.shares:
            raise ValueError(f"small is {self.small}, which is not one of shares ({self.shares}); name one of them")
        return self


class GroundTruth(Strict):
    n_prompts: Annotated[int, Field(ge=14, le=1000)] = Field(description="discovery prompts of the planted models")
    minimum_percent: Annotated[float, Field(gt=0, le=50)] = Field(
        description="smallest effect that counts, percent of the mean logit difference"
    )
    draws: Annotated[int, Field(ge=100, le=10_000)] = Field(description="draws of each null distribution")
    resamples: Annotated[int, Field(ge=20, le=10_000)] = Field(description="resamples on which a class must hold")
    greedy: Greedy


class EdgeGroundTruth(EdgeCurves):
    exact_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(
        description="discovery prompts of exact patching and ACDC"
    )
    thresholds: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = Field(
        description="of ACDC, in nats"
    )
    n_seeds: Annotated[int, Field(ge=2, le=100)] = Field(description="planted models: the first so many seeds")


class Settings(Strict):
    """All parts. A part that is null is not run."""

    prompts: Prompts
    collect: Collect
    baseline: Baseline
    direct_path: DirectPath
    path_patching: PathPatching
    signals: Signals
    verification: Verification
    other_half: PathPatching | None
    receivers_apart: ReceiversApart | None
    subject_or_repeat: SubjectOrRepeat | None
    robustness: Robustness | None
    sensitivity: Sensitivity | None
    edge_attribution: EdgeAttribution | None
    ground_truth: GroundTruth | None
    edge_ground_truth: EdgeGroundTruth | None
