"""What ablating features does to a language model, beside what the graph of the prompt says (Ameisen et al. 2025).

As for the two-hop models (interventions.py), with one target: the likeliest token's logit less the mean logit, at the
last position. A feature is ablated by taking what it writes off the output of its MLP; attention and norms are free.
Ranks are compared over features drawn from sites (a layer and a position). Those of highest influence are shown beside
them, and ablated together. So are as many of the same sites that write about as much.

Differences to the paper: there the targets are downstream features, one by one, and attention patterns are frozen. Over
features of many sites, ranks say much about sites: late layers and the last position matter to the answer, whatever
fires there. Hence `permuted` and `within_sites`.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.core.metrics import Metric, Uncertainty
from common.core.statistics import from_draws, with_control, without_interval
from replications.circuit_tracing.graph import Graph
from replications.circuit_tracing.influence import node_influence
from replications.circuit_tracing.interventions import matched, reaching, spearman, written
from replications.circuit_tracing.middle import strongest

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

BATCH = 32
TOGETHER = 10  # features ablated at once
LEAST = 3  # features of a site from which some are drawn
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


def margin_gradient(bridge: "TransformerBridge", graph: Graph) -> Float[Tensor, "layer pos d_model"]:
    """Gradient of the likeliest token's logit less the mean logit with respect to what each MLP writes, by one backward
    pass through the model itself. Attention, norms and MLPs answer."""
    tokens, target = graph.frozen.tokens[None], int(graph.logit_tokens[0])
    probes = [torch.zeros_like(one, requires_grad=True) for one in graph.frozen.mlp_out]
    hooks = [
        (f"blocks.{layer}.hook_mlp_out", lambda value, hook, probe=probe: value + probe)
        for layer, probe in enumerate(probes)
    ]
    with torch.enable_grad():
        last = bridge.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1]
        return torch.stack(torch.autograd.grad(last[target] - last.mean(), probes))


PREDICTIONS = ("influence", "direct_edge", "write_norm", "sizes_alone", "gradient")


class Ablated(NamedTuple):
    """What single features do, drawn ones and those of highest influence, and what some do together, in logits."""

    feature: Int[Tensor, " n"]
    site: Int[Tensor, " n"]
    """number of the layer and position from which a feature was drawn; -1 for those of highest influence"""
    predicted: dict[str, Float[Tensor, " n"]]
    """`PREDICTIONS`: influence on the logits; size of the edge into the likeliest token's logit, without any path
    through other features; length of what is written; that times the length of the gradient there, without the angle;
    size of the first-order estimate in the model itself"""
    change: Float[Tensor, " n"]
    """fall of the likeliest token's logit without the feature"""
    fall: float
    """without the most influential ones"""
    fall_matched: float
    """without as many others that write about as much"""

    def drawn(self, name: str) -> tuple[Float[np.ndarray, " drawn"], Float[np.ndarray, " drawn"]]:
        """A prediction and the size of the change, of drawn features."""
        return self.predicted[name][self.site >= 0].numpy(), self.change.abs()[self.site >= 0].numpy()

    def pooled(self, name: str) -> float:
        """Spearman of a prediction and the size of the change over all drawn features."""
        predicted, size = self.drawn(name)
        return spearman(predicted[None], size[None])[0]

    def within_sites(self, name: str) -> float:
        """Mean over sites of the Spearman over the features drawn there: where a feature is cannot help."""
        sites, (predicted, size) = self.site[self.site >= 0].numpy(), self.drawn(name)
        return float(np.mean([spearman(predicted[None, sites == at], size[None, sites == at])[0] for at in set(sites)]))

    def permuted(self, name: str, draws: int = 20) -> float:
        """`pooled` with the prediction permuted among the features of each site, mean over draws: only where a feature
        is can help."""
        sites, (predicted, size) = self.site[self.site >= 0].numpy(), self.drawn(name)
        draw, rows = np.random.default_rng(0), np.tile(predicted, (draws, 1))
        for at in set(sites):
            rows[:, sites == at] = draw.permuted(rows[:, sites == at], axis=1)
        return float(np.mean(spearman(rows, np.tile(size, (draws, 1)))))


def ablate(bridge: "TransformerBridge", graph: Graph, sites: int, each: int, seed: int) -> Ablated:
    """Ablates features drawn at random, `each` from a number of `sites`, and those of highest influence, one by one and
    together."""
    features, gradient = graph.features, margin_gradient(bridge, graph)
    influence = node_influence(graph.adjacency, graph.logit_weights())[: graph.n_features]
    top = strongest(graph, influence, TOGETHER)
    some, site = draw_features(graph, sites, each, seed)
    single = torch.cat([some, top])
    first_order, sizes = torch.zeros(len(features)), torch.zeros(len(features))
    for layer, (which, rows) in enumerate(features.writers):
        there = gradient[layer, features.pos[which]]
        first_order[which] += (rows * there).sum(1)
        sizes[which] += rows.norm(dim=1) * there.norm(dim=1)
    predicted = {
        "influence": influence,
        "direct_edge": graph.adjacency[graph.first_logit, : graph.n_features].abs(),
        "write_norm": features.write_norm(),
        "sizes_alone": sizes * features.activation.abs(),
        "gradient": (first_order * features.activation).abs(),
    }
    sets = [torch.tensor([], dtype=torch.long), top, matched(graph, top)]
    whole = answers(bridge, graph, [*sets, *single[:, None]])
    fall, fall_matched = (whole[0] - whole[1:3]).tolist()
    where = torch.cat([site, torch.full_like(top, -1)])
    return Ablated(
        single, where, {name: one[single] for name, one in predicted.items()}, whole[0] - whole[3:], fall, fall_matched
    )


def of_prompt(seeds: list[int], number: int) -> int:
    """The seed by which features of one prompt are drawn: other sites in every prompt, and on every seed of a run."""
    return 1000 * seeds[0] + number


def draw_features(graph: Graph, sites: int, each: int, seed: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Up to `each` features that can change the answer, of each of up to `sites` layers and positions, and the number
    of the site of each. Sites with fewer than three such features are left out."""
    features, able = graph.features, reaching(graph).nonzero()[:, 0]
    draw = torch.Generator().manual_seed(seed)
    where = torch.stack([features.layer, features.pos])[:, able]
    _, site, count = where.unique(dim=1, return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
    enough = (count >= LEAST).nonzero()[:, 0]
    pools = [able[site == at] for at in enough[torch.randperm(len(enough), generator=draw)[:sites]]]
    found = [pool[torch.randperm(len(pool), generator=draw)[:each]] for pool in pools]
    return torch.cat(found), torch.repeat_interleave(torch.tensor([len(one) for one in found]))


def ablations(graph: Graph, found: Ablated, seed: int) -> tuple[list[dict[str, Any]], dict[str, Metric]]:
    """One row a feature, and the metrics of one prompt, where features are the sample.

    `agreement` beside that of what features write; `fall` and `fall_matched`, numbers of one prompt, so without an
    interval.
    """
    features = graph.features
    rows = [
        {
            "layer": int(features.layer[one]), "pos": int(features.pos[one]), "latent": int(features.latent[one]),
            "influence": float(found.predicted["influence"][at]),
            "write_norm": float(found.predicted["write_norm"][at]),
            "change": float(found.change[at]), "drawn": bool(found.site[at] >= 0),
        }
        for at, one in enumerate(found.feature.tolist())
    ]  # fmt: skip
    falls = {
        "fall": (found.fall, f"the {TOGETHER} most influential"),
        "fall_matched": (found.fall_matched, "as many others that write about as much"),
    }
    metrics = {name: without_interval(value, 1, "logits", FALL.format(of)) for name, (value, of) in falls.items()}
    (influence, size), (wrote, _) = found.drawn("influence"), found.drawn("write_norm")
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
