"""What ablating features does to a language model, beside what the graph of the prompt says (Ameisen et al. 2025).

As for the two-hop models (interventions.py), with one target: the likeliest token's logit less the mean logit, at the
last position. A feature is ablated by taking what it writes off the output of its MLP; attention and norms are free.
Ranks are compared over features drawn at random from all that are active; those of highest influence are shown beside
them, and ablated together, as are as many that write about as much in the same layers.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.core.metrics import Metric, Uncertainty
from common.core.statistics import from_draws, with_control, without_interval
from replications.circuit_tracing.graph import Graph
from replications.circuit_tracing.influence import node_influence
from replications.circuit_tracing.interventions import matched, spearman, written
from replications.circuit_tracing.middle import strongest

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

BATCH = 32
TOGETHER = 10  # features ablated at once
RESAMPLES = 2000  # of the drawn features
RHO = "Spearman of {} and |change of the likeliest token's logit| over drawn features, bootstrap over features"
FALL = "fall of the likeliest token's logit less the mean logit, without {} features"
Edit = Int[Tensor, " _"]


@torch.no_grad()
def answers(bridge: "TransformerBridge", graph: Graph, edits: list[Edit]) -> Float[Tensor, " edit"]:
    """The likeliest token's logit less the mean logit, without the features of each edit."""
    frozen, target, found = graph.frozen, int(graph.logit_tokens[0]), []
    last = ("unembed.hook_in", lambda value, hook: value[:, -1:])
    for start in range(0, len(edits), BATCH):
        part = edits[start : start + BATCH]
        taken = torch.stack([written(graph.features, edit, frozen.mlp_out) for edit in part], 1)
        hooks = [
            (f"blocks.{layer}.hook_mlp_out", lambda value, hook, own=own: value - own)
            for layer, own in enumerate(taken)
            if bool(own.any())
        ]
        logits = bridge.run_with_hooks(frozen.tokens.expand(len(part), -1), fwd_hooks=[*hooks, last])[:, -1]
        found.append(logits[:, target] - logits.mean(1))
    return torch.cat(found)


def gradient_estimate(bridge: "TransformerBridge", graph: Graph) -> Float[Tensor, " feature"]:
    """First-order change of the likeliest token's logit less the mean logit without each feature, by one backward pass
    through the model itself: attention and MLPs answer, too."""
    features, tokens, target = graph.features, graph.frozen.tokens[None], int(graph.logit_tokens[0])
    probes = [torch.zeros_like(one, requires_grad=True) for one in graph.frozen.mlp_out]
    hooks = [
        (f"blocks.{layer}.hook_mlp_out", lambda value, hook, probe=probe: value + probe)
        for layer, probe in enumerate(probes)
    ]
    with torch.enable_grad():
        last = bridge.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1]
        gradient = torch.autograd.grad(last[target] - last.mean(), probes)
    found = torch.zeros(len(features))
    for layer, (which, rows) in enumerate(features.writers):
        found[which] += (rows * gradient[layer][features.pos[which]]).sum(1)
    return found * features.activation


class Ablated(NamedTuple):
    """What single features do, `drawn` ones and those of highest influence, and what some do together, in logits."""

    feature: Int[Tensor, " n"]
    drawn: Bool[Tensor, " n"]
    influence: Float[Tensor, " n"]
    write_norm: Float[Tensor, " n"]
    direct: Float[Tensor, " n"]
    """size of the edge into the likeliest token's logit, without any path through other features"""
    gradient: Float[Tensor, " n"]
    """size of the first-order estimate in the model itself"""
    change: Float[Tensor, " n"]
    """fall of the likeliest token's logit without the feature"""
    fall: float
    """without the most influential ones"""
    fall_matched: float
    """without as many that write about as much in the same layers"""

    def ranks(self, name: str) -> float:
        """Spearman over the drawn features of a prediction and the size of the change."""
        predicted, size = (one[self.drawn].numpy()[None] for one in (getattr(self, name), self.change.abs()))
        return spearman(predicted, size)[0]


def ablate(bridge: "TransformerBridge", graph: Graph, drawn: int, seed: int) -> Ablated:
    """Ablates `drawn` features drawn at random, and those of highest influence, one by one and together."""
    influence = node_influence(graph.adjacency, graph.logit_weights())[: graph.n_features]
    top = strongest(graph, influence, TOGETHER)
    some = torch.randperm(graph.n_features, generator=torch.Generator().manual_seed(seed))[:drawn]
    single = torch.cat([some, top])
    sets = [torch.tensor([], dtype=torch.long), top, matched(graph.features, top)]
    whole = answers(bridge, graph, [*sets, *single[:, None]])
    fall, fall_matched = (whole[0] - whole[1:3]).tolist()
    return Ablated(
        single, torch.arange(len(single)) < len(some), influence[single], graph.features.write_norm()[single],
        graph.adjacency[graph.first_logit, single].abs(), gradient_estimate(bridge, graph)[single].abs(),
        whole[0] - whole[3:], fall, fall_matched,
    )  # fmt: skip


def ablations(graph: Graph, found: Ablated, seed: int) -> tuple[list[dict[str, Any]], dict[str, Metric]]:
    """One row a feature, and the metrics of one prompt, where features are the sample.

    `agreement` beside that of what features write; `fall` and `fall_matched`, numbers of one prompt, so without an
    interval.
    """
    features = graph.features
    rows = [
        {
            "layer": int(features.layer[one]), "pos": int(features.pos[one]), "latent": int(features.latent[one]),
            "influence": float(found.influence[at]), "write_norm": float(found.write_norm[at]),
            "change": float(found.change[at]), "drawn": bool(found.drawn[at]),
        }
        for at, one in enumerate(found.feature.tolist())
    ]  # fmt: skip
    falls = {
        "fall": (found.fall, f"the {TOGETHER} most influential"),
        "fall_matched": (found.fall_matched, f"{TOGETHER} that write about as much"),
    }
    metrics = {name: without_interval(value, 1, "logits", FALL.format(of)) for name, (value, of) in falls.items()}
    influence, wrote, size = (
        one[found.drawn].numpy() for one in (found.influence, found.write_norm, found.change.abs())
    )
    return rows, {"agreement": ranks(influence, wrote, size, seed), **metrics}


def ranks(
    influence: Float[np.ndarray, " n"], wrote: Float[np.ndarray, " n"], size: Float[np.ndarray, " n"], seed: int
) -> Metric:
    """How well influence ranks changes, beside how well the size of writes does."""
    count = len(size)
    chosen = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    of = Uncertainty(unit="features", count=count)
    found = []
    for name, one in (("influence", influence), ("what is written", wrote)):
        draws = np.array(spearman(one[chosen], size[chosen]))
        value, formula = spearman(one[None], size[None])[0], RHO.format(name)
        found.append((draws, from_draws(value, draws, n=count, unit="rho", formula=formula, uncertainty=of)))
    (draws, effect), (others, control) = found
    apart = from_draws(effect.value - control.value, draws - others, n=count, unit="rho", formula="", uncertainty=of)
    return with_control(effect, "write_norm", control, apart)
