"""Settings of the IOI circuit. `config.yaml` gives the values of each scale."""

from typing import Annotated

from pydantic import Field

from common.core.settings import Strict


class Prompts(Strict):
    per_cell: Annotated[int, Field(ge=1, le=100)] = Field(
        description="prompts per seed, template and order; a seed has 30 times as many"
    )
    circuit_per_cell: Annotated[int, Field(ge=1, le=100)] = Field(
        description="the same for the separate draw on which the circuit is searched and tested"
    )
    adversarial: Annotated[int, Field(ge=9, le=10_000)] = Field(
        description="prompts that get a further sentence, once about each name"
    )
    minimum_names: Annotated[int, Field(ge=10, le=100)] = Field(
        description="single-token names that a tokenizer must offer; with fewer the step stops"
    )


class Collect(Strict):
    batch_size: Annotated[int, Field(ge=1, le=4096)] = Field(description="prompts in one forward pass")
    small_group: Annotated[int, Field(ge=1, le=100)] = Field(
        description="prompts in the smaller template means, the paper's regime"
    )


class Baseline(Strict):
    shuffles: Annotated[int, Field(ge=100, le=10_000)] = Field(description="draws of shuffled IO and S labels")


class LogitLens(Strict):
    early_depth: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="share of the layers that counts as the early part of the model"
    )


class DirectPath(Strict):
    batch_size: Annotated[int, Field(ge=1, le=4096)] = Field(description="prompts whose heads are patched at a time")
    top: Annotated[int, Field(ge=1, le=20)] = Field(description="heads that count as 'few'")
    late_depth: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="depth from which a head counts as late; 0 is the first layer, 1 the last"
    )
    draws: Annotated[int, Field(ge=100, le=10_000)] = Field(description="draws of each null distribution")


class PathPatching(Strict):
    end_prompts: Annotated[int, Field(ge=7, le=1000)] = Field(
        description="discovery prompts of the sweeps whose receivers sit at END"
    )
    inner_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(
        description="discovery prompts of the sweeps whose receivers sit at S2 or S1+1"
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
    further_receivers: bool = Field(description="sweep two more receiver sets, which name nobody")
    steering_draws: Annotated[int, Field(ge=20, le=1000)] = Field(
        description="sets of other heads that are patched in place of the S-inhibition heads"
    )


class Signals(Strict):
    n_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="verification prompts")
    draws: Annotated[int, Field(ge=20, le=1000)] = Field(
        description="sets of other heads that are patched in place of the S-inhibition heads"
    )


class MlpKnockout(Strict):
    n_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="verification prompts")
    means_prompts: Annotated[int, Field(ge=1, le=100)] = Field(description="ABC prompts in the mean of a template")


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
    batch_size: Annotated[int, Field(ge=8, le=100_000)] = Field(description="token positions computed in one pass")


class Robustness(Strict):
    random_prompts: Annotated[int, Field(ge=4, le=1000)] = Field(
        description="verification prompts of random node sets, of parts taken out, and of minimality"
    )
    grid_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="verification prompts of the ablation grid")
    random_sets: Annotated[int, Field(ge=20, le=10_000)] = Field(
        description="random node sets with the layers and positions of the circuit"
    )
    random_parts: Annotated[int, Field(ge=20, le=10_000)] = Field(description="random parts taken out of the circuit")
    greedy: Greedy
    small_group: Annotated[int, Field(ge=1, le=100)] = Field(description="prompts in the smaller template means")
    batch_size: Annotated[int, Field(ge=8, le=100_000)] = Field(description="token positions computed in one pass")


class FineTuned(Strict):
    models: list[str] = Field(
        description="models of which the variants that `refusal_direction` fine-tunes are measured as well"
    )
    n_seeds: Annotated[int, Field(ge=1, le=20)] = Field(description="fine-tuned variants of a model")
    verify_prompts: Annotated[int, Field(ge=4, le=1000)] = Field(
        description="verification prompts of circuit and classes"
    )
    random_prompts: Annotated[int, Field(ge=4, le=1000)] = Field(description="verification prompts of random node sets")
    sweep_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="verification prompts of path patching")
    random_sets: Annotated[int, Field(ge=20, le=10_000)] = Field(
        description="random node sets with the layers and positions of the circuit"
    )
    means_prompts: Annotated[int, Field(ge=1, le=100)] = Field(description="ABC prompts in the mean of a template")
    top: Annotated[int, Field(ge=1, le=50)] = Field(description="heads with the largest effects that are compared")
    draws: Annotated[int, Field(ge=20, le=10_000)] = Field(description="draws of other heads of the same layers")
    batch_size: Annotated[int, Field(ge=8, le=100_000)] = Field(description="token positions computed in one pass")


class ActivationPatching(Strict):
    n_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="discovery prompts")
    layer_step: Annotated[int, Field(ge=1, le=16)] = Field(
        description="every how many layers streams and outputs are patched"
    )
    head_step: Annotated[int, Field(ge=1, le=16)] = Field(description="every how many layers heads are patched")


class EdgeCurves(Strict):
    """Scores of edges, and how faithful the circuits are that they rank."""

    score_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="discovery prompts of EAP and EAP-IG")
    curve_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(description="verification prompts of the curves")
    ig_steps: Annotated[int, Field(ge=2, le=100)] = Field(description="points between partner and prompt of EAP-IG")
    shares: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)] = Field(
        description="shares of all edges on the curves"
    )
    random_circuits: Annotated[int, Field(ge=20, le=1000)] = Field(description="random rankings of the edges")
    circuits_per_pass: Annotated[int, Field(ge=1, le=1000)] = Field(8, description="circuits that are run at a time")


class EdgeAttribution(EdgeCurves):
    draws: Annotated[int, Field(ge=100, le=10_000)] = Field(description="draws of shuffled labels")


class EdgeSearch(EdgeCurves):
    exact_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(
        description="discovery prompts of exact patching and ACDC"
    )
    candidates: Annotated[int, Field(ge=2)] | None = Field(
        None, description="edges searched, those with the largest EAP-IG score; all if not given"
    )
    threshold: Annotated[float, Field(gt=0)] = Field(description="of ACDC, in nats")


class GroundTruth(Strict):
    n_prompts: Annotated[int, Field(ge=14, le=1000)] = Field(description="discovery prompts of the planted models")
    minimum_percent: Annotated[float, Field(gt=0, le=50)] = Field(
        description="smallest effect that counts, percent of the mean logit difference"
    )
    draws: Annotated[int, Field(ge=100, le=10_000)] = Field(description="draws of each null distribution")
    greedy: Greedy


class EdgeGroundTruth(EdgeCurves):
    exact_prompts: Annotated[int, Field(ge=2, le=1000)] = Field(
        description="discovery prompts of exact patching and ACDC"
    )
    thresholds: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = Field(
        description="of ACDC, in nats"
    )
    n_seeds: Annotated[int, Field(ge=2, le=100)] = Field(description="planted models: the first so many seeds")


class DirectEffects(Strict):
    """What `direct_effects` reads."""

    logit_lens: LogitLens
    direct_path: DirectPath


class Settings(Strict):
    """All parts. A part that is null is not run."""

    prompts: Prompts
    collect: Collect
    baseline: Baseline
    logit_lens: LogitLens
    direct_path: DirectPath
    path_patching: PathPatching
    signals: Signals
    mlp_knockout: MlpKnockout | None
    verification: Verification
    robustness: Robustness | None
    fine_tuned: FineTuned | None
    activation_patching: ActivationPatching | None
    edge_attribution: EdgeAttribution | None
    edge_search: EdgeSearch | None
    ground_truth: GroundTruth | None
    edge_ground_truth: EdgeGroundTruth | None
